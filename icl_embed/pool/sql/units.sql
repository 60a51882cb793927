-- Units in the order they are compared in, data set by data set; place is the data set's.

CREATE OR REPLACE TEMP TABLE numbered_units AS
SELECT row_number() OVER (ORDER BY dataset, first_seen) - 1 AS number,
       dense_rank() OVER (ORDER BY dataset) AS place, dataset, unit, pair_id
FROM units;

CREATE OR REPLACE TEMP TABLE unit_texts AS
SELECT u.number, u.place, q.text || CASE WHEN has_scores(s.kind) THEN ' ' || a.text ELSE '' END AS text
FROM numbered_units AS u JOIN sources AS s USING (dataset) JOIN pairs AS p USING (pair_id)
JOIN texts AS q ON q.text_id = p.query_id JOIN texts AS a ON a.text_id = p.positive_id
ORDER BY u.number;

CREATE OR REPLACE TEMP TABLE unit_buckets (number BIGINT, bucket UBIGINT);
