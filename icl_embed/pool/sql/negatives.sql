-- Negatives that come with the data: listed in the row, or the other side of a low-scored pair of the same query.

INSERT INTO negatives
WITH query_positives AS (
    SELECT DISTINCT dataset, query_match, positive_match FROM judged WHERE is_positive AND positive_match IS NOT NULL
),
kept_rows AS (
    SELECT DISTINCT j.dataset, j.row_id, j.query_match, j.kind
    FROM judged AS j JOIN pairs AS p USING (pair_id) WHERE p.reason IS NULL AND p.is_positive
),
listed AS (
    SELECT k.*, unnest(r.negative_ids) AS text_id, generate_subscripts(r.negative_ids, 1) - 1 AS position,
           r.negative_scores[position + 1] AS score, 'source' AS origin
    FROM kept_rows AS k JOIN incoming_rows AS r USING (dataset, row_id)
    WHERE k.kind <> 'clustering' -- whose given negatives are texts, and the positive a label
),
scored AS (
    SELECT k.*, o.positive_id AS text_id, 1000000 + row_number() OVER (
        PARTITION BY k.dataset, k.row_id ORDER BY o.row_id, o.position
    ) AS position, NULL::DOUBLE AS score, 'scored_pair' AS origin
    FROM kept_rows AS k
    JOIN judged AS j ON j.dataset = k.dataset AND j.query_match = k.query_match AND j.row_id <> k.row_id
    JOIN pairs AS o ON o.pair_id = j.pair_id
    JOIN scales AS c ON c.dataset = k.dataset
    WHERE has_scores(k.kind) AND o.reason IS NULL AND o.score <= $negative_share * c.top
),
given AS (FROM listed UNION ALL FROM scored)
SELECT g.dataset, g.row_id, g.position, g.text_id, g.score, g.origin, CASE
    WHEN t.num_characters = 0 THEN 'empty'
    WHEN t.num_characters > $max_characters THEN 'too_long'
    WHEN t.match_id = g.query_match THEN 'equals_query'
    WHEN q.positive_match IS NOT NULL THEN 'equals_positive'
    WHEN t.match_id IN (FROM evaluated_matches) THEN 'evaluated_exact'
    WHEN g.text_id IN (FROM ngram_texts) THEN 'evaluated_ngram'
    WHEN row_number() OVER (PARTITION BY g.dataset, g.row_id, t.match_id ORDER BY g.position) > 1 THEN 'repeated'
END
FROM given AS g JOIN texts AS t USING (text_id)
LEFT JOIN query_positives AS q
    ON q.dataset = g.dataset AND q.query_match = g.query_match AND q.positive_match = t.match_id
ORDER BY g.dataset, g.row_id, g.position;
