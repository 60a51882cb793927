-- Arrow table found: a unit's number and that of a kept unit which it nearly repeats. All pairs of the unit go.

UPDATE pairs SET reason = 'near_duplicate', duplicate_of = kept_id
FROM (
    SELECT i.pair_id, f.kept_id
    FROM (
        SELECT u.dataset, u.unit, min(k.pair_id) AS kept_id
        FROM found AS f JOIN numbered_units AS u USING (number) JOIN numbered_units AS k ON k.number = f.kept
        GROUP BY ALL
    ) AS f
    JOIN identities AS i ON i.dataset = f.dataset AND i.unit = f.unit
) AS repeats
WHERE repeats.pair_id = pairs.pair_id AND pairs.reason IS NULL AND pairs.is_positive;
