-- One batch of a data set's rows (Arrow table incoming_batch).

INSERT INTO incoming_rows
SELECT $dataset, row_id, split, id_of(query),
       list_transform(positives, lambda t: id_of(t)), list_transform(negatives, lambda t: id_of(t)),
       nullif(label, ''), score, positive_scores, negative_scores
FROM incoming_batch;

INSERT INTO incoming_texts
SELECT id_of(t), t
FROM (
    SELECT query AS t FROM incoming_batch
    UNION SELECT unnest(positives) FROM incoming_batch
    UNION SELECT unnest(negatives) FROM incoming_batch
    UNION SELECT label FROM incoming_batch WHERE $has_labels
);
