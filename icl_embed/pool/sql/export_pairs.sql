-- Training pairs in the order of their export.

CREATE OR REPLACE TEMP TABLE export_pairs AS
SELECT pair_id, row_number() OVER (ORDER BY p.dataset, p.row_id, p.position) - 1 AS number
FROM pairs AS p JOIN sources AS s USING (dataset)
WHERE p.reason IS NULL AND p.is_positive AND s.trained
ORDER BY number;
