-- What makes two pairs the same: for label kinds the query, for scored kinds both sides in any order, else query
-- and positive. unit is what near-duplicates are looked for among: all positives of one query belong together.

CREATE OR REPLACE TEMP TABLE identities AS
SELECT j.pair_id, j.dataset, j.row_id, j.position, j.is_positive,
       CASE
           WHEN has_labels(kind) THEN query_match
           WHEN has_scores(kind) THEN least(query_match, positive_match) || greatest(query_match, positive_match)
           ELSE query_match || positive_match
       END AS same,
       CASE WHEN has_scores(kind) THEN same ELSE query_match END AS unit,
       CASE
           WHEN has_labels(kind) THEN positive_match
           WHEN kind = 'pair_classification' THEN j.score::VARCHAR
       END AS verdict
FROM judged AS j JOIN pairs AS p USING (pair_id)
WHERE p.reason IS NULL;

-- The same text with two verdicts: we cannot know which is right, so none is kept.
UPDATE pairs SET reason = 'label_conflict'
FROM (
    SELECT pair_id FROM identities JOIN (
        SELECT dataset, same FROM identities GROUP BY dataset, same HAVING count(DISTINCT verdict) > 1
    ) USING (dataset, same)
) AS conflicting
WHERE conflicting.pair_id = pairs.pair_id;

UPDATE pairs SET reason = 'exact_duplicate', duplicate_of = first_id
FROM (
    SELECT pair_id, first_value(pair_id) OVER (
        PARTITION BY i.dataset, same ORDER BY i.row_id, i.position
    ) AS first_id
    FROM identities AS i JOIN pairs AS p USING (pair_id) WHERE p.reason IS NULL
) AS repeats
WHERE repeats.pair_id = pairs.pair_id AND first_id <> repeats.pair_id;

-- One line per unit, to be compared in the order of its first pair.
CREATE OR REPLACE TEMP TABLE units AS
SELECT i.dataset, unit, min_by(p.pair_id, (p.row_id, p.position)) AS pair_id,
       min((p.row_id, p.position)) AS first_seen
FROM identities AS i JOIN pairs AS p USING (pair_id)
WHERE p.reason IS NULL AND p.is_positive
GROUP BY i.dataset, unit;
