"""How good and how costly every way to rerank is, and which one to take."""
