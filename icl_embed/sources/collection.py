"""A collection: one card for a repository or folder whose *splits* are data sets.

``cfli/bge-full-data`` and its like hold shards ``data/SPLIT-00000-of-00003.parquet``; a folder of
FlagEmbedding's ``.jsonl`` files has the same form, a file a split. A row says itself what it is: ``type``
(kind of task) and ``prompt`` (instruction) beside ``query``, ``pos``, ``neg`` and, where there are such,
``category``, ``pos_scores`` and ``neg_scores``. A split becomes the data set ``COLLECTION/SPLIT``, whose rows
are all for training. Which splits there are is never typed by hand: ``collection_index`` reads it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from icl_embed.config import Kind
from icl_embed.errors import ConfigError, SourceError
from icl_embed.sources.card import COLLECTION, Card, CardName, load_folders, read_toml
from icl_embed.sources.card_errors import explain
from icl_embed.sources.card_rows import Splits
from icl_embed.sources.card_source import HubSource, LocalSource, Part, UnpinnedSource
from icl_embed.sources.fetched import plain_name

KINDS: Mapping[str, Kind] = {
    "normal": "retrieval",
    "only_1neg": "pair_classification",
    "symmetric_sts": "sts",
    "symmetric_class": "classification",
    "symmetric_clustering": "clustering",
}
"""What a row's ``type`` means; a row without one is ``normal``, as FlagEmbedding reads it."""

USUAL_TYPE = "normal"
SHARD_NAME = re.compile(r"(?P<split>.+)-(?P<number>\d{5})-of-(?P<total>\d{5})")
SHARD_ENDINGS = (".parquet", ".jsonl")


class Shard(Part):
    """One file of a split; ``num_rows`` is None where only reading all of it would tell."""

    name: str
    num_bytes: int = Field(ge=0)
    sha256: str = Field("", pattern=r"^([0-9a-f]{64})?$", description="empty: the hub does not say")
    num_rows: int | None = Field(None, ge=0)


class Split(Part):
    """What is known of a split before it is fetched; type and prompt are those of its first row."""

    shards: tuple[Shard, ...] = Field(min_length=1)
    type: str
    prompt: str


class CollectionCard(Card):
    """The data set of one split: an ordinary card for everybody, with what its rows must say.

    Attributes
        shards: its files in order.
        type: of all rows; None: the collection's card says the kind itself.
        prompt: of all rows; None: the collection's card says the instruction itself.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}/[A-Za-z0-9][\w.-]{0,127}$")
    source: HubSource | LocalSource
    shards: tuple[Shard, ...] = Field(exclude=True)
    type: str | None
    prompt: str | None

    @property
    def num_bytes(self) -> int:
        """Of all shards, as they are stored."""
        return sum(shard.num_bytes for shard in self.shards)

    @property
    def num_rows(self) -> int | None:
        """Of all shards, before any is rejected; None if only fetching would tell."""
        counts = [shard.num_rows for shard in self.shards]
        return None if None in counts else sum(count or 0 for count in counts)


class Collection(Part):
    """The card of a collection.

    The keys of ``kinds`` and ``instructions`` are names of splits, which must be there, or patterns of names
    (case does not matter), which may fit none.
    """

    name: CardName
    layout: Literal["collection"]
    title: str = Field(min_length=1)
    licence: str = Field(min_length=1, description="SPDX expression where there is one")
    homepage: str = Field(pattern=r"^(https?://\S+)?$")
    description: str = ""
    source: Annotated[HubSource | UnpinnedSource | LocalSource, Field(discriminator="kind")]
    kinds: dict[str, Kind] = Field({}, description="split → kind, where the rows' type does not decide it")
    instructions: dict[str, str] = Field({}, description="split → instruction, instead of the rows' prompt")
    max_shards: int | None = Field(None, ge=1, description="only the first n shards of every split")
    folder: Path = Field(Path(), exclude=True, description="where the card lies; set by load_collection")

    @property
    def local_path(self) -> Path:
        """The absolute path of a local source."""
        if not isinstance(self.source, LocalSource):
            raise TypeError(f"the source of {self.name} is not local")
        return (self.folder / self.source.path).resolve()

    def cards(self, splits: Mapping[str, Split]) -> dict[str, CollectionCard]:
        """The data sets by name.

        Raises
            ConfigError: a setting names a split that is not there, a split's type is unknown, or nothing says
                its instruction.
        """
        for setting, names in (("kinds", self.kinds), ("instructions", self.instructions)):
            for name in names:
                if not set(name) & set("*?[") and name not in splits:
                    raise ConfigError(f"{self.name}: {setting} names {name!r}: {_no_split(name, splits)}")
        return {f"{self.name}/{name}": self._card(name, split) for name, split in sorted(splits.items())}

    def _card(self, name: str, split: Split) -> CollectionCard:
        kind = _setting_of(name, self.kinds)
        instruction = _setting_of(name, self.instructions)
        shards = split.shards[: self.max_shards]
        if not (instruction or split.prompt):
            raise ConfigError(
                f"the rows of {self.name}/{name} have no prompt: say in the card what the task is: "
                f'instructions = {{ "{name}" = "Given …, retrieve …" }}'
            )
        assert not isinstance(self.source, UnpinnedSource)  # noqa: S101 — it has no splits that were read
        return CollectionCard(
            name=f"{self.name}/{name}",
            kind=kind or kind_of(split.type, f"{self.name}/{name}"),
            title=f"{self.title}: {name}",
            instruction=instruction or split.prompt,
            licence=self.licence,
            homepage=self.homepage,
            description=self.description,
            layout=COLLECTION,
            source=self.source.model_copy(update={"files": tuple(shard.name for shard in shards)}),
            splits=Splits(train=1.0, dev=0.0, test=0.0),
            folder=self.folder,
            shards=shards,
            type=None if kind else split.type,
            prompt=None if instruction else split.prompt,
        )


def kind_of(row_type: str, where: str) -> Kind:
    """The kind of task that a row's type means.

    Raises
        ConfigError: it is none of the known ones.
    """
    if row_type not in KINDS:
        known = ", ".join(f"{name} ({kind})" for name, kind in KINDS.items())
        raise ConfigError(
            f"{where}: the rows have the type {row_type!r}, which is not known; known are {known}. "
            "Say in the collection's card what they are: kinds = { SPLIT = KIND }"
        )
    return KINDS[row_type]


def split_of(file: str) -> str:
    """The split that a file belongs to, by its name."""
    stem = plain_name(file.rpartition("/")[2])
    for ending in SHARD_ENDINGS:
        stem = stem.removesuffix(ending)
    found = SHARD_NAME.fullmatch(stem)
    return found["split"] if found else stem


def by_split(files: Iterable[str], where: str) -> dict[str, list[str]]:
    """Split → its files in order; files that hold no rows (a README, say) are passed over.

    Raises
        SourceError: nothing is left, a numbered shard is missing, or two folders have a split of one name.
    """
    found: dict[str, list[str]] = {}
    for file in sorted(files):
        if plain_name(file).endswith(SHARD_ENDINGS):
            found.setdefault(split_of(file), []).append(file)
    if not found:
        raise SourceError(
            f"{where} has no {' or '.join(SHARD_ENDINGS)} file; does `files` fit what is there?"
        )
    for split, names in found.items():
        _refuse_gaps(split, names, where)
    return found


def _refuse_gaps(split: str, names: Sequence[str], where: str) -> None:
    stems = [plain_name(name).removesuffix(".parquet").removesuffix(".jsonl") for name in names]
    numbered = [found for stem in stems if (found := SHARD_NAME.fullmatch(stem))]
    if len(numbered) == len(names) and len({found["split"] for found in numbered}) == 1:
        total = int(numbered[0]["total"])
        missing = sorted(set(range(total)) - {int(found["number"]) for found in numbered})
        if missing:
            listed = ", ".join(f"{number:05d}" for number in missing[:8])
            raise SourceError(f"{where}: of the {total} shards of {split}, these are missing: {listed}")
    elif len(names) > 1:
        raise SourceError(
            f"{where} has {len(names)} files for the split {split!r}: {', '.join(names[:4])}; "
            f"name them apart, or as shards: {split}-00000-of-{len(names):05d}.parquet"
        )


def _setting_of(name: str, settings: Mapping[str, Any]) -> Any:
    """The value for a split: its own name's, else that of the first pattern that fits."""
    if name in settings:
        return settings[name]
    return next((v for pattern, v in settings.items() if fnmatchcase(name.lower(), pattern.lower())), None)


def chosen(collection: str, pattern: str, cards: Mapping[str, CollectionCard]) -> list[str]:
    """The names of the data sets that ``COLLECTION/PATTERN`` means.

    Raises
        ConfigError: no split fits; the nearest are named.
    """
    splits = {name.partition("/")[2]: name for name in cards}
    found = [name for split, name in splits.items() if fnmatchcase(split, pattern)]
    if not found:
        raise ConfigError(f"{collection}/{pattern}: {_no_split(pattern, splits)}")
    return found


def _no_split(name: str, splits: Iterable[str]) -> str:
    known = list(splits)
    near = difflib.get_close_matches(name, known, n=3)
    listed = ", ".join(known[:40]) + (" …" if len(known) > 40 else "")
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are: {listed}"
    return f"there is no such split; {hint}"


def load_collection(path: Path) -> Collection:
    """Read one collection's card.

    Raises
        ConfigError: unreadable, not TOML, an unknown key or a wrong value.
    """
    tree = read_toml(path)
    try:
        return Collection.model_validate({**tree, "folder": path.parent.absolute()})
    except ValidationError as error:
        problems = "\n  ".join(explain(error, Collection))
        raise ConfigError(f"the card {path} is not valid:\n  {problems}") from error


def load_collections(folders: Iterable[Path | None] = ()) -> dict[str, Collection]:
    """All collections by name, as ``load_catalog`` gives the cards.

    Raises
        ConfigError: as ``load_catalog``.
    """
    return load_folders(folders, lambda path, tree: load_collection(path) if is_collection(tree) else None)


def is_collection(tree: Mapping[str, Any]) -> bool:
    """Whether a card's text is that of a collection."""
    return tree.get("layout") == COLLECTION
