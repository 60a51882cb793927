-- Kept rows of one data set's train split; is_evaluated must be false for each of them. A label may be evaluated:
-- it is the name of a class, not a text of the test split.
WITH evaluated AS (SELECT DISTINCT text_id FROM evaluation_texts),
given AS (
    SELECT n.row_id, list(t.text ORDER BY n.position) AS texts
    FROM negatives AS n JOIN texts AS t USING (text_id)
    WHERE n.dataset = $1 AND n.reason IS NULL
    GROUP BY n.row_id
)
SELECT p.row_id, any_value(q.text), list(a.text ORDER BY p.position), coalesce(any_value(g.texts), []),
       any_value(p.score),
       bool_or(
           coalesce(s.split, '') <> 'train' OR p.query_id IN (FROM evaluated)
           OR (p.positive_id IN (FROM evaluated) AND o.kind NOT IN ('classification', 'clustering'))
       )
FROM pairs AS p
JOIN sources AS o USING (dataset)
LEFT JOIN splits AS s USING (dataset, row_id)
JOIN texts AS q ON q.text_id = p.query_id
JOIN texts AS a ON a.text_id = p.positive_id
LEFT JOIN given AS g USING (row_id)
WHERE p.dataset = $1 AND p.reason IS NULL
GROUP BY p.row_id
ORDER BY p.row_id
