"""Sources: cards that declare data sets, and the verified files they name."""

from icl_embed.sources.card import Card, load_card, load_catalog
from icl_embed.sources.collection import Collection, load_collections

__all__ = ["Card", "Collection", "load_card", "load_catalog", "load_collections"]
