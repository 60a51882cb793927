-- Every pair, and after it a row for each of its negatives: the database would hold lists of texts in memory whatever
-- its limit, but what it sorts it can spill. Position -1 is the pair itself.
WITH kept AS (
    SELECT number, p.* FROM export_pairs JOIN pairs AS p USING (pair_id)
)
SELECT number, -1 AS position, p.pair_id, p.dataset, shown(q.text) AS query, shown(a.text) AS text, p.label,
       p.positive_score AS score
FROM kept AS p JOIN texts AS q ON q.text_id = p.query_id JOIN texts AS a ON a.text_id = p.positive_id
UNION ALL
SELECT number, n.position, NULL, NULL, NULL, shown(t.text), NULL, n.score
FROM kept JOIN negatives AS n USING (dataset, row_id) JOIN texts AS t USING (text_id)
WHERE n.reason IS NULL
ORDER BY number, position
