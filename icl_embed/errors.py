"""The errors a user can meet. Each message says what was expected, what was found, and what to do next."""

from __future__ import annotations

import signal


class IclEmbedError(Exception):
    """Base of every error this package raises on purpose."""


class ConfigError(IclEmbedError):
    """A setting is unknown, out of range, or contradicts another setting."""


class SourceError(IclEmbedError):
    """A source could not be fetched, or what arrived is not what the card promised.

    ``is_transient`` says whether trying again later can help (no answer, a server's own trouble).
    """

    is_transient = False


class SourceUnreachableError(SourceError):
    """A source did not answer, or broke off; trying again later can help."""

    is_transient = True


class DataError(IclEmbedError):
    """A record, file or data set breaks a rule; the message names file, row and field."""


class StoreError(IclEmbedError):
    """An artefact is missing, damaged, locked, or could not be written."""


class PoolError(IclEmbedError):
    """The example pool is empty, locked, or asked for something it does not hold."""


class ModelError(IclEmbedError):
    """A model folder is incomplete or cannot do what was asked of it."""


class TrainingError(IclEmbedError):
    """Training cannot start, continue, or be trusted."""


class EvaluationError(IclEmbedError):
    """An evaluation cannot run, or its result cannot be trusted."""


class MissingTaskError(EvaluationError):
    """A task that was asked for cannot be served from where it was looked for; a run lists it as missing.

    Attributes
        task: as it was asked for.
        reason: what was looked for, where, and what would help.
    """

    def __init__(self, task: str, reason: str) -> None:
        super().__init__(f"{task}: {reason}")
        self.task, self.reason = task, reason


class NoBaselineError(EvaluationError):
    """A baseline has nothing to go by here; a score of it would say nothing."""


def how_it_ended(code: int | None) -> str:
    """What to say of a process that ended with a code: minus the signal that killed it; None if it lives."""
    if code is None:
        return "does not answer"
    if code >= 0:
        return f"ended with exit code {code}"
    guess = " (so the kernel does when memory runs out)" if -code == signal.SIGKILL else ""
    return f"was killed by {signal.Signals(-code).name}{guess}"
