"""The card: one TOML file that declares a data set, and the catalog of all cards.

A card says where the bytes come from (pinned by content), under which licence, how records become rows, and
what the task is. Adding a data set means adding a card; no code. ``card_source`` and ``card_rows`` document
the parts.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, StringConstraints, ValidationError, model_validator

from icl_embed.config import Kind
from icl_embed.errors import ConfigError
from icl_embed.sources.card_errors import explain
from icl_embed.sources.card_rows import Corpus, Encoding, FieldName, Negatives, Rows, Splits, Table
from icl_embed.sources.card_source import LocalSource, Part, Source

CardName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
Layout = Literal["records", "folder", "flagembedding", "collection"]
COLLECTION: Layout = "collection"  # a card of many data sets, and each of them: see ``collection``
NOT_CONTENT = {"title", "description", "licence", "homepage", "folder"}


class Card(Part):
    """One data set.

    ``layout`` is ``records`` for data described by ``tables`` and ``rows``; ``folder`` (corpus.jsonl,
    queries.jsonl, qrels/*.tsv, or <split>.jsonl) and ``flagembedding`` (query, pos, neg, … lines) are known
    formats that need neither; a ``collection`` is a card of its own.
    """

    name: CardName
    kind: Kind
    title: str = Field(min_length=1)
    instruction: str = Field(min_length=1, description="the task in one sentence, as the model will read it")
    licence: str = Field(min_length=1, description="SPDX expression where there is one")
    homepage: str = Field(pattern=r"^(https?://\S+)?$")
    description: str = Field("", description="what the rows are and how they were derived")
    layout: Layout = "records"
    encoding: Encoding = Field("utf-8", description="of the files of a layout; tables say their own")
    source: Source
    tables: dict[FieldName, Table] = Field({})
    rows: Rows | None = None
    corpus: Corpus | None = None
    negatives: Negatives | None = None
    splits: Splits = Splits()
    folder: Path = Field(Path(), exclude=True, description="where the card lies; set by load_card")

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Card:
        if self.layout == "records":
            if not self.tables or self.rows is None:
                raise ValueError("a card needs [tables.NAME] and [rows], or a layout that knows them")
            if self.encoding != "utf-8":
                raise ValueError(
                    "encoding belongs into the table whose files have it: [tables.NAME] encoding"
                )
            self._check_tables(self.rows)
            self._check_kind(self.rows)
        elif self.tables or self.rows is not None:
            raise ValueError(f'layout = "{self.layout}" already says what [tables] and [rows] would')
        if self.corpus is not None and self.kind != "retrieval":
            raise ValueError(f"a {self.kind} card has no [corpus]; only retrieval searches one")
        return self

    def _check_tables(self, rows: Rows) -> None:
        asked = [rows.table, *(join.table for join in rows.joins)]
        asked += [part.table for part in (self.corpus, self.negatives) if part is not None]
        for name in asked:
            if name and name not in self.tables:
                raise ValueError(
                    f"there is no [tables.{name}]; the card has: {', '.join(sorted(self.tables))}"
                )
        if not rows.table and len(self.tables) > 1:
            raise ValueError("with several tables, rows.table must say which one the rows come from")

    def _check_kind(self, rows: Rows) -> None:
        labelled = bool(rows.label or rows.label_rules)
        needs: list[str] = []
        if self.kind in ("classification", "clustering") and not labelled:
            needs = ["rows.label or rows.label_rules"]
        elif self.kind == "sts" and not (rows.positives and rows.score):
            needs = ["rows.positives (the second text)", "rows.score"]
        elif self.kind == "pair_classification" and not (rows.positives and (rows.score or self.negatives)):
            needs = ["rows.positives (the second text)", "rows.score or [negatives]"]
        elif self.kind == "reranking" and not (rows.positives and (rows.negatives or self.negatives)):
            needs = ["rows.positives", "rows.negatives or [negatives]"]
        elif self.kind == "retrieval" and not rows.positives:
            needs = ["rows.positives"]
        if needs:
            raise ValueError(f"a {self.kind} card needs {' and '.join(needs)}")

    @property
    def local_path(self) -> Path:
        """The absolute path of a local source, which a card states relative to itself."""
        if not isinstance(self.source, LocalSource):
            raise TypeError(f"the source of {self.name} is not local")
        return (self.folder / self.source.path).resolve()

    def settings(self) -> dict[str, Any]:
        """The JSON-able slice that decides the rows: no title, licence, homepage or machine path.

        A local source is named by the sha256 of its content instead of its path.

        Raises
            SourceError: a local source is missing.
        """
        settings = self.model_dump(mode="json", exclude=NOT_CONTENT)
        if isinstance(self.source, LocalSource):
            from icl_embed.sources.local import content_digest

            settings["source"] = {
                "kind": "local",
                "files": list(self.source.files),
                "sha256": content_digest(self.local_path, self.source.files),
            }
        return settings


def load_card(path: Path) -> Card:
    """Read one card.

    Raises
        ConfigError: unreadable, not TOML, an unknown key (the nearest valid one is suggested), a wrong value.
    """
    tree = read_toml(path)
    if tree.get("layout") == COLLECTION:
        raise ConfigError(
            f"{path} is the card of a collection: its data sets are called {tree.get('name')}/SPLIT"
        )
    try:
        return Card.model_validate({**tree, "folder": path.parent.absolute()})
    except ValidationError as error:
        raise ConfigError(f"the card {path} is not valid:\n  " + "\n  ".join(explain(error, Card))) from error


def read_toml(path: Path) -> dict[str, Any]:
    """The text of a card, whatever it is a card of.

    Raises
        ConfigError: unreadable, not TOML, or it says where it lies.
    """
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"cannot read the card {path}: {error}") from error
    if "folder" in tree:
        raise ConfigError(f"the card {path} is not valid:\n  folder: unknown key")
    return tree


def built_in_catalog() -> Path:
    """The folder of cards that come with the package: ``data/catalog`` of a checkout, else in the wheel."""
    checkout = Path(__file__).resolve().parents[2] / "data" / "catalog"
    return checkout if checkout.is_dir() else Path(__file__).resolve().parents[1] / "catalog"


def load_catalog(folders: Iterable[Path | None] = ()) -> dict[str, Card]:
    """All cards by name: the built-in ones, then those of ``folders`` in order, which add or override.

    ``None`` among the folders is skipped, so that an optional setting can be passed as it is.

    Raises
        ConfigError: a folder does not exist, a card is not valid, or a folder names a data set twice.
    """
    return load_folders(
        folders, lambda path, tree: load_card(path) if tree.get("layout") != COLLECTION else None
    )


AnyCard = TypeVar("AnyCard")


def load_folders(
    folders: Iterable[Path | None], load: Callable[[Path, Mapping[str, Any]], AnyCard | None]
) -> dict[str, AnyCard]:
    """What ``load`` makes of the cards of the catalog's folders, by name; None where it is not asked for.

    Raises
        ConfigError: a folder does not exist, or names something twice.
    """
    catalog: dict[str, AnyCard] = {}
    for folder in [built_in_catalog(), *(Path(folder) for folder in folders if folder is not None)]:
        catalog.update(_load_folder(folder, load))
    return dict(sorted(catalog.items()))


def _load_folder(
    folder: Path, load: Callable[[Path, Mapping[str, Any]], AnyCard | None]
) -> dict[str, AnyCard]:
    if not folder.is_dir():
        raise ConfigError(f"the catalog folder {folder} does not exist; expected a folder of *.toml cards")
    found: dict[str, Path] = {}
    cards: dict[str, AnyCard] = {}
    for path in sorted(folder.glob("*.toml")):
        tree = read_toml(path)
        card, name = load(path, tree), str(tree.get("name"))
        if name in found:
            raise ConfigError(
                f'two cards of one folder are called "{name}": {found[name]} and {path}; rename one'
            )
        found[name] = path
        if card is not None:
            cards[name] = card
    return cards
