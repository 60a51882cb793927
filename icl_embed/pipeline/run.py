"""One run: a resolved config, its store, its cards, and the keys of everything it will make."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from icl_embed.config import RunConfig
from icl_embed.config.load import find_preset, load_config
from icl_embed.errors import ConfigError
from icl_embed.pipeline.keys import PipelineKeys, pipeline_keys
from icl_embed.pipeline.stages.base_model import refuse_unfit
from icl_embed.sources.card import Card, load_catalog
from icl_embed.sources.collection import Collection, CollectionCard, chosen, load_collections
from icl_embed.sources.collection_index import cards_of
from icl_embed.store import Artefact, StageKey, Store


@dataclass(frozen=True)
class Run:
    """Everything a stage may need besides its key."""

    config: RunConfig
    catalog: dict[str, Card]
    preset: str = "demo"
    overrides: tuple[str, ...] = ()
    folders: Mapping[str, Path] = field(default_factory=dict)  # models of the user's own, by fingerprint

    @property
    def options(self) -> str:
        """What a shell command needs to mean this run: the preset as it was asked for, and the overrides."""
        settings = (f"--set {shlex.quote(override)}" for override in self.overrides)
        return " ".join((f"--preset {shlex.quote(self.preset)}", *settings))

    @cached_property
    def store(self) -> Store:
        """The store of this run."""
        return Store(self.config.paths.store)

    @cached_property
    def keys(self) -> PipelineKeys:
        """The keys of every stage; raises an error if the base model cannot do what the run asks of it."""
        refuse_unfit(self.config)
        return pipeline_keys(self.config, self.catalog)

    def artefact(self, key: StageKey) -> Artefact:
        """A built artefact, verified."""
        return self.store.get(key.stage, key.fingerprint)

    def input(self, key: StageKey, role: str) -> Artefact:
        """The artefact that plays ``role`` among a key's inputs, verified."""
        stage, _, fingerprint = key.inputs[role].partition("/")
        return self.store.get(stage, fingerprint)

    def card(self, name: str) -> Card:
        """A card by name.

        Raises
            ConfigError: there is no such card; the nearest names are suggested.
        """
        return find_card(self.catalog, name)


def open_run(preset: str = "demo", overrides: Sequence[str] = ()) -> Run:
    """Read a preset (a name from icl_embed/config/presets, or a TOML file) with overrides, and the catalog.

    Raises
        ConfigError: unknown preset, invalid value, invalid card, or a card the config names does not exist.
    """
    config = load_config(find_preset(preset), overrides)
    catalog = load_catalog([config.paths.catalog])
    collections = load_collections([config.paths.catalog])
    data = {
        part: tuple(find_data_sets(getattr(config.data, part), catalog, collections, config.paths.downloads))
        for part in ("train", "evaluate")
    }
    refuse_training_sets([catalog[name] for name in data["evaluate"]])
    config = config.model_copy(update={"data": config.data.model_copy(update=data)})
    return Run(config, catalog, preset, tuple(overrides))


def find_data_sets(
    names: Sequence[str], catalog: dict[str, Card], collections: Mapping[str, Collection], downloads: Path
) -> dict[str, Card]:
    """The cards that names mean, in order; those of collections are added to the catalog.

    ``bge-full-data`` means all its splits, ``bge-full-data/fever`` one, ``bge-full-data/*_title`` some.

    Raises
        ConfigError: there is no such card or split.
        SourceError: what a collection holds cannot be read.
    """
    found: dict[str, Card] = {}
    for name in names:
        collection, _, pattern = name.partition("/")
        if collection not in collections or name in catalog:
            found[name] = find_card(catalog, name, collections)
            continue
        cards = cards_of(collections[collection], downloads)
        found |= {one: cards[one] for one in chosen(collection, pattern or "*", cards)}
    catalog.update(found)
    return found


def refuse_training_sets(evaluated: Iterable[Card]) -> None:
    """See that nothing is evaluated on what has training rows only.

    Raises
        ConfigError: something is.
    """
    for card in evaluated:
        if isinstance(card, CollectionCard):
            raise ConfigError(
                f"data.evaluate names {card.name}: the rows of a collection are all for training; "
                "evaluate on cards with a test split, or on MTEB's and AIR-Bench's tasks (evaluate.tasks)"
            )


def find_card(catalog: Mapping[str, Card], name: str, collections: Iterable[str] = ()) -> Card:
    """A card by name, or an error that suggests near names, those of collections among them."""
    if name in catalog:
        return catalog[name]
    near = difflib.get_close_matches(name, [*catalog, *collections], n=3)
    hint = (
        f"did you mean {' or '.join(near)}?"
        if near
        else f"known are {', '.join(sorted([*catalog, *collections]))}"
    )
    raise ConfigError(f"there is no data card {name!r}; {hint}")
