"""The estimate below ``icl-embed plan``: what would be fetched, trained and needed, as a table."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console
from rich.markup import escape

from icl_embed.pipeline.estimate import Estimate, Part
from icl_embed.train.cost import Machine, Memory

UNKNOWN = "?"
COLUMNS: dict[str, Callable[[Part], str]] = {
    "stage": lambda part: part.what,
    "fetch, GB": lambda part: _giga(part.fetched),
    "store, GB": lambda part: _giga(part.written),
    "rows": lambda part: _count(part.rows),
    "steps": lambda part: _count(part.steps),
    "tokens (at most)": lambda part: _tokens(part),  # noqa: PLW0108 - it is defined below
    "FLOPs": lambda part: "" if part.flops is None else f"{part.flops:.2g}",
    "GB per GPU": lambda part: "" if part.memory is None else f"{part.memory.total / 1e9:.1f}",
    "hours": lambda part: "" if part.seconds is None else f"{part.seconds / 3600:.2g}",
}


def show_estimate(console: Console, found: Estimate, machine: Machine) -> None:
    """Print it; nothing if there is nothing to fetch or train."""
    if not found.parts:
        return
    console.print(
        f"\nestimate for {machine.gpus} x {machine.gpu} at {100 * machine.mfu:.0f} % of "
        f"{machine.sheet.tflops:.0f} bf16 TFLOP/s"
    )
    lines = [list(COLUMNS), *([column(part) for column in COLUMNS.values()] for part in found.parts)]
    hours = sum(part.seconds or 0.0 for part in found.parts) / 3600
    lines.append(["together", *_sums(found), *[""] * 5, f"{hours:.2g}" if hours else ""])
    first, *widths = (max(map(len, column)) for column in zip(*lines, strict=True))
    for name, *cells in lines:
        shown = "  ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
        console.print(escape(f"{name:<{first}}  {shown}".rstrip()), soft_wrap=True)
    notes = [_memory(part.what, part.memory, machine) for part in found.parts if part.memory]
    for note in [*notes, *found.notes]:
        console.print(f"- {escape(note)}", soft_wrap=True)


def _sums(found: Estimate) -> tuple[str, str]:
    """Of what is known; more where something is not."""

    def total(values: list[float | None]) -> str:
        known = sum(value or 0.0 for value in values)
        return _giga(known) + ("+" if None in values else "")

    return total([part.fetched for part in found.parts]), total([part.written for part in found.parts])


def _memory(what: str, memory: Memory, machine: Machine) -> str:
    room = machine.sheet.memory
    return (
        f"memory of {what}, in GB: weights {memory.weights / 1e9:.1f}, what is trained "
        f"{memory.trained / 1e9:.1f}, gradients on their way {memory.exchange / 1e9:.1f}, activations "
        f"{memory.activations / 1e9:.1f}" + ("" if memory.total < 1e9 * room else f"; a GPU has {room:.0f}")
    )


def _giga(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value / 1e9:.1f}" if value else ""


def _count(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _tokens(part: Part) -> str:
    if part.tokens is None:
        return ""
    return f"{part.tokens:.2g}" + (f" ({part.most_tokens:.2g})" if part.most_tokens else "")
