"""What a run would fetch, train and need: bytes, rows, steps, tokens, operations, memory, hours."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from icl_embed.config import RANKING_KINDS, BaseModelConfig, OptimizerConfig, RunConfig
from icl_embed.errors import ConfigError
from icl_embed.model.decoder_shape import DecoderShape
from icl_embed.pipeline.known_sizes import (
    CAPPED,
    PUBLISHED_MODELS,
    Trained,
    is_there,
    known_sets,
    published_sets,
    shape_of,
)
from icl_embed.pipeline.stages.base_model import base_model_key, models_of
from icl_embed.store import Store
from icl_embed.train import cost
from icl_embed.train.cost import Machine, Memory, Rows

if TYPE_CHECKING:
    from icl_embed.pipeline.run import Run
    from icl_embed.store import StageKey

ELEMENT = {"float32": 4, "bfloat16": 2, "auto": 2}


@dataclass(frozen=True)
class Part:
    """What one stage, or all of one kind, would take; None is unknown.

    Attributes
        fetched, written: bytes that come from afar, and that stay in the store.
        tokens, most_tokens: expected, and if every text filled its budget.
    """

    what: str
    fetched: float | None = 0.0
    written: float | None = 0.0
    rows: int | None = None
    steps: int | None = None
    tokens: float | None = None
    most_tokens: float | None = None
    flops: float | None = None
    memory: Memory | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Estimate:
    """All of it, and what it rests on."""

    parts: Sequence[Part]
    notes: Sequence[str]


def estimate(
    config: RunConfig,
    sets: Sequence[Trained],
    stages: Collection[str],
    machine: Machine,
    *,
    unknown: Sequence[str] = (),
) -> Estimate:
    """What the missing stages of a run would take.

    Parameters
        stages: names of those that would run.
        unknown: data sets of which nothing is known, with the reason.
    """
    store, parts, notes = Store(config.paths.store), [], [f"unknown: {one}" for one in unknown]
    shapes: dict[str, tuple[DecoderShape, int] | None] = {}
    for model in models_of(config):
        shapes[model.name] = found = shape_of(config, model, store)
        if "base-model" in stages and not is_there(store, base_model_key(config, model)):
            parts.append(_base_model(config, model, found))
        if found is None:
            notes.append(f"the sizes of {model.name} are known once it is fetched; so is its training")
    if "dataset" in stages or "negatives" in stages:
        parts.append(_data(sets, stages, is_known=not unknown))
    notes += dict.fromkeys(basis for one in sets for basis in one.basis)

    known = [] if unknown else sets
    for part in _trainings(config, known, stages, {name: one and one[0] for name, one in shapes.items()}):
        parts.append(_timed(part, machine) if part.flops else part)
    if {"score", "task-data"} & set(stages):
        parts.append(Part("benchmarks", fetched=None, written=None))
        notes.append("benchmarks: what a task holds is known once its data are there")
    return Estimate(parts, notes)


def _trainings(
    config: RunConfig,
    sets: Sequence[Trained],
    stages: Collection[str],
    shapes: Mapping[str, DecoderShape | None],
) -> Iterator[Part]:
    embedder, base = shapes[config.model.name], config.rerank.base or config.model
    reranker, ranking = shapes[base.name], [one for one in sets if one.kind in RANKING_KINDS]
    for stage in ("embedder", "control"):
        if stage in stages and embedder and sets:
            yield embedder_part(config, embedder, sets, stage)
        elif stage in stages:
            yield Part(stage, written=None)
    if "reranker" in stages and reranker and ranking:
        yield reranker_part(config, reranker, ranking, capped=base.name in CAPPED)
    elif "reranker" in stages:
        yield Part("reranker", written=None)


def _timed(part: Part, machine: Machine) -> Part:
    """With its seconds; a step reads the weights in every pass, three at the least."""
    weights = part.memory.weights if part.memory else 0.0
    passes = 3.0 * (part.steps or 0)
    return replace(part, seconds=machine.seconds(part.flops or 0.0, weights=weights, passes=passes))


def _base_model(config: RunConfig, model: BaseModelConfig, found: tuple[DecoderShape, int] | None) -> Part:
    name = f"base-model {model.name}"
    if found is None:
        return Part(name, fetched=None, written=None)
    shape, stored = found
    published = PUBLISHED_MODELS.get(model.name)
    whole = (published[0] if published else shape).stored_parameters * stored
    return Part(name, 0.0 if model.source == "local" else whole, shape.stored_parameters * stored)


DATA_COPIES = 3  # rows, pool and negatives each keep the texts, compressed about as the source's shards are


def _data(sets: Sequence[Trained], stages: Collection[str], *, is_known: bool) -> Part:
    rows = sum(one.rows for one in sets) if sets and is_known else None
    fetched = sum(one.num_bytes for one in sets)
    is_told = is_known and (fetched > 0 or "dataset" not in stages)
    return Part(
        f"data sets to train on ({len(sets)})" if is_told else "data sets to train on",
        fetched=fetched if is_told else None,
        written=DATA_COPIES * fetched if is_told else None,
        rows=rows,
    )


def embedder_part(
    config: RunConfig, shape: DecoderShape, sets: Sequence[Trained], stage: str = "embedder"
) -> Part:
    """The embedder's training, or that of its control, which sees no examples."""
    train = config.train
    if stage == "control":
        train = train.model_copy(update={"examples": train.examples.model_copy(update={"mode": "none"})})
    sizes = [train.batch_size_of(one.kind) for one in sets]
    steps, shares = steps_of(config, train.optimizer, sets, sizes)
    shares_prefixes = config.model.attention == "causal"

    def step(one: Trained) -> list[Rows]:
        return cost.embedder_step(train, one.kind, one.lengths, shares=shares_prefixes)

    element, is_full = ELEMENT[config.model.dtype], train.tuning == "full"
    lora = None if is_full else train.lora
    adapters = 0 if lora is None else shape.adapter_parameters(lora.rank, lora.targets)
    forwards = 1 + train.gradient_cache + train.activation_checkpointing
    plans = [(share, step(one)) for share, one in zip(shares, sets, strict=True)]
    tokens = steps * cost.mean([(share, cost.tokens_of(rows)) for share, rows in plans])
    flops = steps * cost.mean(
        [
            (
                share,
                cost.step_flops(
                    cost.effort_of(shape, rows),
                    forwards=forwards,
                    adapter_flops=2 * adapters * cost.tokens_of(rows),
                    full=is_full,
                ),
            )
            for share, rows in plans
        ]
    )
    budget = train.prompt.total_tokens if train.examples.wanted else train.prompt.query_tokens
    group = 1 + train.num_negatives
    queries = steps * cost.mean(list(zip(shares, map(float, sizes), strict=True)))
    held = max((cost.held_tokens(train, cost.tokens_of(rows)) for _, rows in plans), default=0.0)
    per_layer = cost.layer_activations(shape, lora, element)
    memory = Memory(
        cost.weight_bytes(shape, element, four_bit=train.four_bit_base),
        cost.trained_bytes(adapters or shape.parameters, train.optimizer, train.ranks, element),
        cost.exchanged(train.optimizer, element),
        cost.activation_bytes(
            shape, held, per_layer, element=element, checkpointing=train.activation_checkpointing
        ),
    )
    return Part(
        stage,
        written=shape.parameters * element + 4 * adapters,
        rows=sum(one.rows for one in sets),
        steps=steps,
        tokens=tokens,
        most_tokens=queries * (budget + group * train.prompt.passage_tokens),
        flops=flops,
        memory=memory,
    )


def reranker_part(
    config: RunConfig, shape: DecoderShape, sets: Sequence[Trained], *, capped: bool = False
) -> Part:
    """The reranker's training, on the data sets that rank.

    Parameters
        capped: its attention caps scores, and so keeps them.
    """
    rerank = config.rerank
    shape = replace(shape, layers=rerank.num_layers or shape.layers)
    steps, shares = steps_of(config, rerank.optimizer, sets, [rerank.batch_size] * len(sets))
    element, is_full = ELEMENT[config.model.dtype], rerank.tuning == "full"
    lora = None if is_full else rerank.lora
    adapters = 0 if lora is None else shape.adapter_parameters(lora.rank, lora.targets)
    ranks = rerank.launch.processes * rerank.launch.nodes
    tokens: list[tuple[float, float]] = []
    flops: list[tuple[float, float]] = []
    held, longest = 0.0, 0.0
    for share, one in zip(shares, sets, strict=True):
        queries, passages = cost.reranker_step(rerank, one.lengths)
        step_tokens = cost.tokens_of((queries, passages))
        width = cost.width_share(
            rerank, shape.layers, passages.tokens, queries.tokens * queries.count / passages.count
        )
        recomputes = step_tokens / ranks > rerank.batch_tokens
        work = cost.step_flops(
            cost.effort_of(shape, (queries, passages)) * width,
            forwards=1 + recomputes,
            adapter_flops=2 * adapters * step_tokens * width,
            full=is_full,
        )
        if rerank.self_distillation == "uncompressed":
            whole = cost.effort_of(shape, (queries, passages))
            work += whole.linear + whole.attention
        tokens.append((share, step_tokens))
        flops.append((share, work))
        held = max(held, min(step_tokens / ranks, rerank.batch_tokens))
        longest = max(longest, passages.tokens + passages.after)
    per_layer = cost.layer_activations(shape, lora, element)
    if capped:
        per_layer += cost.plain_scores(shape, longest, element=element)
    memory = Memory(
        cost.weight_bytes(shape, element),
        cost.trained_bytes(adapters or shape.parameters, rerank.optimizer, ranks, element),
        cost.exchanged(rerank.optimizer, element),
        cost.activation_bytes(shape, held, per_layer, element=element, checkpointing=False),
    )
    pairs = steps * rerank.batch_size * (1 + rerank.num_negatives + rerank.num_easy_negatives)
    return Part(
        "reranker",
        written=shape.parameters * element,
        rows=sum(one.rows for one in sets),
        steps=steps,
        tokens=steps * cost.mean(tokens),
        most_tokens=float(pairs * rerank.max_tokens),
        flops=steps * cost.mean(flops),
        memory=memory,
    )


def steps_of(
    config: RunConfig, optimizer: OptimizerConfig, sets: Sequence[Trained], sizes: Sequence[int]
) -> tuple[int, list[float]]:
    """How many steps there are, and the share of each data set in them."""
    if optimizer.epochs:
        batches = [one.rows // size for one, size in zip(sets, sizes, strict=True)]
        return max(1, round(optimizer.epochs * sum(batches))), [float(count) for count in batches]
    return optimizer.steps, [one.rows**config.pool.sampling_temperature for one in sets]


EVERYTHING = ("base-model", "dataset", "pool", "negatives", "embedder", "reranker", "score")


def without_index(preset: str, overrides: Sequence[str], machine: Machine) -> Estimate:
    """Of a run whose collections cannot be listed: everything, from what is published.

    Raises
        ConfigError: the preset is not valid.
    """
    from icl_embed.config.load import find_preset, load_config

    config = load_config(find_preset(preset), overrides)
    reason = "its index was not fetched yet"
    sets, unknown = published_sets(config.data.train, reason)
    return estimate(config, sets, EVERYTHING, machine, unknown=unknown)


def refuse_no_room(run: Run, keys: Iterable[StageKey]) -> None:
    """See that the disks have room for what is known of the missing stages, before anything is fetched.

    Raises
        ConfigError: one has not; the message says what is needed and what is free.
    """
    missing = {key.stage for key in keys if not is_there(run.store, key)}
    if not missing & {"base-model", "dataset", "embedder", "control", "reranker"}:
        return
    sets, unknown = known_sets(run)
    parts = estimate(run.config, sets, missing, Machine(), unknown=unknown).parts
    needed = {
        run.config.paths.downloads: sum(part.fetched or 0.0 for part in parts),
        run.config.paths.store: sum(part.written or 0.0 for part in parts),
    }
    by_disk: dict[int, tuple[Path, float]] = {}
    for path, size in needed.items():
        home = next(one for one in (path.absolute(), *path.absolute().parents) if one.exists())
        first, before = by_disk.get(home.stat().st_dev, (home, 0.0))
        by_disk[home.stat().st_dev] = (first, before + size)
    for home, size in by_disk.values():
        free = shutil.disk_usage(home).free
        if size > free:
            raise ConfigError(
                f"this run needs {size / 1e9:.1f} GB on the disk of {home} ({_listed_parts(parts)}), and "
                f"{free / 1e9:.1f} GB are free; free space there, or set paths.store and paths.downloads to "
                "larger disks. Nothing was fetched"
            )


def _listed_parts(parts: Sequence[Part]) -> str:
    sizes = [(part.what, (part.fetched or 0) + (part.written or 0)) for part in parts]
    return ", ".join(f"{what} {size / 1e9:.1f}" for what, size in sizes if size)
