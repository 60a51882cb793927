WITH given AS (
    SELECT dataset, row_id, list(shown(t.text) ORDER BY position) AS negatives, list(n.score ORDER BY position) AS scores,
           count(n.score) AS num_scores
    FROM negatives AS n JOIN texts AS t USING (text_id) WHERE reason IS NULL
    GROUP BY dataset, row_id
)
SELECT p.pair_id, p.dataset, s.kind, s.instruction, shown(q.text) AS query, shown(a.text) AS positive,
       coalesce(g.negatives, []::VARCHAR[]) AS negatives, p.label, shown(a.text) AS response, p.positive_score,
       CASE WHEN g.num_scores > 0 THEN g.scores END AS negative_scores, s.weight
FROM pairs AS p JOIN sources AS s USING (dataset)
JOIN texts AS q ON q.text_id = p.query_id JOIN texts AS a ON a.text_id = p.positive_id
LEFT JOIN given AS g ON g.dataset = p.dataset AND g.row_id = p.row_id
WHERE p.reason IS NULL AND p.is_positive AND s.trained
ORDER BY p.dataset, p.row_id, p.position
