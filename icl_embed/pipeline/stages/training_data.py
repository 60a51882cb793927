"""Stages ``dataset``, ``pool`` and ``negatives``: from a card to rows that can be trained on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icl_embed.config import RunConfig, identity, restored
from icl_embed.sources.card import Card
from icl_embed.store import StageKey

if TYPE_CHECKING:
    from icl_embed.pipeline.run import Run


DATASET, POOL, NEGATIVES = "dataset", "pool", "negatives"
VERSIONS = {DATASET: 3, POOL: 4, NEGATIVES: 3}
VECTORS = "float16"  # how vectors lie on disk while they are searched


def dataset_key(config: RunConfig, card: Card) -> StageKey:
    """Rows of one card: its content-deciding part and the size caps."""
    caps = config.data.model_dump(mode="json", exclude={"train": True, "evaluate": True})
    settings = {"card": card.settings(), "caps": caps}
    return StageKey(DATASET, VERSIONS[DATASET], settings, {}, card.name)


def build_dataset(run: Run, key: StageKey, out_dir: Path) -> Mapping[str, Any]:
    """Fetch, read, check and split one card's rows."""
    from icl_embed.corpus.dataset import build_dataset

    return build_dataset(run.card(key.label), run.config.paths.downloads, out_dir, **key.settings["caps"])


def pool_key(config: RunConfig, cards: Mapping[str, Card], datasets: Mapping[str, StageKey]) -> StageKey:
    """The pool: every data set, which of them are trained on, and the cleaning rules."""
    trained = sorted(name for name in cards if name in config.data.train)
    settings = {"pool": identity(config.pool), "trained": trained, "seed": config.seed}
    inputs = {name: key.reference for name, key in datasets.items()}
    return StageKey(POOL, VERSIONS[POOL], settings, inputs, config.preset)


def build_pool(run: Run, key: StageKey, out_dir: Path) -> Mapping[str, Any]:
    """Clean, deduplicate and decontaminate all data sets."""
    from icl_embed.pool.build import build_pool
    from icl_embed.pool.inputs import PoolInput

    inputs = []
    for name in key.inputs:
        card, artefact = run.card(name), run.input(key, name)
        inputs.append(
            PoolInput(
                name=name,
                kind=card.kind,
                instruction=card.instruction,
                folder=artefact.path,
                trained=name in key.settings["trained"],
                fingerprint=artefact.fingerprint,
            )
        )
    config = restored(key.settings["pool"], run.config.pool)
    return build_pool(inputs, config, out_dir, seed=key.settings["seed"])


def negatives_key(config: RunConfig, base: StageKey, pool: StageKey) -> StageKey:
    """Mined negatives; the base model is an input only when it is used."""
    inputs = {"pool": pool.reference}
    settings: dict[str, Any] = {"negatives": identity(config.negatives), "seed": config.seed}
    if "dense" in config.negatives.methods:
        inputs["base-model"] = base.reference
        settings["vectors"] = VECTORS
    return StageKey(NEGATIVES, VERSIONS[NEGATIVES], settings, inputs, config.preset)


def build_negatives(run: Run, key: StageKey, out_dir: Path) -> Mapping[str, Any]:
    """Mine hard negatives for every training pair; a killed run goes on in its work folder."""
    from icl_embed.pool.mining import Miner, mine_negatives

    config = restored(key.settings["negatives"], run.config.negatives)
    pool, work = run.input(key, "pool").path, run.store.work_dir(key)
    if "base-model" not in key.inputs:
        return mine_negatives(pool, out_dir, Miner(config, key.settings["seed"], work_dir=work))
    from icl_embed.model.encoder_pool import open_encoder
    from icl_embed.model.stored_search import embed_to, search_devices, search_of

    base = run.input(key, "base-model")
    embedder = open_encoder(base.path, run.config.engine)
    miner = Miner(
        config,
        key.settings["seed"],
        # another number format makes other vectors: a resumed run may find itself on another machine
        embed=embed_to(work, embedder, {"fingerprint": base.fingerprint, "dtype": embedder.dtype}),
        search=search_of(config.search, config.faiss_from, search_devices(run.config.engine)),
        work_dir=work,
        identity=embedder.dtype,
    )
    return mine_negatives(pool, out_dir, miner)
