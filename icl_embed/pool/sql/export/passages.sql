SELECT n.dataset, t.text AS passage
FROM passages AS n JOIN texts AS t USING (text_id)
WHERE n.reason IS NULL
ORDER BY n.dataset, n.text_id
