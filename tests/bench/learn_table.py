"""What ``tests.bench.learn`` measured, as differences with intervals over test items and seeds.

``python -m tests.bench.learn_table --learned OUT/learn.json --store STORE --control none --out FILE``

A variant is compared with itself without examples and with examples of another task, and with the control by
seed. Averages are over what all compared models were measured on; a card is a set of ours that no variant was
trained on, a task is a public one.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from icl_embed.config import RunConfig
from icl_embed.evaluation.measurement import (
    Bootstrap,
    Measured,
    compare,
    difference_over_trainings,
)
from icl_embed.evaluation.scores import read_measurements, read_scores
from icl_embed.sources.card import load_catalog
from icl_embed.store.files import write_atomically

ZERO, FEW, PLACEBO = "zero-shot", "few-shot", "few-shot, another task's examples"
HOW = Bootstrap(2000, 0.95, 13)


@dataclass(frozen=True)
class Cell:
    """One model on one task in one setting."""

    variant: str
    seed: int
    task: str
    setting: str


Table = Mapping[Cell, Measured]


def read_table(learned: Mapping[str, Any], store: Path) -> dict[Cell, Measured]:
    """All measurements of a run of ``tests.bench.learn``."""
    found: dict[Cell, Measured] = {}
    for name, job in learned["jobs"].items():
        variant, _, seed = name.rpartition(".")
        for score in job["scores"]:
            setting = PLACEBO if score["is_placebo"] else FEW if score["shots"] else ZERO
            folder = store / score["artefact"]
            if score.get("score") is not None:
                (measured,) = read_measurements(folder, read_scores(folder)).values()
                found[Cell(variant, int(seed), score["task"], setting)] = measured
    return found


def difference(
    table: Table, first: tuple[str, str], second: tuple[str, str], tasks: Sequence[str]
) -> dict[str, Any] | None:
    """(variant, setting) minus (variant, setting) over the seeds and tasks that both have."""
    sides = [
        {(cell.seed, cell.task): one for cell, one in table.items() if (cell.variant, cell.setting) == side}
        for side in (first, second)
    ]
    both = sides[0].keys() & sides[1].keys()
    seeds = sorted({seed for seed, _ in both})
    shared = [task for task in tasks if seeds and all((seed, task) in both for seed in seeds)]
    if not shared:
        return None
    trainings = [[(sides[0][seed, task], sides[1][seed, task]) for task in shared] for seed in seeds]
    whole = difference_over_trainings(trainings, HOW)
    by_seed = [difference_over_trainings([pairs], HOW) for pairs in trainings]
    return {
        "first": first,
        "second": second,
        "tasks": len(shared),
        "over_items_and_seeds": whole.in_points,
        "by_seed_over_items": [one.in_points for one in by_seed],
        "by_task": {
            task: [compare(*pairs[number], HOW).in_points for pairs in trainings]
            for number, task in enumerate(shared)
        },
    }


def summarise(learned: Mapping[str, Any], table: Table, control: str) -> dict[str, Any]:
    """The result file."""
    catalogue = load_catalog([RunConfig().paths.catalog])
    groups: dict[str, list[str]] = {"own cards": [], "public tasks": []}
    for cell in table:
        mine = groups["own cards" if cell.task in catalogue else "public tasks"]
        if cell.task not in mine:
            mine.append(cell.task)
    variants = list(dict.fromkeys(cell.variant for cell in table))
    wanted = [((name, FEW), (name, other)) for name in variants for other in (ZERO, PLACEBO)]
    for name in variants:
        if name != control:
            wanted += [((name, FEW), (control, ZERO)), ((name, FEW), (control, FEW)),
                       ((name, ZERO), (control, ZERO))]  # fmt: skip
    return {
        "machine": learned["machine"],
        "command": learned["command"],
        "training": {name: job["training"] for name, job in learned["jobs"].items()},
        "scores": {group: _scores(table, tasks) for group, tasks in groups.items()},
        "differences": {
            group: [one for pair in wanted if (one := difference(table, *pair, tasks)) is not None]
            for group, tasks in groups.items()
        },
    }


def _scores(table: Table, tasks: Sequence[str]) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Points in percent: variant → setting → task → by seed."""
    found: dict[str, dict[str, dict[str, list[float]]]] = {}
    for cell, measured in sorted(table.items(), key=lambda item: tuple(map(str, asdict(item[0]).values()))):
        if cell.task in tasks:
            by_task = found.setdefault(cell.variant, {}).setdefault(cell.setting, {})
            by_task.setdefault(cell.task, []).append(round(100 * measured.point, 2))
    return found


def main() -> None:
    """Read, compare, write and print the differences."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--learned", type=Path, required=True)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--control", default="none", help="the variant that others are compared with")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    learned = json.loads(options.learned.read_text(encoding="utf-8"))
    found = summarise(learned, read_table(learned, options.store), options.control)
    write_atomically(options.out, (json.dumps(found, indent=1) + "\n").encode())
    for group, differences in found["differences"].items():
        for one in differences:
            names = " − ".join(f"{variant} {setting}" for variant, setting in (one["first"], one["second"]))
            print(
                f"{group} ({one['tasks']}): {names}: {one['over_items_and_seeds']}", one["by_seed_over_items"]
            )


if __name__ == "__main__":
    main()
