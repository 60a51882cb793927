-- One page of texts (Arrow tables page_facts, and page_ngrams: those that an evaluated text may have).

INSERT INTO texts SELECT text_id, text, id_of(match_key), num_words, length(text) FROM page_facts;
INSERT INTO sieved_ngrams SELECT text_id, ngram FROM page_ngrams;
