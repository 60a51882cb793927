-- Units that share a bucket with another one, numbered anew, and the buckets that they share.

CREATE OR REPLACE TEMP TABLE suspect_buckets AS
SELECT number, bucket FROM unit_buckets
WHERE bucket IN (SELECT bucket FROM unit_buckets GROUP BY bucket HAVING count(*) > 1);
DROP TABLE unit_buckets;

CREATE OR REPLACE TEMP TABLE suspects AS
SELECT row_number() OVER (ORDER BY number) - 1 AS number, text
FROM unit_texts WHERE number IN (SELECT number FROM suspect_buckets)
ORDER BY number;
DROP TABLE unit_texts;
