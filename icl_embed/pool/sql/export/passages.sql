-- A long positive is cut like its passage, but may be another spelling of it: each must be among the passages.
SELECT dataset, shown(text) AS passage FROM (
    SELECT dataset, text_id FROM passages WHERE reason IS NULL
    UNION
    SELECT p.dataset, t.text_id
    FROM pairs AS p JOIN sources AS s USING (dataset) JOIN texts AS t ON t.text_id = p.positive_id
    WHERE p.reason IS NULL AND p.is_positive AND s.trained AND shown(t.text) <> t.text
) AS chosen JOIN texts USING (text_id)
ORDER BY dataset, text_id
