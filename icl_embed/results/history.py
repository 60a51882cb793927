"""A model's scores over time: every time it was scored, with the code and the weights of that day."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from icl_embed.errors import EvaluationError
from icl_embed.results.stored import StoredScore


@dataclass(frozen=True)
class Moment:
    """One score as it was made.

    Attributes
        change: to the score before it on the same task and setting; None for the first.
        differs: which of weights, data and code are not those of the score before.
    """

    score: StoredScore
    change: float | None
    differs: tuple[str, ...]


def history_of(
    scores: Sequence[StoredScore], model: str, *, task: str = "", setting: str = ""
) -> list[Moment]:
    """All scores of a model's name, or of a fingerprint's start, by task and setting, oldest first.

    Raises
        EvaluationError: no such score.
    """
    mine = [
        score
        for score in scores
        if (score.model == model or score.model_fingerprint.startswith(model))
        and task in ("", score.task)
        and setting in ("", score.setting, score.setting_of_all_seeds)
    ]
    if not model or not mine:
        known = ", ".join(sorted({score.model for score in scores}))
        raise EvaluationError(
            f"no scores of {model!r} for this task and setting; models are {known}; "
            "icl-embed eval leaderboard lists what was measured"
        )
    ordered = sorted(mine, key=lambda one: (one.task, one.setting, one.created, one.reference))
    moments = []
    for _, group in groupby(ordered, key=lambda one: (one.task, one.setting)):
        before: StoredScore | None = None
        for score in group:
            moments.append(_moment(score, before))
            before = score
    return moments


def _moment(score: StoredScore, before: StoredScore | None) -> Moment:
    if before is None:
        return Moment(score, None, ())
    names = {"model_fingerprint": "weights", "data_fingerprint": "data", "git_commit": "code"}
    differs = tuple(word for name, word in names.items() if getattr(score, name) != getattr(before, name))
    return Moment(score, score.mean - before.mean, differs)
