"""The part of each dev split that is measured while training, and the examples that its queries are shown.

The same texts at every measurement, chosen without the model. Examples come from the training rows, as they
do when the finished model is used, and show nothing that is measured.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from icl_embed.config import LABEL_KINDS, POSITIVE_SHARE, RANKING_KINDS, DevConfig, Kind
from icl_embed.errors import TrainingError
from icl_embed.examples import Example
from icl_embed.texts import compared_form, compared_forms
from icl_embed.train.job import DevSource
from icl_embed.train.rows import Row, TrainingSet

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
        records = _read(source.folder / "rows.parquet", ROW_COLUMNS)
        if source.name in rows_of and any(record["split"] == "dev" for record in records):
            found.append(_dev_set(source, records, rows_of[source.name], config, seed))
    if not found:
        names = ", ".join(source.name for source in sources) or "none"
        raise TrainingError(
            f"train.dev.every is {config.every}, but no data set that is trained on has a dev split (looked "
            f"at: {names}); give a card dev rows under [splits], or set train.dev.every = 0"
        )
    return found


def _dev_set(
    source: DevSource, records: Sequence[Record], trained: TrainingSet, config: DevConfig, seed: int
) -> DevSet:
    dev = [record for record in records if record["split"] == "dev"]
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
        top = max((record["score"] for record in records if record["score"] is not None), default=0.0)
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
    corpus = _read(source.folder / "corpus.parquet", ["split", "text"])
    yield from (passage["text"] for passage in corpus if passage["split"] in ("dev", SHARED))


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
    order = list(range(len(trained.rows)))
    random.Random(f"{seed}:{trained.name}:dev").shuffle(order)
    by_label: dict[str, list[Row]] = {}
    for number in order:
        by_label.setdefault(trained.rows[number].label, []).append(trained.rows[number])
    found: dict[str, Example] = {}
    for row in chain.from_iterable(zip_longest(*by_label.values())):
        if len(found) == config.shots:
            break
        if row is not None and _may_show(row, hidden):
            found.setdefault(row.query, Example(row.query, row.response))
    if len(found) < config.shots:
        raise TrainingError(
            f"data set {trained.name} has {len(found)} training rows that may be shown as examples, "
            f"train.dev.shots asks for {config.shots}; lower it or add training rows"
        )
    return tuple(found.values())


def _may_show(row: Row, hidden: set[str]) -> bool:
    is_answer = not row.label and compared_form(row.response) in hidden
    return compared_form(row.query) not in hidden and not is_answer


def _read(path: Path, columns: list[str]) -> list[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        records: list[dict[str, Any]] = pq.read_table(path, columns=columns).to_pylist()
    except (OSError, pa.ArrowException, KeyError) as error:
        raise TrainingError(
            f"cannot read the dev split in {path}: {error}; build the data set again"
        ) from error
    return records
