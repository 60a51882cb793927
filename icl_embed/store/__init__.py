"""The store: one verified folder per artefact, published atomically, named by its fingerprint."""

from icl_embed.store.artefact import Artefact, Store
from icl_embed.store.key import StageKey

__all__ = ["Artefact", "StageKey", "Store"]
