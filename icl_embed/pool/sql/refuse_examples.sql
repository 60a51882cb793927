-- Arrow table found: pair_id of candidates that nearly repeat an evaluated text. Ranks close up again; who is
-- beyond the limit was a spare candidate and goes.

UPDATE examples SET reason = 'evaluated_near_duplicate' FROM found WHERE found.pair_id = examples.pair_id;

CREATE OR REPLACE TEMP TABLE ranks AS
SELECT pair_id, row_number() OVER (PARTITION BY dataset ORDER BY rank) - 1 AS new_rank
FROM examples WHERE reason IS NULL;
UPDATE examples SET rank = new_rank FROM ranks WHERE ranks.pair_id = examples.pair_id;
DELETE FROM examples WHERE reason IS NULL AND rank >= $max_examples;
