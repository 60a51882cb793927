"""The model card: ``README.md`` with the front matter that the Hugging Face hub reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from icl_embed.export.facts import DatasetFact, ModelFacts, ScoreFact
from icl_embed.export.folder import Exported
from icl_embed.export.sentence_transformers_files import longest_prompt, prompt_of
from icl_embed.export.task_prompts import TaskPrompt
from icl_embed.report.page import markdown_text
from icl_embed.report.score_table import METRIC_NAMES
from icl_embed.store.files import write_atomically

TAGS = ("sentence-transformers", "feature-extraction", "sentence-similarity", "few-shot", "icl-embed")
HUB_TASKS = {"retrieval": "Retrieval", "reranking": "Reranking", "sts": "STS"}


def write_card(
    out_dir: Path, exported: Exported, facts: ModelFacts | None, *, name: str, licence: str = ""
) -> None:
    """Write ``README.md``.

    Parameters
        facts: what the store knows; None for a folder from elsewhere, whose card says so.
        name: the model's name, as people will load it.
        licence: SPDX name of the weights' licence, for the front matter; ``other`` when it is not given.

    Raises
        StoreError: the disk refused.
    """
    shown, shown_task = next(iter(exported.tasks.items()), ("", TaskPrompt("Retrieve the answer")))
    body = card_template("card.md.j2").render(
        name=name,
        exported=exported,
        facts=facts,
        licence=licence,
        metric_names=METRIC_NAMES,
        shown=shown,
        prompt=prompt_of(shown_task, exported.settings, exported.text),
        longest=longest_prompt(shown_task, exported.text),
        lengths={key: longest_prompt(task, exported.text) for key, task in exported.tasks.items()},
        different={key: count for key, count in exported.differences.items() if count},
        limitations=_limitations(exported, facts),
    )
    front = yaml.safe_dump(_front_matter(facts, name, licence), sort_keys=False, allow_unicode=True)
    write_atomically(out_dir / "README.md", f"---\n{front}---\n\n{body}".encode())


def card_template(name: str) -> Template:
    """A template of this folder; every value that it shows is escaped for Markdown."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=False,  # noqa: S701 - Markdown; finalize escapes every value
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=markdown_text,
    )
    # A Python literal in ASCII: what a text holds cannot leave its quotes.
    environment.filters["literal"] = lambda value: Markup(ascii(value))  # noqa: S704
    environment.filters["percent"] = lambda value: f"{100 * value:.1f}"
    return environment.get_template(name)


def _front_matter(facts: ModelFacts | None, name: str, licence: str) -> dict[str, Any]:
    front: dict[str, Any] = {
        "license": licence.lower() or "other",
        "library_name": "sentence-transformers",
        "pipeline_tag": "sentence-similarity",
        "tags": list(TAGS),
    }
    if facts is None:
        return front
    if facts.base.get("source") == "hub":
        front["base_model"] = facts.base["name"]
    trained = [one.hub_name for one in facts.datasets if one.is_trained_on and one.hub_name]
    if trained:
        front["datasets"] = trained
    if facts.scores:
        front["model-index"] = [{"name": name, "results": [_result(fact) for fact in facts.scores]}]
    return front


def _result(fact: ScoreFact) -> dict[str, Any]:
    """One entry of the hub's model index: the scores on one data set."""
    scores = fact.scores
    return {
        "task": {"type": HUB_TASKS.get(scores.kind, scores.kind.replace("_", " ").title())},
        "dataset": {"type": scores.card, "name": scores.card, "split": scores.split},
        "metrics": [
            {
                "type": scores.metric,
                "name": f"{METRIC_NAMES.get(scores.metric, scores.metric)}, {one.setting}",
            }
            | {"value": round(100 * one.mean, 2)}
            for one in (fact.zero_shot, fact.few_shot)
            if one is not None
        ],
    }


def _limitations(exported: Exported, facts: ModelFacts | None) -> list[str]:
    """Sentences about what the figures do not show and what other libraries do differently."""
    budgets = exported.settings.prompt
    found = [
        f"icl-embed cuts a query with its instruction to {budgets.query_tokens} tokens and a passage to "
        f"{budgets.passage_tokens}. The calls above do the same; a library that is not told these lengths "
        f"cuts at {budgets.total_tokens} tokens, or nowhere, and gives longer texts other vectors"
        + (
            ". Under mean pooling sentence-transformers cuts a long query at its end, which is then lost."
            if exported.settings.pooling == "mean"
            else "."
        )
    ]
    if not exported.text.mark:
        found.append(
            "transformers builds this family's tokenizer anew on loading, so a prompt is tokenised as one "
            "string: a text that ends in white space, or that spells a special token, gets other tokens than "
            "in icl-embed."
        )
    if facts is None:
        return [
            *found,
            "This model was not made from a store of artefacts: its data and scores are not known here.",
        ]
    if not facts.scores:
        return [*found, "No evaluation of this model is in its store."]
    return [
        *found,
        "The tasks are local data sets run through mteb's classes and metrics; the scores are not entries of "
        "a public leaderboard and cannot be compared with one.",
        "One training run with one seed: the intervals cover the choice of test items, not training's luck.",
        *_about_examples(facts),
        *_about_small_tests(facts.scores),
        *_about_licences(facts.datasets),
    ]


def _about_examples(facts: ModelFacts) -> list[str]:
    few = [fact.few_shot.shots for fact in facts.scores if fact.few_shot]
    if not few:
        return []
    return [
        f"Few-shot scores use one set of up to {max(few)} examples per task; other sets give other scores."
    ]


def _about_small_tests(scores: Sequence[ScoreFact]) -> list[str]:
    small = [
        fact.scores.card
        for fact in scores
        if fact.scores.kind != "clustering"
        and fact.scores.results
        and fact.scores.results[0].num_queries < 200
    ]
    return [f"Fewer than 200 test items: {', '.join(small)}. Their intervals are wide."] if small else []


def _about_licences(datasets: Sequence[DatasetFact]) -> list[str]:
    unknown = [one.name for one in datasets if one.is_trained_on and not one.licence]
    return [f"No data card states the licence of {', '.join(unknown)}."] if unknown else []
