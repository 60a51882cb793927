"""From text to vector: the backbone, pooling, adapters, and the embedder that users hold."""
