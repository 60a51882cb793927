-- One batch of a data set's corpus (Arrow table incoming_batch).

INSERT INTO incoming_passages SELECT $dataset, split, id_of(text) FROM incoming_batch;
INSERT INTO incoming_texts
SELECT DISTINCT id_of(text), text FROM incoming_batch;
