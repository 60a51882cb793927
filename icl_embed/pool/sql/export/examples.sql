SELECT e.dataset, s.kind, s.instruction, shown(q.text) AS query, shown(a.text) AS response, p.label, e.rank
FROM examples AS e JOIN pairs AS p USING (pair_id) JOIN sources AS s ON s.dataset = e.dataset
JOIN texts AS q ON q.text_id = p.query_id JOIN texts AS a ON a.text_id = p.positive_id
WHERE e.reason IS NULL
ORDER BY e.dataset, e.rank
