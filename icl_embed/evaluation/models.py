"""From what a user calls a model to one that can be asked, with the reranker after it if there is one."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from numpy.typing import ArrayLike

from icl_embed.config import ONE_HERE, EngineConfig, Pooling, PromptConfig
from icl_embed.errors import EvaluationError, ModelError
from icl_embed.evaluation.request import FULL_DEPTH, ScoredModel, ScoredReranker
from icl_embed.evaluation.reranking import PairScorer
from icl_embed.evaluation.scores import BM25, STAGE
from icl_embed.evaluation.tasks.task import EvaluatedModel
from icl_embed.model.cached_encoding import Encoder
from icl_embed.model.dtype import resolve_device
from icl_embed.model.fingerprints import Fingerprints
from icl_embed.model.sentence_transformer import SentenceTransformerEncoder, is_sentence_transformer
from icl_embed.model.settings import SETTINGS_NAME, has_prompt_tokens, read_settings
from icl_embed.store import Artefact, Store
from icl_embed.store.files import files_below, sha256_of
from icl_embed.store.key import canonical_json
from icl_embed.store.lineage import trained_datasets
from icl_embed.store.models import find_model

if TYPE_CHECKING:
    from icl_embed.rerank.reranker import InWay, Reranker


@dataclass(frozen=True)
class SecondStage:
    """A reranker that orders the first passages of every search again.

    Attributes
        fingerprint: of everything in its folder.
        choice: what tuning chose for it; None runs it at full depth.
        top_k: passages per query that are reranked; those beyond are dropped.
        reference, chosen: the artefacts that reranker and choice are, if they are in the store.
        engine: where it runs.
    """

    name: str
    fingerprint: str
    folder: Path
    choice: Path | None = None
    top_k: int = 100
    device: str = "auto"
    dtype: str = "auto"
    reference: str = ""
    chosen: str = ""
    engine: EngineConfig = ONE_HERE

    @property
    def scored(self) -> ScoredReranker:
        """How a score's key knows it."""
        way = "" if self.chosen else self.way
        return ScoredReranker(
            self.top_k, self.dtype, self.name, self.fingerprint, self.reference, way, self.chosen
        )

    @cached_property
    def way(self) -> str:
        """How it is run, in words.

        Raises
            ConfigError: the choice was made for another reranker, or is damaged.
        """
        from icl_embed.evaluation.reranker.tuning import read_choice, way_of
        from icl_embed.rerank.folder import read_reranker_settings
        from icl_embed.rerank.ways import name_of

        if self.choice is None:
            return FULL_DEPTH
        return name_of(way_of(read_choice(self.choice), read_reranker_settings(self.folder)))

    @cached_property
    def scorer(self) -> PairScorer:
        """The reranker itself, loaded when first needed.

        Raises
            ModelError: it cannot be loaded.
        """
        from icl_embed.engines.engine import device_of, spread_over
        from icl_embed.rerank.scorer_pool import ScorerPool

        choice = self.choice.resolve() if self.choice else None
        devices = spread_over(self.engine, self.device)
        if devices is None:
            return _scorer_on(self.folder, choice, self.dtype, device_of(self.engine, self.device))
        load = partial(_score_on, self.folder.resolve(), choice, self.dtype)
        return ScorerPool.start(self.engine, devices, "reranker", load)

    def after(self, first: EvaluatedModel) -> EvaluatedModel:
        """First stage and reranker under a name and fingerprint of their own."""
        how = {"name": self.name, "fingerprint": self.fingerprint, "way": self.way, "dtype": self.dtype}
        both = canonical_json([first.fingerprint, {**how, "top_k": self.top_k}])
        way = "" if self.choice is None else f", {self.way}"
        return replace(
            first,
            name=f"{first.name}+{self.name} on {self.top_k}{way}",
            fingerprint=hashlib.sha256(both.encode()).hexdigest()[:16],
        )


def _scorer_on(folder: Path, choice: Path | None, dtype: str, device: str) -> Reranker | InWay:
    from icl_embed.evaluation.reranker.tuning import read_choice, way_of
    from icl_embed.rerank.reranker import InWay, Reranker

    reranker = Reranker.load(folder, device=device, dtype=dtype)
    if choice is None:
        return reranker
    return InWay(reranker, way_of(read_choice(choice), reranker.settings))


def _score_on(folder: Path, choice: Path | None, dtype: str, device: str) -> Callable[..., ArrayLike]:
    return _scorer_on(folder, choice, dtype, device).score


def open_second_stage(
    reference: str,
    store: Store,
    *,
    choice: Path | None,
    top_k: int,
    device: str,
    dtype: str,
    engine: EngineConfig = ONE_HERE,
) -> SecondStage:
    """Find a reranker and its fingerprint; its weights are not loaded yet.

    Raises
        ModelError: there is no such reranker.
        ConfigError: the choice is not for it.
    """
    from icl_embed.model.fingerprints import folder_fingerprint
    from icl_embed.store.models import RERANKERS, find_model

    folder = find_model(store, reference, RERANKERS).path
    fingerprint, mine = folder_fingerprint(folder), store.reference_of(folder)
    name = f"reranker-{fingerprint[:8]}" if mine else folder.resolve().name
    chosen = store.reference_of(choice.parent) if choice else ""
    found = SecondStage(name, fingerprint, folder, choice, top_k, device, dtype, mine, chosen, engine)
    _ = found.way  # what is wrong with the choice is said before anything is searched
    return found


def shown_name(artefact: Artefact) -> str:
    """As tables call a model of the store: its label and the start of its fingerprint."""
    return f"{artefact.manifest.label or artefact.stage}-{artefact.fingerprint[:8]}"


logger = logging.getLogger(__name__)

ModelSort = Literal["ours", "sentence-transformers", "bm25"]
WARM_UP = [f"a short text, number {number}" for number in range(8)]
DECIDING_SUFFIXES = {".safetensors", ".json", ".txt", ".model", ".jinja"}


@dataclass(frozen=True)
class OpenedModel:
    """A model that a run evaluates.

    Attributes
        about: name, fingerprint of its content, folder, device and number format.
        sort: ``ours`` reads prompts of ours (bge-en-icl too); the others take no examples.
        prompt: token budgets; None where the model has its own.
        reference: the store's artefact that it is, if it is one.
        trained_on: names of the store's data sets whose train split it has seen, as far as the store tells.
        second: a reranker that orders the first passages of every search again.
        is_renamed: the user gave an artefact another name than its label's.
        pooling: in place of what its folder says.
        engine: where it runs.
    """

    about: EvaluatedModel
    sort: ModelSort
    prompt: PromptConfig | None = None
    reference: str = ""
    trained_on: frozenset[str] = frozenset()
    second: SecondStage | None = None
    is_renamed: bool = False
    pooling: Pooling | None = None
    engine: EngineConfig = ONE_HERE

    @property
    def shown(self) -> EvaluatedModel:
        """What tables call it: the model, or the model and the reranker after it."""
        return self.second.after(self.about) if self.second else self.about

    @property
    def scored(self) -> ScoredModel:
        """How a score's key knows it, with the reranker after it."""
        about = self.about
        folder, fingerprint = (None, "") if self.reference else (about.folder, about.fingerprint)
        second = self.second.scored if self.second else None
        return ScoredModel(about.name, self.reference, folder, fingerprint, self.is_renamed, second)

    @property
    def no_examples_because(self) -> str:
        """Why it cannot be asked with examples; empty when it can."""
        return {
            "ours": "",
            "sentence-transformers": "a sentence-transformers model takes no examples",
            "bm25": "BM25 takes no examples",
        }[self.sort]

    @cached_property
    def encoder(self) -> Encoder:
        """The model itself, loaded when first needed.

        Raises
            ModelError: the folder cannot be loaded.
        """
        about = self.about
        logger.info("loading %s from %s in %s", about.name, about.folder, about.dtype)
        if self.sort == "bm25":
            raise ModelError("BM25 makes no vectors")
        if self.sort == "sentence-transformers":
            device = str(resolve_device(about.device))
            encoder: Encoder = SentenceTransformerEncoder.load(about.folder, device=device, dtype=about.dtype)
        else:
            from icl_embed.model.encoder_pool import open_encoder

            saved = read_settings(about.folder)
            changes = {"prompt": self.prompt, "pooling": self.pooling or saved.pooling}
            settings = saved.model_copy(update=changes)
            encoder = open_encoder(
                about.folder, self.engine, device=about.device, dtype=about.dtype, settings=settings
            )
        # The first calls of a process pay for allocations and kernel choice; no setting shall.
        encoder.encode_queries(WARM_UP, instruction="warm up")
        encoder.encode_passages(WARM_UP)
        return encoder


def open_model(
    reference: str,
    store: Store,
    *,
    prompt: PromptConfig,
    name: str = "",
    device: str = "auto",
    dtype: str = "auto",
    pooling: Pooling | None = None,
    engine: EngineConfig = ONE_HERE,
) -> OpenedModel:
    """Find a model and read its fingerprint; its weights are not loaded yet.

    Parameters
        reference: ``bm25``, a folder, or an artefact of the store (``embedder/1f0c``, a label); "" for the
            newest embedder of the store.
        name: in tables; default: the folder's name, or the artefact's label and fingerprint.
        dtype: ``auto`` is bfloat16 on a GPU and float32 on a CPU: a probe could decide otherwise the next
            time, and nothing would be found again.
        pooling: in place of what its folder says; it then is another model.
        engine: where it runs, if ``device`` is ``auto``.

    Raises
        ModelError: no such folder or artefact, or the folder is not a model.
    """
    if reference == BM25:
        from icl_embed.bm25 import VERSION

        return OpenedModel(EvaluatedModel(name or BM25, VERSION, Path(), dtype="none"), "bm25", engine=engine)
    found = find_model(store, reference)
    folder, artefact = found.path, found.artefact
    default = folder.resolve().name
    if artefact is not None:
        default = shown_name(artefact)
    sort = _sort_of(folder)
    if dtype == "auto":
        dtype = "bfloat16" if resolve_device(device).type == "cuda" and sort == "ours" else "float32"
    fingerprint = content_fingerprint(folder, sort)
    if pooling:
        fingerprint = hashlib.sha256(f"{fingerprint} {pooling}".encode()).hexdigest()[:16]
    about = EvaluatedModel(
        name or default,
        fingerprint,
        folder,
        device=device,
        dtype=dtype,
    )
    return OpenedModel(
        about,
        sort,
        prompt if sort == "ours" else None,
        artefact.reference if artefact else "",
        trained_datasets(found.store, artefact) if artefact else frozenset(),
        is_renamed=artefact is not None and name not in ("", default),
        pooling=pooling,
        engine=engine,
    )


def content_fingerprint(folder: Path, sort: ModelSort) -> str:
    """Hash of everything in a folder that decides a vector, token budgets apart.

    Raises
        ModelError: it holds no weights that we read.
    """
    digest = hashlib.sha256()
    if sort == "ours":
        if not any(folder.glob("*.safetensors")):
            raise ModelError(f"{folder} holds no *.safetensors; expected a model folder")
        files = Fingerprints.of_folder(folder)
        settings = read_settings(folder).model_dump(mode="json", exclude={"prompt"})
        digest.update(canonical_json([files.model, files.tokenizer, settings]).encode())
    else:
        for path in files_below(folder):
            if path.suffix in DECIDING_SUFFIXES:
                digest.update(f"{path.relative_to(folder).as_posix()}:{sha256_of(path)}\n".encode())
    return digest.hexdigest()[:16]


def fingerprint_of(folder: Path) -> str:
    """``content_fingerprint`` of a model folder of either sort.

    Raises
        ModelError: it holds no weights that we read.
    """
    return content_fingerprint(folder, _sort_of(folder))


def refuse_shared_name(store: Store, about: EvaluatedModel) -> None:
    """Two models with one name could not be told apart in any table.

    Raises
        EvaluationError: the store has scores of another model under this name.
    """
    for artefact in store.artefacts():
        if artefact.stage != STAGE:
            continue
        name, fingerprint = (artefact.manifest.counts.get(part) for part in ("model", "model_fingerprint"))
        if name == about.name and fingerprint != about.fingerprint:
            raise EvaluationError(
                f"the store has scores of another model that is called {about.name!r} (fingerprint "
                f"{fingerprint}, this one is {about.fingerprint}); give this one a name of its "
                f"own, e.g. --name {about.name}-{about.fingerprint[:6]}"
            )


def _sort_of(folder: Path) -> ModelSort:
    is_ours = (folder / SETTINGS_NAME).is_file() or has_prompt_tokens(folder)
    return "sentence-transformers" if is_sentence_transformer(folder) and not is_ours else "ours"
