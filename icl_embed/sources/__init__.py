"""Sources: cards that declare data sets, and the verified files they name."""

from icl_embed.sources.card import Card, load_card, load_catalog

__all__ = ["Card", "load_card", "load_catalog"]
