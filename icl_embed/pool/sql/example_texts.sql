SELECT e.pair_id || side.name AS name, t.text
FROM examples AS e JOIN pairs AS p USING (pair_id) JOIN sources AS s ON s.dataset = e.dataset
CROSS JOIN (VALUES ('#query'), ('#response')) AS side (name)
JOIN texts AS t ON t.text_id = CASE side.name WHEN '#query' THEN p.query_id ELSE p.positive_id END
WHERE e.reason IS NULL AND (side.name = '#query' OR NOT has_labels(s.kind))
ORDER BY name;
