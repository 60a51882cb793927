-- Pairs of texts that the data calls related, kept or not: a negative miner must never take one for the other.
-- The positive of a repeated query belongs to the query that was kept in its place, too.
SELECT DISTINCT dataset, query, passage FROM (
    SELECT p.dataset, shown(q.text) AS query, shown(a.text) AS passage, p.reason
    FROM pairs AS p JOIN sources AS s USING (dataset)
    JOIN texts AS q ON q.text_id = p.query_id JOIN texts AS a ON a.text_id = p.positive_id
    WHERE s.trained AND s.kind NOT IN ('classification', 'clustering')
    UNION ALL
    SELECT p.dataset, shown(q.text), shown(a.text), p.reason
    FROM pairs AS p JOIN sources AS s USING (dataset) JOIN pairs AS kept ON kept.pair_id = p.duplicate_of
    JOIN texts AS q ON q.text_id = kept.query_id JOIN texts AS a ON a.text_id = p.positive_id
    WHERE s.trained AND s.kind NOT IN ('classification', 'clustering')
)
WHERE coalesce(reason, '') NOT IN ('evaluated_exact', 'evaluated_ngram')
ORDER BY ALL
