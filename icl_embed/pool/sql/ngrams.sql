-- The sieve lets strangers pass; here every n-gram is compared.

CREATE OR REPLACE TEMP TABLE ngram_texts AS
SELECT DISTINCT text_id FROM sieved_ngrams WHERE ngram IN (SELECT ngram FROM evaluation_ngrams);
DROP TABLE sieved_ngrams;
DROP TABLE evaluation_ngrams;
DROP VIEW numbered_texts;
DROP TABLE incoming_texts;
DROP TABLE first_texts;
