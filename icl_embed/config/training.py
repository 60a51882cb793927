"""The embedder's training: examples, adapters, optimizer, processes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from icl_embed.config.base import (
    ADDED_LATER,
    NO_RESULT,
    Count,
    CountOrZero,
    Fraction,
    Kind,
    LocalPath,
    Section,
)
from icl_embed.config.deepspeed import read_deepspeed, refuse_conflicts
from icl_embed.config.model import PromptConfig

NotNegative = Annotated[float, Field(ge=0.0)]
MIN_EXPLAINED = 2  # labels under arbitrary names, each by an example: one alone tells nothing apart


class ExamplesConfig(Section):
    """Examples shown to queries during training (paper section 3.3 and its table 4)."""

    mode: Literal["in_batch", "nearest", "fixed", "none"] = Field(
        "in_batch",
        description="from the batch, the data set's most alike (RARe), always the same few, or none",
    )
    max_per_query: CountOrZero = Field(5, description="k is uniform on 0 .. this number")
    counts: tuple[NotNegative, ...] = Field(
        (), description="weights of k = 0, 1, 2 …, in place of uniform up to max_per_query"
    )
    generic_instruction: Fraction = Field(
        0.0, description="share of prompts with examples whose instruction does not say what is asked"
    )
    arbitrary_names: Fraction = Field(
        0.0, description="share of steps of label tasks whose labels have names that only examples explain"
    )
    symmetric_passages: Fraction = Field(
        0.0, description="share of steps of symmetric tasks whose passages see examples, as at inference"
    )
    fixed_count: Count = Field(3, description="examples per data set in the mode fixed")
    sharing: Literal["per_query", "per_group", "per_batch"] = Field(
        "per_query",
        description="per_group, per_batch: queries of a group or batch share one example set, encoded once",
    )
    group_size: Count = Field(8, description="queries per group when sharing is per_group")

    @property
    def wanted(self) -> int:
        """The most examples that a query is shown."""
        drawn = len(self.counts) - 1 if self.counts else self.max_per_query
        return {"none": 0, "fixed": self.fixed_count}.get(self.mode, drawn)

    @model_validator(mode="after")
    def _counts_can_be_drawn(self) -> ExamplesConfig:
        if self.counts and not sum(self.counts):
            raise ValueError(f"counts are weights, and all of {self.counts} are zero")
        if self.arbitrary_names and (self.mode in ("none", "fixed") or self.wanted < MIN_EXPLAINED):
            raise ValueError(
                "arbitrary_names needs examples that explain two labels at least; found "
                f"mode = {self.mode!r} with up to {self.wanted} examples"
            )
        return self


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
    steps: CountOrZero = Field(100, description="0: as many as there are in epochs")
    epochs: Annotated[float, ADDED_LATER] = Field(
        0.0,
        ge=0.0,
        description="passes over all rows, every data set counting by its rows (paper: 1); needs steps = 0",
    )
    max_grad_norm: float = Field(1.0, gt=0.0)
    zero_stage: Literal[0, 1, 2, 3] = 1
    save_every: Annotated[Count, NO_RESULT] = Field(50, description="steps between checkpoints")
    keep_checkpoints: Annotated[int, NO_RESULT] = Field(
        2, ge=2, description="the newest one may be half written: never below 2"
    )
    deepspeed: Annotated[Mapping[str, Any], BeforeValidator(read_deepspeed), ADDED_LATER] = Field(
        {}, description="DeepSpeed settings merged over ours: a JSON file's path, or a table"
    )

    @model_validator(mode="after")
    def _file_agrees(self) -> OptimizerConfig:
        refuse_conflicts(self.deepspeed, zero_stage=self.zero_stage, max_grad_norm=self.max_grad_norm)
        return self

    @model_validator(mode="after")
    def _one_says_how_long(self) -> OptimizerConfig:
        if bool(self.steps) == bool(self.epochs):
            raise ValueError(
                f"found steps = {self.steps} and epochs = {self.epochs:g}; expected one of them: set the "
                "other to 0"
            )
        return self

    @property
    def spreads_weights(self) -> bool:
        """Whether a rank holds a part of each weight, and fetches the rest for the layer that is called."""
        return self.zero_stage == 3

    def counted(self, steps: int) -> OptimizerConfig:
        """With the steps that the epochs are, once the rows are known."""
        return self.model_copy(update={"steps": steps})


TrackerName = Literal["tensorboard", "mlflow", "wandb"]


class LaunchConfig(Section):
    """Processes of one distributed job, on one machine or on several that share a file system."""

    processes: Count = Field(1, description="ranks per node: GPUs, or CPU processes")
    nodes: Count = 1
    nodes_by: Literal["join", "ray"] = Field(
        "join", description="the other nodes: icl-embed join was run there, or Ray starts them (extra ray)"
    )
    rendezvous: str = Field("", description="host:port of the first node; Ray and one node need none")
    interface: str = Field("", description="network interface between nodes; empty: that to the rendezvous")
    join_seconds: Count = Field(600, description="how long the first node waits for the others to join")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: CountOrZero = Field(0, description="CPU threads per process; 0 divides the cores")
    trackers: tuple[TrackerName, ...] = Field(
        ("tensorboard",), description="who is told every step, besides the log; all but the first are extras"
    )
    stall_seconds: CountOrZero = Field(
        1800, description="a job without a sign of life for so long is ended; 0 waits for ever"
    )


class DevConfig(Section):
    """Measuring while training: on a part of the dev splits, the same texts every time.

    It changes no weight, and so no key, unless it stops the training or chooses what is published.
    """

    every: CountOrZero = Field(0, description="steps between measurements; 0: none")
    queries: Count = Field(100, description="dev queries of each data set at most")
    passages: Count = Field(500, description="dev passages of each data set at most; positives always")
    shots: Count = Field(5, description="examples shown in the few-shot measurement")
    metric: Literal["mrr", "accuracy"] = Field(
        "mrr", description="of the best positive: one over its rank, or how often it is first"
    )
    patience: CountOrZero = Field(
        0, description="measurements in a row without a better few-shot score that end training; 0: never"
    )
    keep: Literal["last", "best"] = Field(
        "last", description="weights to publish: of the last step, or of the best few-shot measurement"
    )

    @property
    def changes_result(self) -> bool:
        """Whether it stops the training or chooses the weights."""
        return self.patience > 0 or self.keep == "best"

    @model_validator(mode="after")
    def _decides_on_what_is_measured(self) -> DevConfig:
        if self.changes_result and not self.every:
            raise ValueError(
                f"patience = {self.patience} and keep = {self.keep!r} need measurements, but every is 0; set "
                "every, the steps between them"
            )
        return self


LabelTarget = Literal["label", "text", "mixed"]


class KindRule(Section):
    """What is special about one kind of task (paper section 3.3); ``None`` keeps the general setting.

    The reference code calls its rules by the type of a data set. They are kinds of task here::

        normal                retrieval, reranking  hard and in-batch negatives, teacher scores
        only_1neg             pair_classification   num_negatives = 1
        symmetric_sts         sts                   both sides are queries, no teacher
        symmetric_class       classification        no in_batch_negatives, no teacher, label_target = "label"
        symmetric_clustering  clustering            the same, but label_target = "text"
    """

    num_negatives: CountOrZero | None = Field(None, description="hard negatives per query")
    in_batch_negatives: bool | None = Field(
        None, description="passages of other queries are negatives; unset: except where labels are targets"
    )
    batch_size: Count | None = Field(None, description="queries per step over all ranks")
    label_target: LabelTarget | None = Field(None, description="of a label task, see train.label_target")
    distil: bool | None = Field(
        None, description="learn the teacher's scores where rows have them; unset: if passages are ranked"
    )


class TrainConfig(Section):
    """The embedder's training run."""

    seed: Annotated[CountOrZero | None, NO_RESULT] = Field(  # the key has the number itself
        None, description="of adapters, order and examples; unset: the run's, which also draws the data"
    )
    batch_size: Count = Field(16, description="queries per step over all ranks")
    num_negatives: CountOrZero = Field(3, description="hard negatives per query that enter the loss")
    temperature: float = Field(0.02, gt=0.0, description="paper section 3.3")
    label_target: LabelTarget = Field(
        "mixed", description="positive of a label task: the label's text, another text of it, or by turns"
    )
    kinds: Mapping[Kind, KindRule] = Field({}, description="exceptions per kind of task")
    cross_device_negatives: bool = Field(True, description="passages of all ranks are negatives")
    distillation_weight: float = Field(1.0, ge=0.0, description="of the KL term (paper: 1)")
    text_shuffle: Fraction = Field(0.0, description="share of long texts whose three parts are shuffled")
    matryoshka_dims: tuple[Count, ...] = Field((), description="also train these leading dimensions")
    tuning: Literal["lora", "full"] = "lora"
    four_bit_base: bool = Field(False, description="frozen base weights in 4 bits (extra gpu)")
    gradient_cache: bool = Field(False, description="memory of one micro-batch, whatever the batch size")
    activation_checkpointing: bool = Field(False, description="recompute activations: less memory, slower")
    tokenizer_workers: Annotated[CountOrZero, NO_RESULT] = Field(
        0, description="processes that prepare batches; 0: in line"
    )
    batch_tokens: Count = Field(8192, description="tokens per forward pass")
    examples: ExamplesConfig = ExamplesConfig()
    prompt: PromptConfig = PromptConfig()
    lora: LoraConfig = LoraConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    snapshot_every: CountOrZero = Field(
        0,
        description="steps between weights that evaluate-checkpoint may choose from; 0: only the last",
    )
    start_from: Annotated[LocalPath | None, NO_RESULT, ADDED_LATER] = Field(
        None, description="folder of a LoRA adapter, or of a trained model, of the same base to go on from"
    )
    dev: Annotated[DevConfig, ADDED_LATER] = DevConfig()
    launch: Annotated[LaunchConfig, NO_RESULT] = LaunchConfig()

    @property
    def ranks(self) -> int:
        """Processes that share a step."""
        return self.launch.processes * self.launch.nodes

    def batch_size_of(self, kind: Kind) -> int:
        """Queries per step of one kind of task."""
        rule = self.kinds.get(kind, KindRule())
        return self.batch_size if rule.batch_size is None else rule.batch_size

    def batch_sizes_of(self, kinds: Iterable[Kind]) -> list[int]:
        """Queries per step of data sets of these kinds."""
        return list(map(self.batch_size_of, kinds))

    def label_target_of(self, kind: Kind) -> LabelTarget:
        """What the positive of a label task is."""
        rule = self.kinds.get(kind, KindRule())
        return self.label_target if rule.label_target is None else rule.label_target

    @model_validator(mode="after")
    def _batches_divide(self) -> TrainConfig:
        sizes = {"batch_size": self.batch_size}
        sizes |= {
            f"kinds.{kind}.batch_size": rule.batch_size or self.batch_size
            for kind, rule in self.kinds.items()
        }
        for name, size in sizes.items():
            if size % self.ranks:
                raise ValueError(f"{name} ({size}) must divide by the number of ranks ({self.ranks})")
            if self.examples.sharing == "per_group":
                self._check_groups(name, size)
        return self

    def _check_groups(self, name: str, size: int) -> None:
        group = self.examples.group_size
        if (size // self.ranks) % group:
            raise ValueError(
                f"examples.group_size ({group}) must divide the queries per rank "
                f"({size // self.ranks}, {name})"
            )
        if self.examples.mode == "in_batch" and self.examples.wanted and size < 2 * group:
            raise ValueError(
                f"per_group sharing takes examples from the other groups: use at least 2 groups ({name})"
            )

    @model_validator(mode="after")
    def _frozen_base_has_adapters(self) -> TrainConfig:
        if self.four_bit_base and self.tuning == "full":
            raise ValueError("a four_bit_base is frozen: train it with tuning = 'lora'")
        if self.start_from is not None and self.tuning == "full":
            raise ValueError("start_from goes on from an adapter: train it with tuning = 'lora'")
        if self.four_bit_base and self.optimizer.zero_stage == 3:
            raise ValueError("4-bit weights cannot be partitioned: use optimizer.zero_stage 0, 1 or 2")
        return self

    @model_validator(mode="after")
    def _dimensions_are_distinct(self) -> TrainConfig:
        if len(set(self.matryoshka_dims)) != len(self.matryoshka_dims):
            raise ValueError(f"matryoshka_dims names a dimension twice: {self.matryoshka_dims}")
        return self
