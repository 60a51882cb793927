-- One page of texts (Arrow tables page_facts, page_ngrams).

INSERT INTO texts
SELECT n.text_id, n.text, id_of(f.match_key), f.num_words, length(n.text)
FROM page_facts AS f JOIN numbered_texts AS n USING (number)
ORDER BY number;

INSERT INTO evaluation_ngrams
SELECT DISTINCT g.ngram FROM page_ngrams AS g JOIN numbered_texts AS n USING (number) WHERE n.evaluated;

INSERT INTO ngram_texts
SELECT DISTINCT n.text_id
FROM page_ngrams AS g JOIN evaluation_ngrams AS e USING (ngram) JOIN numbered_texts AS n USING (number);
