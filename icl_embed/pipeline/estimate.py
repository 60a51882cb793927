"""What a run would fetch, train and need: bytes, rows, steps, tokens, operations, memory, hours.

Sizes come from what is there: artefacts of the store, the kept index of a collection, a model's
``config.json``. What is not there is taken from published figures or assumed, and the estimate says so;
nothing is fetched.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icl_embed.config import RANKING_KINDS, BaseModelConfig, Kind, OptimizerConfig, RunConfig, TemplateConfig
from icl_embed.errors import ConfigError, ModelError
from icl_embed.model.architectures import read_config
from icl_embed.model.decoder_shape import DecoderShape
from icl_embed.pipeline.stages.base_model import base_model_key, models_of
from icl_embed.sources.collection import CollectionCard
from icl_embed.store import Store
from icl_embed.train import cost
from icl_embed.train.cost import Lengths, Machine, Memory, Rows

if TYPE_CHECKING:
    from icl_embed.pipeline.run import Run
    from icl_embed.store import StageKey

ELEMENT = {"float32": 4, "bfloat16": 2, "auto": 2}

# Of models that are not at hand: sizes of their config.json at the pinned commits, and bytes of a stored
# weight (gemma-2-9b is published in fp32).
PUBLISHED_MODELS: Mapping[str, tuple[DecoderShape, int]] = {
    "mistralai/Mistral-7B-v0.1": (DecoderShape(32, 4096, 32, 8, 128, 14336, 32000), 2),
    "google/gemma-2-9b": (DecoderShape(42, 3584, 16, 8, 256, 14336, 256000, is_tied=True), 4),
}
CAPPED = {"google/gemma-2-9b"}  # attention scores are capped: no flash kernel

# Rows of collections whose index is not at hand: what their pages say. Of "more than 2.1 M rows" those of
# splits whose sizes are not told count as retrieval.
PUBLISHED_ROWS: Mapping[str, Mapping[Kind, int]] = {
    "bge-full-data": {"retrieval": 1_984_441, "clustering": 62_308, "classification": 53_251}
}

# Mean tokens where no row is at hand: an instruction of a sentence, MS MARCO's queries and passages, short
# texts.
ASSUMED: Mapping[Kind, Lengths] = {
    "retrieval": Lengths(16, 24, 160),
    "reranking": Lengths(16, 24, 60),
    "pair_classification": Lengths(16, 24, 24),
    "sts": Lengths(10, 24, 24),
    "classification": Lengths(20, 60, 12, 8),
    "clustering": Lengths(20, 120, 120, 8),
}
Count = Callable[[Sequence[str]], float]  # mean tokens of texts
SAMPLED = 200  # rows of a data set whose tokens are counted


@dataclass(frozen=True)
class Trained:
    """A data set to train on, as far as it is known.

    Attributes
        num_bytes: still to fetch.
        basis: what the figures rest on, where they are not those of what is there.
    """

    name: str
    kind: Kind
    rows: int
    lengths: Lengths
    num_bytes: int = 0
    basis: tuple[str, ...] = ()


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


def is_there(store: Store, key: StageKey) -> bool:
    """Whether an artefact is there; unlike a plan it verifies nothing."""
    return store.path_of(key.stage, key.fingerprint).exists()


def shape_of(config: RunConfig, model: BaseModelConfig, store: Store) -> tuple[DecoderShape, int] | None:
    """A base model's sizes and bytes per stored weight: from its folder, the store, or what is published."""
    try:
        if model.source == "local":
            return _read_shape(Path(model.name))
        key = base_model_key(config, model)
        if is_there(store, key):
            return _read_shape(store.path_of(key.stage, key.fingerprint))
    except ModelError:
        return None
    if model.name not in PUBLISHED_MODELS:
        return None
    shape, stored = PUBLISHED_MODELS[model.name]
    return replace(shape, layers=model.num_layers or shape.layers), stored


def _read_shape(folder: Path) -> tuple[DecoderShape, int]:
    found = read_config(folder)
    dtype = str(found.get("dtype") or found.get("torch_dtype") or "float32")
    return DecoderShape.of(found), 4 if dtype == "float32" else 2


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


def known_sets(run: Run) -> tuple[list[Trained], list[str]]:
    """The data sets that a run trains on, and of which nothing is known yet, with the reason."""
    negatives, keys = run.keys.negatives, run.keys
    if is_there(run.store, negatives):
        base = run.store.path_of(keys.base_model.stage, keys.base_model.fingerprint)
        rows_path = run.store.path_of(negatives.stage, negatives.fingerprint) / "train.parquet"
        return measured_sets(rows_path, base, run.config.model.template), []
    found, unknown = [], []
    for name in run.config.data.train:
        card, key = run.catalog[name], keys.datasets[name]
        kind, assumed = card.kind, ASSUMED[card.kind]
        if is_there(run.store, key):
            counts = run.store.get(key.stage, key.fingerprint).manifest.counts
            rows = int(counts.get("rows", {}).get("train", 0))
            found.append(Trained(name, kind, rows, assumed, basis=(LENGTHS_ASSUMED,)))
        elif isinstance(card, CollectionCard) and card.num_rows is not None:
            rows = min(card.num_rows, run.config.data.max_train_rows)
            found.append(Trained(name, kind, rows, assumed, card.num_bytes, (LENGTHS_ASSUMED,)))
        else:
            unknown.append(name)
    if unknown:
        unknown = [f"rows and bytes of {_listed(unknown)}, known once they are fetched"]
    return found, unknown


LENGTHS_ASSUMED = (
    "tokens: no mined row is at hand, so lengths are assumed by kind (retrieval: "
    f"{ASSUMED['retrieval'].query:.0f} of a query, {ASSUMED['retrieval'].passage:.0f} of a passage); build "
    "the negatives, and they are measured"
)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def published_sets(names: Iterable[str], reason: str) -> tuple[list[Trained], list[str]]:
    """Collections whose index cannot be read, by what their pages say, and what these do not say."""
    found, unknown = [], []
    for name in names:
        if name not in PUBLISHED_ROWS:
            unknown.append(f"rows and bytes of {name}: its page tells no total, and {reason}")
            continue
        basis = f"rows of {name}: its page's total and the splits it tells of, bytes not told; {reason}"
        for kind, rows in PUBLISHED_ROWS[name].items():
            found.append(
                Trained(f"{name} ({kind})", kind, rows, ASSUMED[kind], basis=(basis, LENGTHS_ASSUMED))
            )
    if found:
        found.append(replace(found[0], rows=0, basis=(LENGTHS_ASSUMED,)))
    return found, unknown


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


def measured_sets(rows_path: Path, base: Path, template: TemplateConfig) -> list[Trained]:
    """Rows and mean tokens of mined rows; texts are tokenised as the base model does, if it is there."""
    import pyarrow.parquet as pq

    count = _counter(base / "tokenizer.json")
    table = pq.ParquetFile(rows_path)
    kinds: dict[str, Kind] = {}
    rows: dict[str, int] = {}
    lengths: dict[str, Lengths] = {}
    for group in range(table.num_row_groups):
        for name, kind in zip(
            *(table.read_row_group(group, [column]).column(0).to_pylist() for column in ("dataset", "kind")),
            strict=True,
        ):
            kinds[name], rows[name] = kind, rows.get(name, 0) + 1
        batch = next(table.iter_batches(SAMPLED, row_groups=[group]), None)
        for name, records in _by_name(batch.to_pylist() if batch else []).items():
            lengths.setdefault(name, _lengths(records, count, template))
    return [Trained(name, kinds[name], rows[name], lengths.get(name, ASSUMED[kinds[name]])) for name in kinds]


def _by_name(records: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        found.setdefault(str(record["dataset"]), []).append(record)
    return found


def _lengths(records: Sequence[Mapping[str, Any]], count: Count, template: TemplateConfig) -> Lengths:
    """Mean tokens of some rows of a data set, with what the prompt puts around them."""
    instruction = str(records[0]["instruction"])
    if template.special_tokens:  # which a tokenizer that does not have them yet would take apart
        head, suffix = 3 + count([instruction]), 3.0
    else:
        head, suffix = 1 + count([f"Instruct: {instruction}\nQuery:"]), 1 + count(["\nResponse:"])
    passages = [text for one in records for text in (one["positive"], *(one["negatives"] or ()))]
    return Lengths(
        instruction=head,
        query=suffix + count([str(one["query"]) for one in records]),
        passage=1 + count(passages),
        label=1 + count([str(one["response"]) for one in records]),
    )


def _counter(path: Path) -> Count:
    """Mean tokens of texts: by a tokenizer that is there, else a quarter of their characters."""
    if not path.is_file():
        return lambda texts: sum(map(len, texts)) / max(1, len(texts)) / cost.CHARACTERS_PER_TOKEN
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))

    def count(texts: Sequence[str]) -> float:
        encoded = tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return sum(len(one.ids) for one in encoded) / max(1, len(texts))

    return count


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
