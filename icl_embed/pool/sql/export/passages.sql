-- A long positive is cut like its passage, but may be another spelling of it: each must be among the passages.
SELECT DISTINCT ON (dataset, text_id) dataset, shown(text) AS passage FROM (
    SELECT n.dataset, t.text_id, t.text
    FROM passages AS n JOIN texts AS t USING (text_id)
    WHERE n.reason IS NULL
    UNION ALL
    SELECT p.dataset, t.text_id, t.text
    FROM pairs AS p JOIN sources AS s USING (dataset) JOIN texts AS t ON t.text_id = p.positive_id
    WHERE p.reason IS NULL AND p.is_positive AND s.trained AND shown(t.text) <> t.text
)
ORDER BY dataset, text_id
