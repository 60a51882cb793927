"""Overlap of evaluated texts with training texts: equal texts, and shared runs of 13 words.

Texts are equal when their match keys are (case, white space and invisible characters forgotten). The n-gram
rule is GPT-3's (arXiv 2005.14165, appendix C), by the hashes that clean the pool. Evaluated texts are held in
memory; training texts stream past, so their number is not bounded by memory. Neither net catches a
paraphrase or a translation, nor what the base model read before it came to us.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from icl_embed.corpus.decontaminate import ngram_hashes, split_words
from icl_embed.errors import DataError, StoreError
from icl_embed.store import Store
from icl_embed.store.artefact import Artefact
from icl_embed.store.lineage import ancestors
from icl_embed.texts import compared_column

Relation = Literal["trained on", "family trained on", "unseen"]

# What benchmarks append to the name of a data set.
_ENDINGS = re.compile(
    r"(classification|retrieval|clustering|reranking|pairclassification|benchmark|test|hardnegatives|"
    r"p2p|s2s|v\d+)+$"
)
SHORTEST_FAMILY = 3  # sts12 and sts13 are both of the family sts


def relation_to(task: str, trained: Iterable[str]) -> tuple[Relation, list[str]]:
    """How an evaluated set relates to the training sets, and to which of them.

    ``trained on``: a training set has its name, up to case, punctuation and what benchmarks append.
    ``family trained on``: the name of one, without trailing numbers, begins the other's. Names are weak
    evidence: the overlap of the texts is the strong one.
    """
    names = sorted(set(trained))
    same = [name for name in names if _plain(name) == _plain(task)]
    if same:
        return "trained on", same
    family = [name for name in names if _is_family(_stem(name), _stem(task))]
    return ("family trained on", family) if family else ("unseen", [])


def _plain(name: str) -> str:
    letters = re.sub(r"[^a-z0-9]", "", name.casefold())
    return _ENDINGS.sub("", letters) or letters


def _stem(name: str) -> str:
    first = re.split(r"[^a-z]", name.casefold().lstrip("0123456789"))[0]
    return _ENDINGS.sub("", first) or first


def _is_family(first: str, second: str) -> bool:
    shorter, longer = sorted((first, second), key=len)
    return len(shorter) >= SHORTEST_FAMILY and longer.startswith(shorter)


TRAIN_NAME = "train.parquet"
TRAINED_STAGES = ("negatives", "pool")  # the first that an embedder was made from holds its training rows
TEXT_COLUMNS = (
    *("query", "positive", "positives", "pos", "response", "negative", "negatives", "neg"),
    *("text", "passage", "title", "sentence1", "sentence2"),
)
ROWS_AT_ONCE = 8192


@dataclass(frozen=True)
class TrainingTexts:
    """Distinct texts of one piece of a training set.

    Attributes
        dataset: where they come from.
        texts: string array [N].
        rows: rows of the file that they were read from.
    """

    dataset: str
    texts: pa.Array
    rows: int


def training_files(store: Store, model: Artefact) -> list[Path]:
    """The rows that an embedder artefact was trained on.

    Raises
        StoreError: nothing that it was made from holds training rows.
    """
    found = {one.manifest.stage: one for one in ancestors(store, model) if one.manifest}
    for stage in TRAINED_STAGES:
        if stage in found:
            _, _, fingerprint = found[stage].reference.partition("/")
            return [store.get(stage, fingerprint).path / TRAIN_NAME]
    raise StoreError(
        f"{model.reference} has no training rows in its lineage; name them with --train FILE.parquet"
    )


def read_training_texts(path: Path) -> Iterator[TrainingTexts]:
    """The texts of a Parquet file, some rows at a time; a pool folder stands for its training rows.

    Raises
        DataError: not Parquet, or without a column of texts.
    """
    path = path / TRAIN_NAME if path.is_dir() else path
    try:
        with pq.ParquetFile(path, pre_buffer=False) as file:
            names = [name for name in TEXT_COLUMNS if name in file.schema_arrow.names]
            if not names:
                raise DataError(
                    f"{path} has no column of texts: expected some of {', '.join(TEXT_COLUMNS)}, "
                    f"found {', '.join(file.schema_arrow.names)}"
                )
            labels = ["dataset"] if "dataset" in file.schema_arrow.names else []
            for batch in file.iter_batches(ROWS_AT_ONCE, columns=[*labels, *names]):
                yield from _by_dataset(batch, names, default=path.stem)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"cannot read training rows from {path}: {error}") from error


def _by_dataset(batch: pa.RecordBatch, names: list[str], *, default: str) -> Iterator[TrainingTexts]:
    if "dataset" not in batch.schema.names:
        yield TrainingTexts(default, _texts(batch, names), batch.num_rows)
        return
    for dataset in pc.unique(batch.column("dataset")).to_pylist():
        part = batch.filter(pc.equal(batch.column("dataset"), dataset))
        yield TrainingTexts(str(dataset), _texts(part, names), part.num_rows)


def _texts(batch: pa.RecordBatch, names: list[str]) -> pa.Array:
    """The distinct texts of all columns; lists are taken apart, nulls left out."""
    parts = []
    for name in names:
        column = batch.column(name)
        if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
            column = pc.list_flatten(column)
        if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            raise DataError(f"the column {name} must hold texts or lists of texts, found {column.type}")
        parts.append(column.cast(pa.string()))
    return pc.unique(pa.concat_arrays(parts).drop_null())


NGRAM = 13
HITS_SHOWN = 5
Role = Literal["queries", "passages"]


@dataclass(frozen=True)
class EvaluatedTexts:
    """The distinct texts of one evaluated set in one role."""

    task: str
    role: Role
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Hit:
    """An evaluated text and the training text that gives it away."""

    net: Literal["equal", "n-gram"]
    evaluated: str
    dataset: str
    training: str


@dataclass(frozen=True)
class Overlap:
    """What was found of one evaluated set in one role.

    Attributes
        num_texts: distinct evaluated texts.
        num_long: those with enough words for an n-gram; the others have equality as their only net.
        num_equal: texts equal to a training text.
        num_shared: texts that share an n-gram with a training text, equal ones included.
        equal_by_dataset: training set -> evaluated texts that are equal to one of its texts.
        hits: some of them, equal ones first.
    """

    task: str
    role: Role
    num_texts: int
    num_long: int
    num_equal: int
    num_shared: int
    equal_by_dataset: dict[str, int]
    hits: tuple[Hit, ...]


@dataclass
class OverlapIndex:
    """Evaluated texts, ready to be looked for in any amount of training text."""

    texts: tuple[str, ...]
    keys: pa.Array  # distinct match keys
    key_of: np.ndarray  # int64 [texts], its key
    grams: np.ndarray  # uint64, distinct and sorted
    gram_text: np.ndarray  # int64 [occurrences], text of each n-gram …
    gram_number: np.ndarray  # … and its position in ``grams``
    equal: dict[str, np.ndarray] = field(default_factory=dict)  # training set -> bool [keys]
    equal_to: dict[int, tuple[str, str]] = field(default_factory=dict)  # key -> first (set, text)
    shared_with: dict[int, tuple[str, str]] = field(default_factory=dict)  # n-gram -> first (set, text)

    @classmethod
    def of(cls, texts: Sequence[str], *, ngram: int = NGRAM) -> OverlapIndex:
        """Index texts by key and by n-gram."""
        array = pa.array(list(texts), pa.string())
        keys = compared_column(array)
        encoded = pc.dictionary_encode(keys)
        text_of, hashes = ngram_hashes(split_words(keys), ngram)
        grams, numbers = np.unique(hashes, return_inverse=True)
        key_of = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        return cls(tuple(texts), encoded.dictionary, key_of, grams, text_of, numbers)

    def look_in(self, training: TrainingTexts, *, ngram: int = NGRAM) -> None:
        """Note which evaluated texts are among, or share an n-gram with, some training texts."""
        found = pc.index_in(compared_column(training.texts), value_set=self.keys)
        where = pc.indices_nonzero(pc.is_valid(found)).to_numpy(zero_copy_only=False)
        keys = found.drop_null().to_numpy(zero_copy_only=False)
        seen = self.equal.setdefault(training.dataset, np.zeros(len(self.keys), np.bool_))
        seen[keys] = True
        for key, row in zip(keys.tolist(), where.tolist(), strict=True):
            self.equal_to.setdefault(key, (training.dataset, training.texts[row].as_py()))
        self._look_for_ngrams(training, ngram)

    def _look_for_ngrams(self, training: TrainingTexts, ngram: int) -> None:
        if not len(self.grams):
            return
        rows, hashes = ngram_hashes(split_words(compared_column(training.texts)), ngram)
        places = np.minimum(np.searchsorted(self.grams, hashes), len(self.grams) - 1)
        is_hit = self.grams[places] == hashes
        numbers, first = np.unique(places[is_hit], return_index=True)
        for number, row in zip(numbers.tolist(), rows[is_hit][first].tolist(), strict=True):
            if number not in self.shared_with:
                self.shared_with[number] = (training.dataset, training.texts[row].as_py())

    def overlap(self, task: str, role: Role, members: np.ndarray) -> Overlap:
        """What was found of the texts at some positions."""
        is_member = np.zeros(len(self.texts), np.bool_)
        is_member[members] = True
        is_equal = np.isin(self.key_of, list(self.equal_to)) & is_member
        gram_of = self._shared_grams(is_member)
        found = [(text, self.equal_to[int(self.key_of[text])]) for text in np.flatnonzero(is_equal).tolist()]
        hits = [Hit("equal", self.texts[text], *first) for text, first in found[:HITS_SHOWN]]
        others = [(text, self.shared_with[gram]) for text, gram in gram_of.items() if not is_equal[text]]
        hits += [Hit("n-gram", self.texts[text], *first) for text, first in others[:HITS_SHOWN]]
        keys = self.key_of[is_member]
        by_dataset = {name: int(seen[keys].sum()) for name, seen in sorted(self.equal.items())}
        return Overlap(
            task,
            role,
            num_texts=int(is_member.sum()),
            num_long=len(np.unique(self.gram_text[is_member[self.gram_text]])),
            num_equal=len(found),
            num_shared=len(gram_of),
            equal_by_dataset={name: count for name, count in by_dataset.items() if count},
            hits=tuple(hits[:HITS_SHOWN]),
        )

    def _shared_grams(self, is_member: np.ndarray) -> dict[int, int]:
        """Text -> its first n-gram that a training text has too."""
        is_shared = np.zeros(len(self.grams), np.bool_)
        is_shared[list(self.shared_with)] = True
        hits = is_shared[self.gram_number] & is_member[self.gram_text]
        texts, first = np.unique(self.gram_text[hits], return_index=True)
        return dict(zip(texts.tolist(), self.gram_number[hits][first].tolist(), strict=True))


def find_overlap(
    evaluated: Sequence[EvaluatedTexts], training: Iterable[TrainingTexts], *, ngram: int = NGRAM
) -> tuple[list[Overlap], dict[str, int]]:
    """The overlap of each evaluated set and role, and the rows of each training set that were looked at.

    The empty text overlaps with nothing.
    """
    texts = list(dict.fromkeys(text for part in evaluated for text in part.texts if text.strip()))
    position = {text: number for number, text in enumerate(texts)}
    index = OverlapIndex.of(texts, ngram=ngram)
    rows: dict[str, int] = {}
    for part in training:
        index.look_in(part, ngram=ngram)
        rows[part.dataset] = rows.get(part.dataset, 0) + part.rows
    found = []
    for one in evaluated:
        members = [position[text] for text in dict.fromkeys(one.texts) if text in position]
        found.append(index.overlap(one.task, one.role, np.array(members, np.int64)))
    return found, rows
