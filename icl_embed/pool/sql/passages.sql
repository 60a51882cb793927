-- Candidates for mining, one per match key: the training side of the corpus, all sides of training pairs, and
-- label texts. Evaluated text is no candidate: a model that is pushed away from it has seen it too.

INSERT INTO passages
WITH used AS (
    SELECT dataset, text_id FROM incoming_passages WHERE split IN ('train', 'all')
    UNION ALL
    SELECT dataset, positive_id FROM pairs WHERE positive_id IS NOT NULL
    UNION ALL
    SELECT p.dataset, p.query_id FROM pairs AS p JOIN sources AS s USING (dataset) WHERE has_scores(s.kind)
    UNION ALL
    SELECT r.dataset, unnest(r.negative_ids) FROM incoming_rows AS r JOIN sources AS s USING (dataset)
    WHERE r.split = 'train' AND s.kind IN ('retrieval', 'reranking')
),
distinct_texts AS (
    SELECT dataset, match_id, min(text_id) AS text_id
    FROM used JOIN texts USING (text_id) JOIN sources AS s USING (dataset) WHERE s.trained
    GROUP BY dataset, match_id
)
SELECT d.dataset, d.text_id, CASE
    WHEN t.num_characters = 0 THEN 'empty'
    WHEN t.num_characters > $max_characters THEN 'too_long'
    WHEN has_labels(s.kind) THEN NULL
    WHEN t.match_id IN (FROM evaluated_matches) THEN 'evaluated_exact'
    WHEN t.text_id IN (FROM ngram_texts) THEN 'evaluated_ngram'
END
FROM distinct_texts AS d JOIN texts AS t USING (text_id) JOIN sources AS s USING (dataset)
ORDER BY d.dataset, d.text_id;
