"""Timing by turns: A B C A B C …, so that a machine that slows down slows all."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

Say = Callable[[str], None]
Contestant = Callable[[int], float]  # round number → seconds

BATCH_SIZES = (16, 32, 64, 256)


def take_turns(
    contestants: Mapping[str, Contestant], rounds: int, say: Say, *, fewer: Mapping[str, int] | None = None
) -> dict[str, list[float]]:
    """Seconds of each contestant in each round; those named in ``fewer`` leave after so many rounds."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds):
        for name, run in contestants.items():
            if number >= (fewer or {}).get(name, rounds):
                continue
            seconds[name].append(run(number))
            say(f"round {number + 1}/{rounds}  {name:<36} {seconds[name][-1]:8.2f} s")
    return seconds


def fastest(run: Callable[[int], float], sizes: tuple[int, ...], say: Say) -> tuple[int, dict[int, float]]:
    """The batch size with which ``run`` is fastest, and the seconds of all that were tried."""
    tried = {}
    for size in sizes:
        tried[size] = run(size)
        say(f"batch size {size:<4} {tried[size]:8.2f} s")
    return min(tried, key=lambda size: tried[size]), tried


def ratios(slower: Sequence[float], faster: Sequence[float]) -> list[float]:
    """How many times longer the first took in each round that both took part in."""
    return [slow / fast for slow, fast in zip(slower, faster, strict=False)]


def ratio(slower: Sequence[float], faster: Sequence[float]) -> float:
    """The median of the ratios of the rounds."""
    return statistics.median(ratios(slower, faster))


def spread(slower: Sequence[float], faster: Sequence[float]) -> list[float]:
    """The least and the greatest of the ratios of the rounds."""
    found = ratios(slower, faster)
    return [round(min(found), 3), round(max(found), 3)]


class Announcer:
    """Prints progress with the time since the start."""

    def __init__(self) -> None:
        self.started = time.perf_counter()

    def __call__(self, line: str) -> None:
        """Print one line at once."""
        print(f"[{time.perf_counter() - self.started:7.1f} s] {line}", flush=True)
