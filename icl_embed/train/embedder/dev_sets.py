"""The part of each dev split that is measured while training, and the examples that its queries are shown.

The same texts at every measurement, chosen without the model. Examples come from the training rows, as they
do when the finished model is used, and show nothing that is measured.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from icl_embed.config import LABEL_KINDS, POSITIVE_SHARE, RANKING_KINDS, DevConfig, Kind
from icl_embed.errors import TrainingError
from icl_embed.examples import Example
from icl_embed.texts import compared_form, compared_forms
from icl_embed.train.job import DevSource
from icl_embed.train.rows import Row, TrainingSet

ROWS_NAME = "rows.parquet"
BATCH_ROWS = 8192
AGAIN = "build the data set again"
ROW_COLUMNS = ["split", "query", "positives", "negatives", "label", "score"]
SHARED = "all"  # the split of a corpus that all splits share

Record = Mapping[str, Any]


@dataclass(frozen=True)
class DevSet:
    """What is measured of one data set.

    Attributes
        queries: [Q] texts.
        passages: [P] texts, each once: passages, labels, or the second texts of pairs.
        relevant: [Q] numbers of each query's positives.
        candidates: [Q] numbers of the passages that a query ranks; None: all of them.
        examples: what is shown in the few-shot measurement.
    """

    name: str
    kind: Kind
    instruction: str
    queries: tuple[str, ...]
    passages: tuple[str, ...]
    relevant: tuple[frozenset[int], ...]
    candidates: tuple[frozenset[int], ...] | None
    examples: tuple[Example, ...]


def read_dev_sets(
    sources: Sequence[DevSource], training_sets: Sequence[TrainingSet], config: DevConfig, *, seed: int
) -> list[DevSet]:
    """The dev sets of all data sets that are trained on and have a dev split.

    Raises
        TrainingError: none has one; one is too small; too few examples may be shown; a file cannot be read.
    """
    rows_of = {one.name: one for one in training_sets}
    found = []
    for source in sources:
        dev = list(_read(source.folder / ROWS_NAME, ROW_COLUMNS, ["dev"])) if source.name in rows_of else []
        if dev:
            found.append(_dev_set(source, dev, rows_of[source.name], config, seed))
    if not found:
        names = ", ".join(source.name for source in sources) or "none"
        raise TrainingError(
            f"train.dev.every is {config.every}, but no data set that is trained on has a dev split (looked "
            f"at: {names}); give a card dev rows under [splits], or set train.dev.every = 0"
        )
    return found


def _dev_set(
    source: DevSource, dev: Sequence[Record], trained: TrainingSet, config: DevConfig, seed: int
) -> DevSet:
    if len(dev) < config.shots:
        raise TrainingError(
            f"data set {source.name} has {len(dev)} dev rows, fewer than the {config.shots} examples that "
            "each would be shown; expected at least as many: lower train.dev.shots or give its card more dev "
            "rows under [splits]"
        )
    measured = dev[: config.queries]  # rows lie in the order of their hashes: these are as good as drawn
    if source.kind in LABEL_KINDS:
        asked = [(record["query"], [record["label"]]) for record in measured]
        labels = chain((record["label"] for record in measured), sorted(trained.positions_by_label))
        passages = _first(labels, config.passages, [record["label"] for record in measured])
    elif source.kind in RANKING_KINDS:
        asked = [(record["query"], record["positives"]) for record in measured]
        passages = _first(
            _offered(source, measured), config.passages, [text for _, texts in asked for text in texts]
        )
    else:
        scores = (record["score"] for record in _read(source.folder / ROWS_NAME, ["score"]))
        top = max((score for score in scores if score is not None), default=0.0)
        asked = [
            (record["query"], record["positives"])
            for record in measured
            if record["score"] is not None and record["score"] >= POSITIVE_SHARE * top > 0.0
        ]
        passages = list(dict.fromkeys(text for record in measured for text in record["positives"]))
    number_of = {text: number for number, text in enumerate(passages)}
    if len(number_of) < 2 or not asked:
        raise TrainingError(
            f"data set {source.name} has nothing to rank in its dev split: expected a query with a positive "
            f"among two texts at least, found {len(asked)} queries and {len(number_of)} texts; give its card "
            "more dev rows under [splits]"
        )
    return DevSet(
        source.name,
        source.kind,
        source.instruction,
        queries=tuple(query for query, _ in asked),
        passages=tuple(passages),
        relevant=tuple(frozenset(number_of[text] for text in positives) for _, positives in asked),
        candidates=_candidates(source, measured, number_of),
        examples=_draw_examples(trained, asked, config, seed),
    )


def _offered(source: DevSource, measured: Sequence[Record]) -> Iterator[str]:
    """Texts that queries may be ranked against; what is relevant is added by the caller."""
    if source.kind == "reranking":
        yield from (text for record in measured for text in (*record["positives"], *record["negatives"]))
        return
    corpus = _read(source.folder / "corpus.parquet", ["split", "text"], ["dev", SHARED])
    yield from (passage["text"] for passage in corpus)


def _first(offered: Iterable[str], count: int, needed: Iterable[str]) -> list[str]:
    """All that is needed, and of what is offered the first ones, up to ``count`` in all; each text once."""
    found = dict.fromkeys(needed)
    for text in offered:
        if len(found) >= count:
            break
        found.setdefault(text)
    return list(found)


def _candidates(
    source: DevSource, measured: Sequence[Record], number_of: Mapping[str, int]
) -> tuple[frozenset[int], ...] | None:
    """Reranking ranks each query's own texts."""
    if source.kind != "reranking":
        return None
    return tuple(
        frozenset(
            number_of[text] for text in (*record["positives"], *record["negatives"]) if text in number_of
        )
        for record in measured
    )


def _draw_examples(
    trained: TrainingSet, asked: Sequence[tuple[str, Sequence[str]]], config: DevConfig, seed: int
) -> tuple[Example, ...]:
    """Training rows in random order, labels by turns; none shows a measured query or a free-text answer."""
    texts = [query for query, _ in asked]
    if trained.kind not in LABEL_KINDS:
        texts += [text for _, positives in asked for text in positives]
    hidden = set(compared_forms(texts))
    found: dict[str, Example] = {}
    for number in _by_turns(trained, seed):
        if len(found) == config.shots:
            break
        row = trained.rows[number]
        if _may_show(row, hidden):
            found.setdefault(row.query, Example(row.query, row.response))
    if len(found) < config.shots:
        raise TrainingError(
            f"data set {trained.name} has {len(found)} training rows that may be shown as examples, "
            f"train.dev.shots asks for {config.shots}; lower it or add training rows"
        )
    return tuple(found.values())


def _by_turns(trained: TrainingSet, seed: int) -> Iterator[int]:
    """Row numbers in random order, but labels by turns, in the order in which they come up."""
    order = array("i", range(len(trained.rows)))
    random.Random(f"{seed}:{trained.name}:dev").shuffle(order)
    place = np.empty(len(order), np.int32)
    place[order] = np.arange(len(order))
    by_label = [mine[np.argsort(place[mine])] for mine in trained.positions_by_label.values()]
    by_label.sort(key=lambda mine: int(place[mine[0]]))
    turns = chain.from_iterable(zip_longest(*by_label))
    return (number for number in turns if number is not None)


def _may_show(row: Row, hidden: set[str]) -> bool:
    is_answer = not row.label and compared_form(row.response) in hidden
    return compared_form(row.query) not in hidden and not is_answer


def _read(path: Path, columns: list[str], splits: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
    """The records of some splits, one after the other: a corpus may be larger than memory."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, pre_buffer=False) as parquet:
            missing = [name for name in columns if name not in parquet.schema_arrow.names]
            if missing:
                raise TrainingError(f"cannot read the dev split in {path}: it lacks {missing}; {AGAIN}")
            for batch in parquet.iter_batches(BATCH_ROWS, columns=columns):
                kept = batch
                if splits:
                    kept = batch.filter(pc.is_in(batch.column("split"), pa.array(splits)))
                yield from kept.to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise TrainingError(f"cannot read the dev split in {path}: {error}; {AGAIN}") from error
