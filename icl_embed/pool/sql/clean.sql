-- Reasons that a pair carries in itself, then those that it shares with evaluated text. The first one counts.

CREATE OR REPLACE TEMP TABLE evaluated_matches AS
SELECT DISTINCT match_id FROM evaluation_texts JOIN texts USING (text_id);

CREATE OR REPLACE TEMP TABLE judged AS
SELECT p.pair_id, p.dataset, p.row_id, p.position, s.kind, p.label, p.score, p.is_positive,
       q.match_id AS query_match, a.match_id AS positive_match,
       q.num_words AS query_words, a.num_words AS positive_words,
       q.num_characters AS query_characters, coalesce(a.num_characters, 0) AS positive_characters,
       q.num_characters < $min_characters AND q.num_characters + syllables(q.text) < $min_characters AS is_short,
       q.match_id IN (FROM evaluated_matches)
           OR (NOT has_labels(s.kind) AND coalesce(a.match_id IN (FROM evaluated_matches), FALSE)) AS evaluated_exact,
       p.query_id IN (FROM ngram_texts)
           OR (NOT has_labels(s.kind) AND coalesce(p.positive_id IN (FROM ngram_texts), FALSE)) AS evaluated_ngram,
       q.num_words < $ngram AND (has_labels(s.kind) OR coalesce(a.num_words < $ngram, TRUE)) AS exact_only
FROM pairs AS p JOIN sources AS s USING (dataset)
JOIN texts AS q ON q.text_id = p.query_id
LEFT JOIN texts AS a ON a.text_id = p.positive_id;

UPDATE pairs SET reason = CASE
    WHEN query_characters = 0 THEN 'empty_query'
    WHEN has_labels(kind) AND positive_characters = 0 THEN 'label_missing'
    WHEN positive_characters = 0 THEN 'positive_missing'
    WHEN has_scores(kind) AND NOT coalesce(isfinite(pairs.score), FALSE) THEN 'score_missing'
    WHEN is_short THEN 'too_short'
    WHEN greatest(query_characters, positive_characters) > $max_characters THEN 'too_long'
    WHEN query_match = positive_match THEN 'positive_equals_query'
    WHEN evaluated_exact THEN 'evaluated_exact'
    WHEN evaluated_ngram THEN 'evaluated_ngram'
END
FROM judged WHERE judged.pair_id = pairs.pair_id;
