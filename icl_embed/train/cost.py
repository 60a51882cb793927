"""What a training will take, before it runs: tokens, operations, memory per GPU, hours.

Pure functions of sizes and counts. A test holds tokens, operations and saved activations of a real step on a
small model to within 30 %; ``make bench-plan`` also compares seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from icl_embed.config import (
    LABEL_KINDS,
    SYMMETRIC_KINDS,
    Kind,
    LoraConfig,
    OptimizerConfig,
    PromptConfig,
    RerankConfig,
    TrainConfig,
)
from icl_embed.errors import ConfigError
from icl_embed.model.decoder_shape import DecoderShape
from icl_embed.train.embedder.batches import rule_of

GIB = 2**30
USED = 0.4  # of a GPU's peak, that well-fed training reaches; --mfu says otherwise


@dataclass(frozen=True)
class Gpu:
    """A GPU by its data sheet: dense bf16 TFLOP/s, memory in GB, bandwidth of it in GB/s."""

    tflops: float
    memory: float
    bandwidth: float


GPUS: Mapping[str, Gpu] = MappingProxyType(
    {
        "A100-80": Gpu(312, 80, 2039),
        "H100": Gpu(989, 80, 3350),
        "H200": Gpu(989, 141, 4800),
        "L4": Gpu(121, 24, 300),
        "RTX4090": Gpu(165, 24, 1008),
    }
)


@dataclass(frozen=True)
class Lengths:
    """Mean tokens of a data set's texts, by themselves.

    Attributes
        query: after its instruction.
        label: of a label's name.
    """

    instruction: float
    query: float
    passage: float
    label: float = 6.0

    def within(self, prompt: PromptConfig) -> Lengths:
        """Cut to the budgets of a prompt."""
        query = min(self.query, prompt.query_tokens - self.instruction)
        return replace(self, query=query, passage=min(self.passage, prompt.passage_tokens))


@dataclass(frozen=True)
class Rows:
    """Some sequences of a step: how many, how long each, and after how many shared tokens."""

    count: float
    tokens: float
    after: float = 0.0


def tokens_of(rows: Iterable[Rows]) -> float:
    """Tokens that are computed."""
    return sum(one.count * one.tokens for one in rows)


def embedder_step(train: TrainConfig, kind: Kind, lengths: Lengths, *, shares: bool = True) -> list[Rows]:
    """What a step of one kind of data encodes, over all ranks.

    Passages that several queries have are encoded once; how many those are is not known, so label texts and
    mined negatives count as if all were distinct.

    Parameters
        shares: whether rows compute a common beginning once, as under causal attention.
    """
    found, size = lengths.within(train.prompt), train.batch_size_of(kind)
    target = train.label_target_of(kind)
    share = {"label": 1.0, "text": 0.0, "mixed": 0.5}[target] if kind in LABEL_KINDS else 0.0
    rows = _queries(train, kind, found, size, shares=shares)
    for targets_labels, part in ((True, share), (False, 1.0 - share)):
        if not part:
            continue
        rule = rule_of(train, kind, targets_labels=targets_labels)
        texts_alone = kind in LABEL_KINDS and not targets_labels and rule.in_batch_negatives
        count = part * size * (1 if texts_alone else 1 + rule.num_negatives)
        if kind in SYMMETRIC_KINDS and not targets_labels:  # these are asked as queries are
            rows += _after(found.instruction, found.query, count, train.ranks, shares=shares)
        else:
            rows.append(Rows(count, found.label if targets_labels else found.passage))
    return rows


def _queries(train: TrainConfig, kind: Kind, found: Lengths, size: int, *, shares: bool) -> list[Rows]:
    """Queries after none to the most examples that fit beside the query."""
    examples, prompt = train.examples, train.prompt
    response = found.label if kind in LABEL_KINDS else found.passage  # of a cluster it is the category
    example = min(found.instruction + found.query, prompt.example_query_tokens)
    example += min(response, prompt.example_response_tokens)
    room = int(max(0.0, prompt.total_tokens - prompt.query_tokens) // max(example, 1.0))
    weights = examples.counts or (1.0,) * (examples.wanted + 1)
    if examples.mode in ("fixed", "none"):  # always as many
        weights = (0.0,) * examples.wanted + (1.0,)
    readers = {"per_query": 1, "per_group": examples.group_size, "per_batch": size}[examples.sharing]
    rows: list[Rows] = []
    for shown, weight in enumerate(weights):
        prefix = min(shown, room) * example + found.instruction
        count = size * weight / sum(weights)
        groups = count / readers if shown else train.ranks
        rows += _after(prefix, found.query, count, groups, shares=shares)
    return rows


def _after(prefix: float, tokens: float, count: float, groups: float, *, shares: bool) -> list[Rows]:
    """Rows after a prefix that each group of them computes once."""
    if not shares or groups >= count:
        return [Rows(count, prefix + tokens)] if count else []
    return [Rows(groups, prefix), Rows(count, tokens, after=prefix)]


def reranker_step(rerank: RerankConfig, lengths: Lengths) -> tuple[Rows, Rows]:
    """What a step of the reranker scores: each query once, and its candidates with the prompt after it."""
    candidates = 1 + rerank.num_negatives + rerank.num_easy_negatives
    prompt = len(rerank.prompt_sentence) / CHARACTERS_PER_TOKEN
    query = min(lengths.query, 0.75 * rerank.max_tokens)  # at most so much of a pair is its query
    passage = min(lengths.passage, rerank.max_tokens - query - prompt)
    rows = Rows(rerank.batch_size * candidates, passage + prompt, after=query)
    return Rows(rerank.batch_size, query), rows


CHARACTERS_PER_TOKEN = 4.0  # of English under the usual tokenizers


@dataclass(frozen=True)
class Effort:
    """Operations of one forward pass."""

    linear: float
    attention: float

    def __mul__(self, factor: float) -> Effort:
        return Effort(self.linear * factor, self.attention * factor)


def effort_of(shape: DecoderShape, rows: Iterable[Rows]) -> Effort:
    """One forward pass over sequences, causal attention as kernels compute it."""
    linear = attention = 0.0
    for one in rows:
        linear += one.count * one.tokens * shape.layers * shape.per_token
        pairs = one.tokens * one.after + one.tokens * (one.tokens + 1) / 2
        attention += one.count * pairs * shape.layers * shape.per_pair
    return Effort(linear, attention)


def width_share(rerank: RerankConfig, layers: int, passage: float, rest: float) -> float:
    """Part of the full-width work that a pass of the reranker does on average over the trained ratios."""
    total = 0.0
    for ratio in rerank.compress_ratios_trained:
        left = passage
        for layer in range(layers):
            if layer in rerank.compress_layers:
                left /= ratio
            total += (left + rest) / (passage + rest)
    return total / (layers * len(rerank.compress_ratios_trained))


KERNEL_BACKWARD = 2.5  # of the forward: flash kernels compute the scores once more


def step_flops(forward: Effort, *, forwards: float, adapter_flops: float = 0.0, full: bool = False) -> float:
    """Operations of a step: the forward passes that it makes, and one backward pass.

    Parameters
        forward: one pass.
        forwards: one; one more for the gradient cache; one more where activations are recomputed.
        adapter_flops: of one pass through the adapters; they alone have weight gradients, unless ``full``.
    """
    through = forwards * (forward.linear + forward.attention + adapter_flops)
    back = (2 if full else 1) * forward.linear + KERNEL_BACKWARD * forward.attention + 2 * adapter_flops
    return through + back


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU.

    Attributes
        trained: weights that are trained, their gradients and optimizer states.
        exchange: DeepSpeed's buffer for gradients on their way.
        activations: what the backward pass of one micro-batch needs.
    """

    weights: float
    trained: float
    exchange: float
    activations: float

    @property
    def total(self) -> float:
        """All of it; what CUDA itself takes, about a GiB, is not counted."""
        return self.weights + self.trained + self.exchange + self.activations


EXCHANGED = 500_000_000  # numbers in DeepSpeed's gradient buffer, its default


def exchanged(optimizer: OptimizerConfig, element: int) -> float:
    """Bytes of that buffer; stage 0 has none, stage 3 one of its own of the same size."""
    return float(EXCHANGED * element) if optimizer.zero_stage else 0.0


FOUR_BIT = 0.52  # bytes of a weight in nf4 with doubly quantised scales


def weight_bytes(shape: DecoderShape, element: int, *, four_bit: bool = False) -> float:
    """Of the loaded, headless model; 4-bit models keep their embedding table."""
    linear = shape.linear_weights
    return linear * (FOUR_BIT if four_bit else element) + (shape.parameters - linear) * element


def trained_bytes(weights: int, optimizer: OptimizerConfig, ranks: int, element: int) -> float:
    """Of so many trained weights under a ZeRO stage: fp32 master copy and two moments are what it spreads."""
    stage = optimizer.zero_stage
    states = 12 if element == 2 or stage else 8  # stage 0 in fp32 needs no master copy
    gradients = element / (ranks if stage >= 2 else 1)
    return weights * (element / (ranks if stage == 3 else 1) + gradients + states / (ranks if stage else 1))


def layer_activations(shape: DecoderShape, lora: LoraConfig | None, element: int) -> float:
    """Bytes per token that one layer keeps for its backward pass, attention by a flash kernel.

    Kept are: the state before either norm, in fp32, and what the norm makes of it; queries, keys, values and
    the result of attention; gate, its activation, the other branch and their product; the narrow states of
    the adapters, and with dropout a mask and a dropped copy of each input.
    """
    own, keys = shape.heads * shape.head_width, shape.key_heads * shape.head_width
    inner = (4 if shape.is_gated else 2) * shape.inner
    kept = 2 * 4 * shape.width + element * (2 * shape.width + 2 * own + 2 * keys + inner)
    if lora is None:
        return kept
    adapted = [shape.linears[name] for name in lora.targets if name in shape.linears]
    kept += element * lora.rank * len(adapted)
    if lora.dropout:
        kept += (1 + element) * sum(inputs for inputs, _ in adapted)
    return kept


def plain_scores(shape: DecoderShape, length: float, *, element: int) -> float:
    """Bytes per token that a layer keeps of attention without a kernel: capped scores, in fp32 and cast."""
    return shape.heads * length * (4 + 4 + 2 * element)


def activation_bytes(
    shape: DecoderShape, tokens: float, per_layer: float, *, element: int, checkpointing: bool
) -> float:
    """For so many tokens held at once; with checkpointing each layer's input, and one layer in full."""
    if checkpointing:
        return tokens * (shape.layers * shape.width * element + per_layer)
    return tokens * shape.layers * per_layer


def held_tokens(train: TrainConfig, step_tokens: float) -> float:
    """Tokens of a rank's step whose activations are there at once."""
    mine = step_tokens / train.ranks
    return min(train.batch_tokens, mine) if train.gradient_cache else mine


@dataclass(frozen=True)
class Machine:
    """Some GPUs of one kind, and how well they are used.

    Attributes
        gpu: its name in ``GPUS``.
        mfu: the part of the peak that is reached.
    """

    gpu: str = "H100"
    gpus: int = 8
    mfu: float = USED

    @property
    def sheet(self) -> Gpu:
        """The GPU's figures.

        Raises
            ConfigError: we have none of it.
        """
        if self.gpu not in GPUS:
            raise ConfigError(f"there is no data sheet of the GPU {self.gpu!r}; known are {', '.join(GPUS)}")
        return GPUS[self.gpu]

    def seconds(self, flops: float, *, weights: float = 0.0, passes: float = 0.0) -> float:
        """How long so many operations take.

        Parameters
            weights, passes: bytes of the model and how often each GPU reads them: what bounds small batches.
        """
        moved = passes * weights / (self.sheet.bandwidth * 1e9)
        return max(flops / (self.gpus * self.sheet.tflops * 1e12 * self.mfu), moved)


def mean(values: Sequence[tuple[float, float]]) -> float:
    """Of (weight, value) pairs."""
    total = sum(weight for weight, _ in values)
    return sum(weight * value for weight, value in values) / total if total else 0.0
