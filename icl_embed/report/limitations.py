"""What the numbers of a run do not show, worked out from the run's own facts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from icl_embed.evaluation.scores import BM25
from icl_embed.report.facts import DatasetSize
from icl_embed.report.score_table import ScoreTable

SMALL_TEST = 200


def find_limitations(
    config: Mapping[str, Any], table: ScoreTable, sizes: Sequence[DatasetSize]
) -> tuple[str, ...]:
    """Sentences about what was left out, shortened or not varied; only those that apply."""
    found = [
        *_about_training(config),
        *_about_tests(config, table, sizes),
        *_about_comparisons(table),
        *_about_examples(config, table),
    ]
    return tuple(found)


def _about_training(config: Mapping[str, Any]) -> list[str]:
    found = []
    layers = config["model"]["num_layers"]
    if layers:
        found.append(
            f"Only the first {layers} layers of {config['model'].get('name', 'the base model')} are used, "
            "not the whole model."
        )
    train = config["train"]
    seen = train["batch_size"] * train["optimizer"]["steps"]
    found.append(
        f"One training run with one seed ({config['seed']}): the intervals cover the choice of test items, "
        "not the luck of training."
    )
    found.append(
        f"Training saw {seen:,} queries ({train['optimizer']['steps']} steps of {train['batch_size']}); "
        "a longer run may rank the settings differently."
    )
    return found


def _about_tests(config: Mapping[str, Any], table: ScoreTable, sizes: Sequence[DatasetSize]) -> list[str]:
    found = [
        "The tasks are local data sets run through mteb's classes and metrics; the scores are not entries of "
        "a public leaderboard and cannot be compared with one."
    ]
    cap = config["data"]["max_test_queries"]
    capped = [size.dataset.name for size in sizes if size.rows.get("test", 0) >= cap]
    if capped:
        found.append(f"Test queries are capped at {cap:,} per data set; {_names(capped)} reached the cap.")
    passages = config["data"]["max_test_passages"]
    cut = [size.dataset.name for size in sizes if size.passages >= passages]
    if cut:
        found.append(
            f"Search corpora are capped at {passages:,} passages; {_names(cut)} reached the cap, so finding "
            "the answer is easier than in the full collection."
        )
    small = [row.label for row in table.rows if row.kind != "clustering" and row.num_items < SMALL_TEST]
    if small:
        found.append(f"Fewer than {SMALL_TEST} test items: {_names(small)}. Their intervals are wide.")
    trained_on = [row.label for row in table.rows if row.trained_on]
    if trained_on:
        found.append(
            f"{_names(trained_on)}: the train split was trained on; the score shows learning, not transfer."
        )
    return found


def _about_comparisons(table: ScoreTable) -> list[str]:
    found = []
    comparisons = sum(len(row.differences) for row in (*table.averages, *table.rows))
    if comparisons > 1:
        found.append(
            f"{comparisons} differences are shown without correction for multiple comparisons; expect about "
            f"{max(1, round(comparisons * 0.05))} to look certain by chance alone."
        )
    if len({row.metric for row in table.rows}) > 1 and table.averages:
        found.append(
            "Averages mix metrics of different kinds (as MTEB's do); they rank, they do not measure."
        )
    return found


def _about_examples(config: Mapping[str, Any], table: ScoreTable) -> list[str]:
    found = []
    is_one_draw = config["evaluate"]["examples_strategy"] in ("fixed", "random")
    if any("few" in column.name for column in table.columns) and is_one_draw:
        found.append(
            f"Few-shot uses one set of up to {config['evaluate']['shots']} examples per task (example seed "
            f"{config['evaluate']['example_seed']}); other sets would give other scores."
        )
    for row in table.rows:
        found += [
            f"{row.label}: no few-shot score, because {reason}."
            for reason in sorted({reason for name, reason in row.absences.items() if name != BM25})
        ]
        found += (
            [f"{row.label}: no BM25 score, because {row.absences[BM25]}."] if BM25 in row.absences else []
        )
    dropped = [
        f"{item.dataset} ({score.notes['examples_dropped']})"
        for item in table.evaluated
        for name, score in item.scores.items()
        if name == "trained-few" and score.notes.get("examples_dropped")
    ]
    if dropped:
        found.append(
            f"Examples that did not fit into the token budget and were not shown: {_names(dropped)}."
        )
    return found


def _names(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
