-- The pool's tables. Texts are stored once and referred to by text_id everywhere. They are not compressed: that would
-- halve their place, for a tenth more of the time that a pool takes to build.

CREATE OR REPLACE TABLE sources (
    dataset VARCHAR NOT NULL, kind VARCHAR NOT NULL, instruction VARCHAR NOT NULL, trained BOOLEAN NOT NULL,
    fingerprint VARCHAR NOT NULL, num_pairs BIGINT, weight DOUBLE
);
COMMENT ON TABLE sources IS 'One row per data set.';
COMMENT ON COLUMN sources.dataset IS 'Name of the data set''s card.';
COMMENT ON COLUMN sources.kind IS 'retrieval, reranking, classification, clustering, sts or pair_classification.';
COMMENT ON COLUMN sources.instruction IS 'The sentence that tells the model what the task is.';
COMMENT ON COLUMN sources.trained IS 'False: evaluated only; its training split gives examples, never training pairs.';
COMMENT ON COLUMN sources.fingerprint IS 'Fingerprint of the data set artefact the rows came from.';
COMMENT ON COLUMN sources.num_pairs IS 'Training pairs that were kept.';
COMMENT ON COLUMN sources.weight IS 'Probability of drawing this data set: num_pairs ** temperature, normalised; null if not trained.';

CREATE OR REPLACE TABLE texts (
    text_id VARCHAR USING COMPRESSION uncompressed NOT NULL,
    text VARCHAR USING COMPRESSION uncompressed NOT NULL,
    match_id VARCHAR USING COMPRESSION uncompressed NOT NULL,
    num_words INTEGER NOT NULL, num_characters INTEGER NOT NULL
);
COMMENT ON TABLE texts IS 'Every distinct text, in its stored form (NFC, no control characters).';
COMMENT ON COLUMN texts.text_id IS 'First 64 bits of the sha256 of the text, 16 hex digits.';
COMMENT ON COLUMN texts.text IS 'The text.';
COMMENT ON COLUMN texts.match_id IS 'Same hash of the match key: equal for texts that differ in case or white space only.';
COMMENT ON COLUMN texts.num_words IS 'Runs of letters, marks and digits.';
COMMENT ON COLUMN texts.num_characters IS 'Unicode code points.';

CREATE OR REPLACE TABLE splits (dataset VARCHAR NOT NULL, row_id VARCHAR NOT NULL, split VARCHAR NOT NULL);
COMMENT ON TABLE splits IS 'Which split each source row belongs to.';
COMMENT ON COLUMN splits.dataset IS 'Name of the data set.';
COMMENT ON COLUMN splits.row_id IS 'Row of the data set artefact.';
COMMENT ON COLUMN splits.split IS 'train, dev or test.';

CREATE OR REPLACE TABLE evaluation_texts (
    dataset VARCHAR NOT NULL, split VARCHAR NOT NULL, role VARCHAR NOT NULL, text_id VARCHAR NOT NULL
);
COMMENT ON TABLE evaluation_texts IS 'Every text that any evaluation looks at; none of them may be trained on or shown.';
COMMENT ON COLUMN evaluation_texts.dataset IS 'Data set whose evaluation uses the text.';
COMMENT ON COLUMN evaluation_texts.split IS 'dev, test, or all (the positives of a corpus that splits share).';
COMMENT ON COLUMN evaluation_texts.role IS 'query, positive, negative or passage.';
COMMENT ON COLUMN evaluation_texts.text_id IS 'The text.';

CREATE OR REPLACE TABLE pairs (
    pair_id VARCHAR NOT NULL, dataset VARCHAR NOT NULL, row_id VARCHAR NOT NULL, position INTEGER NOT NULL,
    query_id VARCHAR NOT NULL, positive_id VARCHAR, label VARCHAR, score DOUBLE, positive_score DOUBLE,
    is_positive BOOLEAN NOT NULL, reason VARCHAR, duplicate_of VARCHAR
);
COMMENT ON TABLE pairs IS 'One row per (query, positive) of the training splits, kept and rejected.';
COMMENT ON COLUMN pairs.pair_id IS 'dataset/row_id/position.';
COMMENT ON COLUMN pairs.dataset IS 'Name of the data set.';
COMMENT ON COLUMN pairs.row_id IS 'Row of the data set artefact.';
COMMENT ON COLUMN pairs.position IS 'Index of the positive in its row.';
COMMENT ON COLUMN pairs.query_id IS 'Text of the query.';
COMMENT ON COLUMN pairs.positive_id IS 'Text of the positive: passage, label text or similar text; it is also the response of an example.';
COMMENT ON COLUMN pairs.label IS 'Label text, if the data set has labels.';
COMMENT ON COLUMN pairs.score IS 'Gold similarity of sts and pair_classification rows.';
COMMENT ON COLUMN pairs.positive_score IS 'Score that a teacher gave to the positive.';
COMMENT ON COLUMN pairs.is_positive IS 'False: an sts or pair_classification row whose score makes it no positive.';
COMMENT ON COLUMN pairs.reason IS 'Why the pair was rejected; null if it was kept.';
COMMENT ON COLUMN pairs.duplicate_of IS 'For duplicates: the pair that was kept in its place.';

CREATE OR REPLACE TABLE negatives (
    dataset VARCHAR NOT NULL, row_id VARCHAR NOT NULL, position INTEGER NOT NULL, text_id VARCHAR NOT NULL,
    score DOUBLE, origin VARCHAR NOT NULL, reason VARCHAR
);
COMMENT ON TABLE negatives IS 'Negatives that the sources give, kept and rejected. Mined ones are an artefact of their own.';
COMMENT ON COLUMN negatives.dataset IS 'Name of the data set.';
COMMENT ON COLUMN negatives.row_id IS 'Row whose query the negative belongs to.';
COMMENT ON COLUMN negatives.position IS 'Order within the row.';
COMMENT ON COLUMN negatives.text_id IS 'Text of the negative.';
COMMENT ON COLUMN negatives.score IS 'Score that a teacher gave to it.';
COMMENT ON COLUMN negatives.origin IS 'source (listed in the row) or scored_pair (a low-scored partner of the same query).';
COMMENT ON COLUMN negatives.reason IS 'Why it was rejected; null if it was kept.';

CREATE OR REPLACE TABLE passages (dataset VARCHAR NOT NULL, text_id VARCHAR NOT NULL, reason VARCHAR);
COMMENT ON TABLE passages IS 'Training-side passages of trained data sets: the candidates of negative mining.';
COMMENT ON COLUMN passages.dataset IS 'Name of the data set.';
COMMENT ON COLUMN passages.text_id IS 'Text of the passage.';
COMMENT ON COLUMN passages.reason IS 'Why it was rejected; null if it was kept.';

CREATE OR REPLACE TABLE examples (
    dataset VARCHAR NOT NULL, rank INTEGER NOT NULL, pair_id VARCHAR NOT NULL, reason VARCHAR
);
COMMENT ON TABLE examples IS 'Pairs that may be shown in a prompt, and candidates that may not.';
COMMENT ON COLUMN examples.dataset IS 'Name of the data set.';
COMMENT ON COLUMN examples.rank IS 'Order of preference from 0: by hash, round-robin over labels.';
COMMENT ON COLUMN examples.pair_id IS 'The pair whose query and positive are shown.';
COMMENT ON COLUMN examples.reason IS 'Why the candidate is not eligible; null if it is.';

CREATE OR REPLACE TABLE lineage (table_name VARCHAR NOT NULL, num_rows BIGINT NOT NULL, content_hash VARCHAR NOT NULL);
COMMENT ON TABLE lineage IS 'What each table held when the build ended; compared on every open.';
COMMENT ON COLUMN lineage.table_name IS 'Name of a table of this file.';
COMMENT ON COLUMN lineage.num_rows IS 'Rows it had.';
COMMENT ON COLUMN lineage.content_hash IS 'Exclusive or of the md5 of all rows: independent of their order.';
