-- The pairs numbered $first ... $last - 1: lists are made in memory, whatever the limit.
WITH chosen AS (
    SELECT p.*, number FROM export_pairs AS n JOIN pairs AS p USING (pair_id)
    WHERE number >= $first AND number < $last
),
given AS (
    SELECT dataset, row_id, list(shown(t.text) ORDER BY position) AS negatives, list(n.score ORDER BY position) AS scores,
           count(n.score) AS num_scores
    FROM negatives AS n JOIN texts AS t USING (text_id) WHERE reason IS NULL
          AND (dataset, row_id) IN (SELECT (dataset, row_id) FROM chosen)
    GROUP BY dataset, row_id
)
SELECT p.pair_id, p.dataset, s.kind, s.instruction, shown(q.text) AS query, shown(a.text) AS positive,
       coalesce(g.negatives, []::VARCHAR[]) AS negatives, p.label, shown(a.text) AS response, p.positive_score,
       CASE WHEN g.num_scores > 0 THEN g.scores END AS negative_scores, s.weight
FROM chosen AS p JOIN sources AS s USING (dataset)
JOIN texts AS q ON q.text_id = p.query_id JOIN texts AS a ON a.text_id = p.positive_id
LEFT JOIN given AS g ON g.dataset = p.dataset AND g.row_id = p.row_id
ORDER BY p.number
