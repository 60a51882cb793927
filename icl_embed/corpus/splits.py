"""Train, dev and test, so that no text is in two of them.

A text counts as the same after normalisation (NFKC, case, white space). Queries, positives and the passages
of corpora that are not shared are all looked at; labels are not, since every split has the same ones.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from icl_embed.corpus.rows import Collected, Passage, Row, stable_hash
from icl_embed.errors import DataError
from icl_embed.sources.card_rows import SPLIT_NAMES, SplitName, Splits
from icl_embed.texts import compared_form

logger = logging.getLogger(__name__)

SHARED_SPLIT = "all"  # the split of a corpus that all splits search
IMPOSSIBLE = 1e-6  # of a draw by chance
MAX_DRAWS = 16


@dataclass
class Split:
    """Rows and passages by split."""

    rows: dict[str, list[Row]]
    passages: dict[str, list[Passage]]


def split_data(collected: Collected, splits: Splits, *, shared_corpus: bool) -> Split:
    """Give every row and passage to a split, by the card's rule.

    Raises
        DataError: a promised split came out empty, or (a bug, then) a text is in two splits.
    """
    passages = [] if shared_corpus else collected.passages
    if splits.method == "given":
        result = _given(collected.rows, passages, collected.rejected, shared=shared_corpus)
    elif splits.method == "text":
        result = _by_text(collected.rows, passages, splits, collected.rejected)
    else:
        result = _by_component(collected.rows, passages, splits)
    if shared_corpus:
        result.passages = {SHARED_SPLIT: collected.passages}
    _check_promises(result, splits)
    check_disjoint(result, shared_corpus=shared_corpus)
    return result


def check_disjoint(split: Split, *, shared_corpus: bool) -> None:
    """Prove that no query and no positive is in two splits, nor among another split's passages; of shared
    corpora, that no query is.

    A passage that answers nothing may be in two: mined data have the same negative in many rows.

    Raises
        DataError: one is.
    """
    owner: dict[str, str] = {}
    for name in SPLIT_NAMES:
        forms = {form for row in split.rows[name] for form in _forms(row, queries_only=shared_corpus)}
        for form in sorted(forms):
            _refuse_two_owners(form, owner.setdefault(form, name), name)
    for name in SPLIT_NAMES:
        for form in sorted({compared_form(passage.text) for passage in split.passages.get(name, ())}):
            _refuse_two_owners(form, owner.get(form, name), name)


def _refuse_two_owners(form: str, first: str, second: str) -> None:
    if first != second:
        raise DataError(f"the text {form[:80]!r} is in the splits {first} and {second}")


def _forms(row: Row, *, queries_only: bool = False) -> list[str]:
    return [compared_form(text) for text in ((row.query,) if queries_only else (row.query, *row.positives))]


def _empty() -> Split:
    return Split({name: [] for name in SPLIT_NAMES}, {name: [] for name in SPLIT_NAMES})


def _drawn(keys: Iterable[str], splits: Splits) -> dict[str, SplitName]:
    """The split of each key: its hash as a number in [0, 1) against the fractions.

    Keys that this very hash has chosen before all fall where they fell then. Such a draw is no draw: the next
    one has another salt.
    """
    distinct = dict.fromkeys(keys)
    train, dev, _ = splits.fractions()
    for salt in ("", *(f"{number}:" for number in range(1, MAX_DRAWS))):
        drawn: dict[str, SplitName] = {}
        for key in distinct:
            place = stable_hash(f"split:{salt}{key}") / 2**64
            drawn[key] = "train" if place < train else "dev" if place < train + dev else "test"
        if _may_be_chance(Counter(drawn.values()), splits):
            break
        logger.warning(
            "the texts seem to be chosen by the hash that splits them (%s of %d): they are drawn anew",
            ", ".join(f"{name} {count}" for name, count in Counter(drawn.values()).items()),
            len(drawn),
        )
    return drawn


def _may_be_chance(counts: Counter[SplitName], splits: Splits) -> bool:
    """Whether such counts can come of these fractions: not if their probability is below ``IMPOSSIBLE``.

    By Chernoff's bound a share of q where p is expected has a probability of at most exp(-n KL(q, p)).
    """
    total = counts.total()
    for name, expected in zip(SPLIT_NAMES, splits.fractions(), strict=True):
        if 0.0 < expected < 1.0:
            found = counts[name] / total
            divergence = sum(
                q * math.log(q / p) for q, p in ((found, expected), (1 - found, 1 - expected)) if q
            )
            if total * divergence > -math.log(IMPOSSIBLE):
                return False
    return True


def _by_component(rows: Sequence[Row], passages: Sequence[Passage], splits: Splits) -> Split:
    """Whatever shares a group or a text hangs together, and goes to one split as a whole."""
    forest = _Forest()
    for row in rows:
        forest.join([*_group_keys(row.groups), *(f"text:{form}" for form in _forms(row))])
    for passage in passages:
        forest.join([*_group_keys(passage.groups), f"text:{compared_form(passage.text)}"])
    names = forest.names()
    drawn = _drawn(names.values(), splits)
    result = _empty()
    for row in rows:
        result.rows[drawn[names[forest.root(f"text:{compared_form(row.query)}")]]].append(row)
    for passage in passages:
        result.passages[drawn[names[forest.root(f"text:{compared_form(passage.text)}")]]].append(passage)
    return result


def _group_keys(groups: Iterable[str]) -> list[str]:
    return [f"group:{group}" for group in groups]


class _Forest:
    """Union-find over keys."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}

    def root(self, key: str) -> str:
        """The representative of a key's component."""
        root = key
        while self._parent[root] != root:
            root = self._parent[root]
        while self._parent[key] != root:
            self._parent[key], key = root, self._parent[key]
        return root

    def join(self, keys: Iterable[str]) -> None:
        """Put the keys into one component."""
        first = ""
        for key in keys:
            self._parent.setdefault(key, key)
            if first:
                self._parent[self.root(key)] = self.root(first)
            first = first or key

    def names(self) -> dict[str, str]:
        """Representative → the component's smallest key: a name that does not depend on the order of rows."""
        names: dict[str, str] = {}
        for key in self._parent:
            root = self.root(key)
            names[root] = min(names.get(root, key), key)
        return names


def _by_text(
    rows: Sequence[Row], passages: Sequence[Passage], splits: Splits, rejected: Counter[str]
) -> Split:
    result = _empty()
    forms = [form for row in rows for form in _forms(row)]
    drawn = _drawn([f"text:{form}" for form in (*forms, *(compared_form(p.text) for p in passages))], splits)
    for row in rows:
        names = {drawn[f"text:{form}"] for form in _forms(row)}
        if len(names) == 1:
            result.rows[names.pop()].append(row)
        else:
            rejected["texts of two splits"] += 1
    for passage in passages:
        result.passages[drawn[f"text:{compared_form(passage.text)}"]].append(passage)
    return result


def _given(
    rows: Sequence[Row], passages: Sequence[Passage], rejected: Counter[str], *, shared: bool
) -> Split:
    """As the source says; of a text in two splits the later one (train < dev < test) keeps it."""
    result = _empty()
    taken: set[str] = set()
    for name in reversed(SPLIT_NAMES):
        mine: set[str] = set()
        for row in rows:
            if row.split != name:
                continue
            forms = _forms(row, queries_only=shared)
            if taken.isdisjoint(forms):
                result.rows[name].append(row)
                mine.update(forms)
            else:
                rejected["text also in a later split"] += 1
        for passage in passages:
            form = compared_form(passage.text)
            if passage.split == name and form not in taken:
                result.passages[name].append(passage)
                mine.add(form)
        taken |= mine
    return result


def _check_promises(split: Split, splits: Splits) -> None:
    """A fraction above nothing promises rows; under ``given`` one split with rows is enough."""
    if splits.method == "given":
        if not any(split.rows.values()):
            raise DataError("no row of any split is left; see what was rejected, and why")
        return
    for name, fraction in zip(SPLIT_NAMES, splits.fractions(), strict=True):
        if fraction and not split.rows[name]:
            sizes = ", ".join(f"{key} {len(rows)}" for key, rows in split.rows.items())
            raise DataError(
                f"the {name} split is empty although its fraction is {fraction:g} ({sizes}): the rows hang "
                'together by shared texts or groups; choose a finer group, or method = "text"'
            )
