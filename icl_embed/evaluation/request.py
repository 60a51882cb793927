"""What decides a score, before data or model are at hand: the one place where a score's key is made.

Whoever wants a score, a flow or ``icl-embed eval run``, makes a ``ScoreRequest``; equal requests have equal
keys, so a score is made once.
"""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from icl_embed.bm25 import WORDS_VERSION
from icl_embed.config import EvaluateConfig
from icl_embed.evaluation.scores import BM25, STAGE
from icl_embed.few_shot.settings import AskedSetting
from icl_embed.few_shot.sources import MAX_CANDIDATES, ExampleSource
from icl_embed.store import StageKey

FULL_DEPTH = "full depth"  # how a reranker is run when nothing else was chosen

VERSION = 4
OF_BM25 = ("bootstrap_resamples", "confidence")  # it has no prompt, no examples and no number format
OF_MODELS = ("label_experiments", "cluster_sets", *OF_BM25)


@dataclass(frozen=True)
class ScoredReranker:
    """A reranker after a search, as a score's key knows it; nothing of it is loaded.

    Attributes
        name, fingerprint: of a folder of the user's own.
        reference: its artefact; empty for a folder of the user's own.
        way: how it is run, in words, where no artefact says so.
        choice: artefact that says how it is run.
        top_k: passages of each search that it orders again.
    """

    top_k: int
    dtype: str
    name: str = ""
    fingerprint: str = ""
    reference: str = ""
    way: str = ""
    choice: str = ""

    def as_json(self) -> dict[str, str | int]:
        """What a key holds beside the artefacts."""
        own = {} if self.reference else {"name": self.name, "fingerprint": self.fingerprint}
        way = {} if self.choice else {"way": self.way}
        return {**own, **way, "top_k": self.top_k, "dtype": self.dtype}

    def inputs(self) -> dict[str, str]:
        """The artefacts that it is made of."""
        named = {"reranker": self.reference, "choice": self.choice}
        return {role: reference for role, reference in named.items() if reference}


@dataclass(frozen=True)
class ScoredModel:
    """A model as a score's key knows it; nothing of it is loaded.

    Attributes
        name: as labels call it.
        reference: its artefact; empty for BM25 and for a folder of the user's own.
        folder, fingerprint: of the user's own folder; a key holds what is in it, not where it lies.
        is_renamed: the user gave an artefact another name than its label's.
        second: a reranker that orders the first passages of its searches again.
        pooling: in place of what its folder says.
    """

    name: str
    reference: str = ""
    folder: Path | None = None
    fingerprint: str = ""
    is_renamed: bool = False
    second: ScoredReranker | None = None
    pooling: str = ""

    def as_json(self) -> dict[str, str]:
        """What a key holds beside the artefact."""
        if self.reference:
            pooling = {"pooling": self.pooling} if self.pooling else {}
            return ({"name": self.name} if self.is_renamed else {}) | pooling
        return {"name": self.name, "fingerprint": self.fingerprint}


@dataclass(frozen=True)
class ScoreRequest:
    """Everything that decides a score, before data or model are at hand.

    Attributes
        data: the artefact of the task's data: ``dataset/…`` of an own card, ``task-data/…`` of a benchmark.
        task: its name, for the label.
        asked: the setting; None for BM25, which is asked in none.
        split: what is evaluated of an own card, all of whose splits are in one artefact.
        config: budgets, options of strategies, and how intervals are made.
        source: where examples come from.
        example_files: hash of the source's files.
        pool: artefact of the source's pool; a hash where it is none.
        dtype: number format of the weights.
        instruction: in place of the task's own.
        made_examples: hash of examples of another quality than clean, which are made, not chosen.
        placebo: the pool's data set whose examples are shown instead of the task's.
        seed: of the bootstrap.
    """

    data: str
    task: str
    model: ScoredModel
    asked: AskedSetting | None
    config: EvaluateConfig
    split: str = ""
    source: ExampleSource = field(default_factory=ExampleSource)
    example_files: str = ""
    pool: str = ""
    dtype: str = "float32"
    instruction: str = ""
    made_examples: str = ""
    placebo: str = ""
    seed: int = 0

    @property
    def key(self) -> StageKey:
        """What decides the number, and the name that it is listed under."""
        model, asked, config = self.model, self.asked, self.config
        counts = OF_BM25 if asked is None else OF_MODELS
        settings: dict[str, Any] = {
            "evaluate": {name: getattr(config, name) for name in counts},
            "mteb": importlib.metadata.version("mteb"),
            "seed": self.seed,
        }
        inputs = {self.data.partition("/")[0]: self.data}
        if model.reference:
            inputs["model"] = model.reference
        settings |= {"split": self.split} if self.split else {}
        if model.second:
            settings["reranker"] = model.second.as_json()
            inputs |= model.second.inputs()
        if asked is None:
            settings["words"] = WORDS_VERSION
        else:
            settings |= {"asked": asked.as_json(), "dtype": self.dtype, "model": model.as_json()}
            settings["prompt"] = config.prompt.model_dump(mode="json")
            settings |= {"instruction": self.instruction} if self.instruction else {}
        if asked is not None and asked.shots:
            settings["examples"] = self._examples(asked)
            inputs |= {"pool": self.pool} if self.pool.startswith("pool/") else {}
        asked_of = f"{model.name}+reranker" if model.second else model.name
        about = f"{asked_of} on {self.task}" + (f" {self.split}" if self.split == "dev" else "")
        return StageKey(STAGE, VERSION, settings, inputs, f"{about}, {asked.name if asked else BM25}")

    def _examples(self, asked: AskedSetting) -> dict[str, Any]:
        found: dict[str, Any] = {
            "files": self.example_files,
            "made": self.made_examples,
            "placebo": self.placebo,
        }
        if asked.selection not in ("fixed", "random"):
            found["selection"] = self.config.selection.model_dump(mode="json")
        if self.pool:
            found |= {"pool": "" if self.pool.startswith("pool/") else self.pool}
            found["pool_name"] = self.source.pool_names.get(self.task, "")
        if not self.example_files and self.source.max_candidates != MAX_CANDIDATES:
            found["max_candidates"] = self.source.max_candidates
        return {name: value for name, value in found.items() if value}
