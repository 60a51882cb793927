"""What a plan says that a run would take."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from typer.testing import CliRunner

from icl_embed.config import TemplateConfig
from icl_embed.config.load import find_preset, load_config
from icl_embed.errors import ConfigError
from icl_embed.model.decoder_shape import DecoderShape
from icl_embed.pipeline.estimate import (
    EVERYTHING,
    embedder_part,
    estimate,
    refuse_no_room,
    reranker_part,
    steps_of,
    without_index,
)
from icl_embed.pipeline.known_sizes import (
    ASSUMED,
    PUBLISHED_MODELS,
    Trained,
    known_sets,
    measured_sets,
    published_sets,
)
from icl_embed.pipeline.run import open_run
from icl_embed.train.cost import Machine
from tests.tiny_project import build_project
from tests.training_jobs import write_rows

PAPER = load_config(find_preset("paper"))
MISTRAL, GEMMA = (shape for shape, _ in PUBLISHED_MODELS.values())
SETS = [
    Trained("facts", "retrieval", 5_200, ASSUMED["retrieval"]),
    Trained("topics", "clustering", 700, ASSUMED["clustering"]),
]


def test_an_epoch_has_the_full_batches_of_every_set() -> None:
    steps, shares = steps_of(PAPER, PAPER.train.optimizer, SETS, [512, 256])
    assert (steps, shares) == (10 + 2, [10.0, 2.0])


def test_a_given_number_of_steps_is_shared_by_weight() -> None:
    optimizer = PAPER.train.optimizer.model_copy(update={"epochs": 0.0, "steps": 7})
    assert steps_of(PAPER, optimizer, SETS, [512, 256]) == (7, [5200.0, 700.0])


def test_the_paper_on_what_is_published_fits_its_gpus_and_says_what_is_unknown() -> None:
    found = without_index("paper", [], Machine())
    parts = {part.what: part for part in found.parts}
    mistral, gemma = (parts[f"base-model {name}"] for name in PUBLISHED_MODELS)
    assert (mistral.fetched, gemma.fetched) == pytest.approx((14.48e9, 36.97e9), rel=1e-3)
    data, embedder, reranker = (parts[name] for name in ("data sets to train on", "embedder", "reranker"))
    assert (data.fetched, data.rows) == (None, 2_100_000)
    assert embedder.steps == pytest.approx(2_100_000 / 500, rel=0.05)
    assert embedder.tokens is not None and embedder.most_tokens is not None and embedder.flops is not None
    assert embedder.tokens < embedder.most_tokens
    # two parameters' worth of operations for each of three forward passes, and one backward through frozen weights
    assert embedder.flops == pytest.approx(8 * MISTRAL.linear_weights * embedder.tokens, rel=0.15)
    for part in (embedder, reranker):
        assert part.memory is not None and 20e9 < part.memory.total < 80e9
        assert part.seconds == pytest.approx(part.flops / (8 * 989e12 * 0.4))
    assert any("bytes not told" in note for note in found.notes)
    assert any("lengths are assumed" in note for note in found.notes)


def test_a_collection_whose_page_tells_no_rows_has_no_hours() -> None:
    found = without_index("paper_e5", [], Machine())
    assert [part.seconds for part in found.parts] == [None] * len(found.parts)
    assert any(note.startswith("unknown: rows and bytes of bge-e5data") for note in found.notes)
    assert published_sets(["nobody-knows"], "why")[0] == []


def test_rows_of_a_store_are_counted_and_their_tokens_measured(tmp_path: Path, tiny_model: Path) -> None:
    rows = write_rows(tmp_path / "train.parquet")
    by_name = {one.name: one for one in measured_sets(rows, tiny_model, TemplateConfig())}
    assert {name: (one.kind, one.rows) for name, one in by_name.items()} == {
        "facts": ("retrieval", 40),
        "colours": ("classification", 40),
        "pairs": ("sts", 40),
    }
    by_characters = {one.name: one for one in measured_sets(rows, tmp_path, TemplateConfig())}
    assert all(one.lengths.passage > 0 for one in (*by_name.values(), *by_characters.values()))
    assert by_name["colours"].lengths.passage < by_name["facts"].lengths.passage


def test_more_ranks_hold_less_each_and_the_rest_stays() -> None:
    part = embedder_part(PAPER, MISTRAL, SETS)
    launch = PAPER.train.launch.model_copy(update={"processes": 1})
    alone = PAPER.model_copy(update={"train": PAPER.train.model_copy(update={"launch": launch})})
    one = embedder_part(alone, MISTRAL, SETS)
    assert part.memory is not None and one.memory is not None
    assert (one.memory.weights, one.memory.activations) == (part.memory.weights, part.memory.activations)
    assert one.memory.trained > 2 * part.memory.trained
    assert part.tokens == pytest.approx(
        one.tokens, rel=0.02
    )  # each rank computes an instruction's tokens itself


def test_a_control_sees_no_examples_and_costs_less() -> None:
    with_examples, without = (embedder_part(PAPER, MISTRAL, SETS, stage) for stage in ("embedder", "control"))
    assert without.tokens is not None and with_examples.tokens is not None
    assert without.tokens < with_examples.tokens


def test_capped_scores_are_kept_and_counted() -> None:
    capped, plain = (reranker_part(PAPER, GEMMA, SETS[:1], capped=on).memory for on in (True, False))
    assert capped is not None and plain is not None and capped.activations > plain.activations


def test_a_run_that_is_not_built_is_estimated_from_its_model_alone(tmp_path: Path) -> None:
    run = open_run(str(build_project(tmp_path)))
    sets, unknown = known_sets(run)
    assert sets == [] and "tiny-facts, tiny-topics" in unknown[0]
    found = estimate(run.config, sets, EVERYTHING, Machine(), unknown=unknown)
    [base] = [part for part in found.parts if part.what.startswith("base-model")]
    sizes = dataclasses.asdict(DecoderShape(4, 32, 4, 2, 8, 64, 512))
    assert base.fetched == 0 and base.written == 4 * DecoderShape(**sizes).stored_parameters
    assert not [part for part in found.parts if part.flops]


def test_a_disk_without_room_is_told_before_the_first_byte(small_disk: Path) -> None:
    run = open_run(
        "paper",
        [
            f"paths.store={small_disk / 'store'}",
            f"paths.downloads={small_disk / 'd'}",
            'data.train=["cwe-examples"]',
        ],
    )
    with pytest.raises(
        ConfigError, match=r"needs \d+\.\d GB on the disk of .*Mistral-7B-v0.1 29.0.* 0.0 GB are free"
    ):
        refuse_no_room(run, run.keys)
    assert not list(small_disk.iterdir())


def test_the_command_prints_it_without_a_network(tmp_path: Path) -> None:
    from flows.command_line import app

    paths = ["--set", f"paths.store={tmp_path / 's'}", "--set", f"paths.downloads={tmp_path / 'd'}"]
    done = CliRunner().invoke(app, ["plan", "--preset", "paper", "--gpu", "A100-80", "--gpus", "4", *paths])
    assert done.exit_code == 0, done.output
    assert "no stage can be named: cannot get cfli/bge-full-data" in done.output
    assert "estimate for 4 x A100-80 at 40 % of 312 bf16 TFLOP/s" in done.output
    assert "2,100,000" in done.output and "together" in done.output
    refused = CliRunner().invoke(app, ["plan", "--preset", "paper", "--gpu", "H99", *paths])
    assert isinstance(refused.exception, ConfigError) and "H99" in str(refused.exception)
    assert not (tmp_path / "s").exists()
