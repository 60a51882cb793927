-- Arrow table found: pair_id of a unit's first pair, kept_id of the unit it repeats. All pairs of the unit go.

UPDATE pairs SET reason = 'near_duplicate', duplicate_of = kept_id
FROM (
    SELECT i.pair_id, f.kept_id
    FROM found AS f JOIN units AS u USING (pair_id)
    JOIN identities AS i ON i.dataset = u.dataset AND i.unit = u.unit
) AS repeats
WHERE repeats.pair_id = pairs.pair_id AND pairs.reason IS NULL AND pairs.is_positive;
