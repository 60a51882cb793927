"""Progress of long work: a bar on the error stream, and whoever listens.

The work itself does not know who listens: a flow's stage logs what it is told and shows it in the UI.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Tell = Callable[[str, int, int], None]
"""Told what is being done, how much is behind and how much there is."""

_LISTENER: ContextVar[Tell | None] = ContextVar("listener", default=None)


def tell(what: str, behind: int, total: int) -> None:
    """Say how far the work is; nobody may be listening."""
    listener = _LISTENER.get()
    if listener is not None:
        listener(what, behind, total)


@contextmanager
def listening(listener: Tell | None) -> Iterator[None]:
    """Hear what is told in this thread; None lets nobody hear a part whose whole says how far it is."""
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)


@contextmanager
def progress_bar(total: int, show: bool, what: str = "encoding") -> Iterator[Callable[[int], None]]:
    """A bar over texts; yields the function that advances it."""
    behind = 0

    def advance(count: int) -> None:
        nonlocal behind
        behind += count
        tell(what, behind, total)

    if not show:
        yield advance
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task(what, total=total)

        def advance_bar(count: int) -> None:
            advance(count)
            progress.advance(bar, count)

        yield advance_bar


@contextmanager
def changing_bar() -> Iterator[Tell]:
    """One bar for work in several parts; yields the function that names the part and sets the bar."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("", total=None)

        def show(what: str, behind: int, total: int) -> None:
            progress.update(bar, description=what, completed=behind, total=total)

        yield show
