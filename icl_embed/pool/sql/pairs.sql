-- Training rows become (query, positive) pairs. For label kinds the positive is the label text.

CREATE OR REPLACE TEMP TABLE scales AS
SELECT dataset, max(score) AS top FROM incoming_rows WHERE split = 'train' AND isfinite(score) GROUP BY dataset;

INSERT INTO pairs
WITH targets AS (
    SELECT r.*, s.kind, CASE
        WHEN has_labels(s.kind) THEN [id_of(label)]
        WHEN len(positive_ids) = 0 THEN [NULL]
        ELSE positive_ids
    END AS target_ids
    FROM incoming_rows AS r JOIN sources AS s USING (dataset)
    WHERE split = 'train'
),
exploded AS (
    SELECT *, unnest(target_ids) AS positive_id, generate_subscripts(target_ids, 1) - 1 AS position FROM targets
)
SELECT dataset || '/' || row_id || '/' || position, dataset, row_id, position, query_id, positive_id,
       label, score, positive_scores[position + 1],
       CASE kind
           WHEN 'sts' THEN coalesce(isfinite(score) AND score >= $positive_share * top, FALSE)
           WHEN 'pair_classification' THEN coalesce(score = 1, FALSE)
           ELSE TRUE
       END, NULL, NULL
FROM exploded LEFT JOIN scales USING (dataset)
ORDER BY dataset, row_id, position;
