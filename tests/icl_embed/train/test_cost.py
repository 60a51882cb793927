"""What a training is said to take is, within 30 %, what real steps of a small model take."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from icl_embed.config import Kind, OptimizerConfig, RerankConfig, TrainConfig
from icl_embed.errors import ConfigError
from icl_embed.model.architectures import read_config
from icl_embed.model.decoder_shape import DecoderShape
from icl_embed.pipeline.known_sizes import measured_sets
from icl_embed.train import cost
from icl_embed.train.cost import Effort, Lengths, Machine, Rows
from tests.measured_steps import measure, opened
from tests.tiny_models import build_model
from tests.training_jobs import make_job, write_rows

WITHIN = 0.3
STEPS = 6
WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "gradient cache": {"gradient_cache": True, "batch_tokens": 512},
    "checkpointing": {"activation_checkpointing": True},
    "dropout": {"lora": {"rank": 8, "dropout": 0.1}},
    "shared examples": {"examples": {"sharing": "per_group", "group_size": 4}},
    "no examples": {"examples": {"mode": "none"}},
    "full": {"tuning": "full"},
}


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    folder = tmp_path_factory.mktemp("cost")
    yield build_model(folder / "model", layers=4, width=64), write_rows(folder / "train.parquet")


@pytest.mark.parametrize("way", WAYS)
def test_tokens_operations_and_activations_are_those_of_real_steps(
    way: str, material: tuple[Path, Path], tmp_path: Path
) -> None:
    model, rows = material
    job = make_job(tmp_path / "job", model, rows, **WAYS[way]).model_copy(update={"seed": 5})
    train, shape = job.train, DecoderShape.of(read_config(model))
    lengths = {one.kind: one.lengths for one in measured_sets(rows, model, job.settings.template)}
    _, builder = opened(job)
    is_full = train.tuning == "full"
    lora = None if is_full else train.lora
    adapters = 0 if lora is None else shape.adapter_parameters(lora.rank, lora.targets)
    found, said, seen = [0.0, 0.0, 0.0], [0.0, 0.0, 0.0], set()
    for step in range(STEPS):
        kind = builder.build(step).kind
        seen.add(kind)
        real = measure(job, step)
        planned = cost.embedder_step(train, kind, lengths[kind])
        tokens = cost.tokens_of(planned)
        flops = cost.step_flops(
            cost.effort_of(shape, planned),
            forwards=1 + train.gradient_cache + train.activation_checkpointing,
            adapter_flops=2 * adapters * tokens,
            full=is_full,
        )
        kept = cost.held_tokens(train, tokens) * shape.layers * cost.layer_activations(shape, lora, 4)
        found = [a + b for a, b in zip(found, (real.tokens, real.flops, real.kept_bytes), strict=True)]
        said = [a + b for a, b in zip(said, (tokens, flops, kept), strict=True)]
    assert len(seen) > 1, "the steps are all of one kind"
    compared = 2 if train.activation_checkpointing else 3  # its own hooks hide what recomputation keeps
    assert said[:compared] == pytest.approx(found[:compared], rel=WITHIN)


def test_checkpointing_keeps_the_inputs_of_layers_and_one_layer_in_full() -> None:
    shape = DecoderShape(10, 64, 4, 2, 16, 128, 512)
    plain, less = (
        cost.activation_bytes(shape, 100, 5000.0, element=2, checkpointing=on) for on in (False, True)
    )
    assert (plain, less) == (100 * 10 * 5000, 100 * (10 * 64 * 2 + 5000))


def test_a_step_costs_what_its_passes_cost() -> None:
    one = Effort(100.0, 10.0)
    plain = cost.step_flops(one, forwards=1)
    assert plain == 110 + 100 + 25  # frozen weights: no gradient of their own
    assert cost.step_flops(one, forwards=3) == plain + 220
    assert cost.step_flops(one, forwards=1, full=True) == plain + 100
    assert cost.step_flops(one, forwards=1, adapter_flops=5) == plain + 15


def test_sequences_of_a_step_are_counted_one_by_one() -> None:
    """Two queries of the default example counts, by hand: k = 0 ... 5 examples, each as likely."""
    train = TrainConfig(batch_size=12, num_negatives=3)
    rows = cost.embedder_step(train, "retrieval", Lengths(instruction=10, query=5, passage=20))
    queries = 10 + 2 * 5 + sum(2 * (shown * (15 + 20) + 15) for shown in range(1, 6))
    assert cost.tokens_of(rows) == queries + 12 * 4 * 20


@pytest.mark.parametrize(
    ("kind", "passages"),
    [("retrieval", 8 * 4 * 20), ("sts", 10 + 8 * 4 * 5), ("classification", 8 * 4 * 4)],
)
def test_passages_are_raw_asked_or_label_texts_by_kind(kind: Kind, passages: float) -> None:
    train = TrainConfig.model_validate(
        {"batch_size": 8, "num_negatives": 3, "label_target": "label", "examples": {"mode": "none"}}
    )
    found = cost.embedder_step(train, kind, Lengths(instruction=10, query=5, passage=20, label=4))
    assert cost.tokens_of(found) == 10 + 8 * 5 + passages


def test_texts_count_up_to_their_budgets() -> None:
    train = TrainConfig.model_validate(
        {"prompt": {"query_tokens": 64, "passage_tokens": 32, "total_tokens": 64}}
    )
    rows = cost.embedder_step(train, "retrieval", Lengths(10, 500, 500))
    assert cost.tokens_of(rows) == pytest.approx(16 * 64 + 16 * 4 * 32, rel=0.01)  # no room for examples


def test_the_width_of_a_pass_is_the_mean_over_ratios_and_layers() -> None:
    config = RerankConfig(compress_layers=(1, 2), compress_ratios_trained=(1, 2))
    full, halved = 1.0, (100 + 60 + 40 + 40) / 400  # 80 passage tokens, 20 others, over 4 layers
    assert cost.width_share(config, 4, 80, 20) == pytest.approx((full + halved) / 2)


def test_zero_stages_spread_what_they_say() -> None:
    def found(stage: int) -> float:
        return cost.trained_bytes(100, OptimizerConfig(zero_stage=stage), 4, 2)

    assert [found(stage) for stage in range(4)] == [1600, 700, 550, 400]
    assert cost.trained_bytes(100, OptimizerConfig(zero_stage=0), 4, 4) == 1600  # fp32: no master copy


def test_hours_are_bound_by_arithmetic_or_by_reading_the_weights() -> None:
    machine = Machine("H100", 2, 0.5)
    assert machine.seconds(989e12) == pytest.approx(1.0)
    assert machine.seconds(1.0, weights=3350e9, passes=3) == pytest.approx(3.0)
    with pytest.raises(ConfigError, match="known are A100-80, H100"):
        Machine("B9000").sheet  # noqa: B018


def test_a_query_of_the_reranker_counts_once() -> None:
    config = RerankConfig(num_negatives=3, batch_size=2, prompt="Does B answer A, or not so?")
    queries, passages = cost.reranker_step(config, Lengths(0, 10, 30))
    assert queries == Rows(2, 10)
    assert (passages.count, passages.after) == (8, 10)
    assert passages.tokens == pytest.approx(30 + 27 / 4)
