from tests.icl_embed.rerank.conftest import folders, make_reranker, reference, reranker

__all__ = ["folders", "make_reranker", "reference", "reranker"]
