SELECT u.pair_id, q.text || CASE WHEN has_scores(s.kind) THEN ' ' || a.text ELSE '' END AS text
FROM units AS u JOIN sources AS s USING (dataset) JOIN pairs AS p USING (pair_id)
JOIN texts AS q ON q.text_id = p.query_id JOIN texts AS a ON a.text_id = p.positive_id
WHERE u.dataset = $dataset
ORDER BY first_seen;
