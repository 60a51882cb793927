"""Training the reranker: a positive before its negatives at every head, and what deeper passes know."""
