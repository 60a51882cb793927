-- What any evaluation looks at. Of a corpus that all splits share, only the passages that answer a dev or test
-- query count: the others are shared on purpose, and say nothing about the answers.

INSERT INTO splits SELECT dataset, row_id, split FROM incoming_rows ORDER BY ALL;

INSERT INTO evaluation_texts
WITH evaluated AS (SELECT * FROM incoming_rows WHERE split IN ('dev', 'test'))
SELECT DISTINCT * FROM (
    SELECT dataset, split, 'query', query_id FROM evaluated
    UNION ALL SELECT dataset, split, 'positive', unnest(positive_ids) FROM evaluated
    UNION ALL SELECT dataset, split, 'negative', unnest(negative_ids) FROM evaluated
    UNION ALL SELECT dataset, split, 'passage', text_id FROM incoming_passages WHERE split IN ('dev', 'test')
) AS used (dataset, split, role, text_id)
WHERE text_id <> id_of('')
ORDER BY ALL;

-- Every distinct text where it came first: what is worked through, page by page. N-grams are looked up among those of
-- evaluated texts, so there is a table of these.
CREATE OR REPLACE TEMP TABLE first_texts AS
SELECT min(number) AS number, text_id FROM numbered_texts GROUP BY text_id ORDER BY number;

CREATE OR REPLACE TEMP TABLE evaluated_texts AS
SELECT row_number() OVER (ORDER BY number) - 1 AS number, text
FROM numbered_texts
WHERE number IN (SELECT number FROM first_texts WHERE text_id IN (SELECT text_id FROM evaluation_texts))
ORDER BY number;
