"""The lightweight reranker: score heads at several depths, and passages compressed to a chosen width."""
