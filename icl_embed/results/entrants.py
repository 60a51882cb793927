"""Who is compared: a model in a setting, found by the name that a user types."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import product

from icl_embed.errors import EvaluationError
from icl_embed.results.stored import StoredScore

SHORTEST_FINGERPRINT = 4


@dataclass(frozen=True)
class Entrant:
    """One model in one setting, with its scores.

    Attributes
        setting: without the seed of the examples, unless one seed was asked for.
        scores: per task, one score per draw of examples.
    """

    model: str
    fingerprint: str
    setting: str
    scores: dict[str, tuple[StoredScore, ...]]

    @property
    def label(self) -> str:
        """``trained@5-shot``."""
        return self.model if self.model == self.setting else f"{self.model}@{self.setting}"


def all_entrants(scores: Iterable[StoredScore]) -> list[Entrant]:
    """Every model in every setting; draws of examples that differ only by their seed are one setting."""
    grouped: dict[tuple[str, str, str], list[StoredScore]] = {}
    for score in scores:
        grouped.setdefault((score.model, score.model_fingerprint, score.setting_of_all_seeds), []).append(
            score
        )
    return [
        Entrant(model, fingerprint, setting, _by_task(members))
        for (model, fingerprint, setting), members in sorted(grouped.items())
    ]


def find_entrants(scores: Sequence[StoredScore], text: str) -> list[Entrant]:
    """The entrants that ``name``, ``fingerprint`` or ``name@setting`` names, one per setting.

    Raises
        EvaluationError: no such model or setting (near names are suggested), or several models of one name.
    """
    if text in {score.model for score in scores}:
        return all_entrants(scores_of_model(scores, text))
    name, found, setting = text.rpartition("@")
    if not found:
        return all_entrants(scores_of_model(scores, text))
    mine = scores_of_model(scores, name)
    exact = [score for score in mine if score.setting == setting != score.setting_of_all_seeds]
    if exact:
        first = exact[0]
        return [Entrant(first.model, first.model_fingerprint, setting, _by_task(exact))]
    entrants = all_entrants(mine)
    chosen = [entrant for entrant in entrants if entrant.setting == setting]
    if not chosen:
        known = [entrant.setting for entrant in entrants]
        raise EvaluationError(f"{name} was not scored in the setting {setting!r}; {_hint(setting, known)}")
    return chosen


def scores_of_model(scores: Sequence[StoredScore], name: str) -> list[StoredScore]:
    """The scores of the model with this name, or whose fingerprint starts so.

    Raises
        EvaluationError: no such model, or several.
    """
    mine = [score for score in scores if score.model == name]
    if not mine and len(name) >= SHORTEST_FINGERPRINT:
        mine = [score for score in scores if score.model_fingerprint.startswith(name)]
    if not mine:
        known_or_suggest("model", name, {score.model for score in scores})
    newest = {score.model_fingerprint: score.created for score in mine}
    if len(newest) > 1:
        listed = ", ".join(f"{fingerprint} ({created})" for fingerprint, created in newest.items())
        raise EvaluationError(f"{name!r} is {len(newest)} models: {listed}; name one by its fingerprint")
    return mine


def pair_entrants(first: Sequence[Entrant], second: Sequence[Entrant]) -> list[tuple[Entrant, Entrant]]:
    """Who is compared with whom: equal settings, else the only setting of one side with each of the other.

    Raises
        EvaluationError: no setting in common.
    """
    by_setting = {entrant.setting: entrant for entrant in second}
    pairs = [(one, by_setting[one.setting]) for one in first if one.setting in by_setting]
    if not pairs and 1 in (len(first), len(second)):
        pairs = list(product(first, second))
    if not pairs:
        raise EvaluationError(
            f"{first[0].model} and {second[0].model} have no setting in common: "
            f"{_listed(first)} against {_listed(second)}; name them, e.g. "
            f"{first[0].label} {second[0].label}"
        )
    return pairs


def known_or_suggest(what: str, name: str, known: Collection[str]) -> None:
    """Refuse a name that is not known.

    Raises
        EvaluationError: it is not; near names are suggested.
    """
    if name not in known:
        raise EvaluationError(f"no scores of a {what} {name!r}; {_hint(name, sorted(known))}")


def _by_task(scores: Iterable[StoredScore]) -> dict[str, tuple[StoredScore, ...]]:
    tasks: dict[str, tuple[StoredScore, ...]] = {}
    for score in sorted(scores, key=lambda one: (one.task, one.setting)):
        tasks[score.task] = (*tasks.get(score.task, ()), score)
    return tasks


def _listed(entrants: Sequence[Entrant]) -> str:
    return ", ".join(entrant.setting for entrant in entrants)


def _hint(wanted: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(wanted, known, n=3)
    return f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(known)}"
