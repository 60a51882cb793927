-- Scratch tables of a build, and the words it speaks. All of it is temporary.

CREATE OR REPLACE TEMP MACRO id_of(t) AS left(sha256(t), 16);
CREATE OR REPLACE TEMP MACRO has_labels(kind) AS kind IN ('classification', 'clustering');
-- Characters that stand for a syllable or a word: each says what two or three letters say.
CREATE OR REPLACE TEMP MACRO syllables(t) AS
    length(regexp_replace(t, '[^\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}]', '', 'g'));
CREATE OR REPLACE TEMP MACRO has_scores(kind) AS kind IN ('sts', 'pair_classification');

CREATE OR REPLACE TEMP TABLE incoming_rows (
    dataset VARCHAR, row_id VARCHAR, split VARCHAR, query_id VARCHAR, positive_ids VARCHAR[], negative_ids VARCHAR[],
    label VARCHAR, score DOUBLE, positive_scores DOUBLE[], negative_scores DOUBLE[]
);
CREATE OR REPLACE TEMP TABLE incoming_passages (dataset VARCHAR, split VARCHAR, text_id VARCHAR);
CREATE OR REPLACE TEMP TABLE incoming_texts (text_id VARCHAR, text VARCHAR);
CREATE OR REPLACE TEMP VIEW numbered_texts AS SELECT rowid AS number, text_id, text FROM incoming_texts;
CREATE OR REPLACE TEMP TABLE evaluation_ngrams (ngram UBIGINT);
CREATE OR REPLACE TEMP TABLE sieved_ngrams (text_id VARCHAR, ngram UBIGINT);
