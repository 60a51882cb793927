"""Training the embedder: in-context queries against passages."""
