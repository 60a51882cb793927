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

-- Texts are worked through in pages of consecutive numbers, evaluated ones first: the n-grams of the others are
-- looked up among theirs.
CREATE OR REPLACE TEMP TABLE numbered_texts AS
SELECT row_number() OVER (ORDER BY evaluated DESC, text_id) - 1 AS number, text_id, text, evaluated
FROM (
    SELECT text_id, any_value(text) AS text, text_id IN (SELECT text_id FROM evaluation_texts) AS evaluated
    FROM incoming_texts GROUP BY text_id
)
ORDER BY number;
DROP TABLE incoming_texts;
