-- One batch of a data set's corpus (Arrow table incoming_batch).

INSERT INTO incoming_passages SELECT $dataset, split, id_of(text) FROM incoming_batch;
INSERT INTO incoming_texts
SELECT nextval('text_numbers'), * FROM (SELECT DISTINCT id_of(text), text FROM incoming_batch);
