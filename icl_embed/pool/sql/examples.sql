-- Candidate examples in order of preference: one pair per query, by hash, round-robin over labels. Both sides must
-- be short enough to read in a prompt. The pool's own rejections keep evaluated text out; near-duplicates of it are
-- looked for next, so there are more candidates than places.

INSERT INTO examples
WITH eligible AS (
    SELECT j.dataset, j.pair_id, greatest(j.query_words, j.positive_words) > $max_words AS is_long,
           CASE WHEN has_labels(j.kind) THEN j.positive_match END AS class,
           sha256($seed || ':' || j.pair_id) AS draw
    FROM judged AS j JOIN pairs AS p USING (pair_id)
    WHERE p.reason IS NULL AND p.is_positive
    QUALIFY row_number() OVER (PARTITION BY j.dataset, j.query_match ORDER BY j.row_id, j.position) = 1
),
in_class AS (
    SELECT *, row_number() OVER (PARTITION BY dataset, class, is_long ORDER BY draw) AS turn FROM eligible
),
ranked AS (
    SELECT *, row_number() OVER (
        PARTITION BY dataset, is_long ORDER BY turn, sha256($seed || ':' || coalesce(class, '')), draw
    ) - 1 AS rank
    FROM in_class
)
SELECT dataset, rank, pair_id, CASE WHEN is_long THEN 'too_long' END
FROM ranked WHERE is_long OR rank < $num_candidates
ORDER BY dataset, is_long, rank;
