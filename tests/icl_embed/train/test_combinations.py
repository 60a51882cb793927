"""Attention × pooling × examples on every family of models that we promise to support."""

import itertools
from pathlib import Path

import pytest
import torch

from icl_embed.model.backbone import load_backbone
from icl_embed.train.loop import LossInParts
from tests.icl_embed.train.gradients import ALONE, make_objective
from tests.tiny_models import build_model
from tests.training_jobs import make_job, write_rows

FAMILIES = ("llama", "qwen2", "qwen3", "mistral", "gemma2")
COMBINATIONS = list(itertools.product(("causal", "bidirectional"), ("last", "mean"), ("in_batch", "none")))
STEPS = 8


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows") / "train.parquet")


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_model(tmp_path_factory.mktemp("models") / request.param, request.param)


@pytest.mark.parametrize(("attention", "pooling", "mode"), COMBINATIONS)
def test_every_combination_learns(
    family: Path, rows: Path, tmp_path: Path, attention: str, pooling: str, mode: str
) -> None:
    """The same batch again and again: a gradient that reaches the weights brings its loss down."""
    job = make_job(
        tmp_path, family, rows,
        settings={"attention": attention, "pooling": pooling},
        prompt={"query_tokens": 64, "passage_tokens": 64, "total_tokens": 256},
        examples={"mode": mode, "max_per_query": 2},
        tuning="full",
        temperature=0.1,
    )  # fmt: skip
    objective = make_objective(job)
    trained = [parameter for parameter in objective.model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3)
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss, sums = objective.loss(0, ALONE)
        assert not isinstance(loss, LossInParts)
        loss.backward()
        assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in trained)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.75 * losses[0]
    assert (sums["examples"] > 0) == (mode == "in_batch")


@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
def test_the_pooled_position_is_the_appended_eos_and_the_mean_is_over_the_row(
    family: Path, rows: Path, tmp_path: Path, attention: str
) -> None:
    """Against transformers' own forward pass, one unpadded sequence at a time."""
    reference, tokenizer = load_backbone(family, device=torch.device("cpu"), dtype=torch.float32)
    reference.set_attn_implementation("eager")
    for pooling in ("last", "mean"):
        settings = {"attention": attention, "pooling": pooling}
        objective = make_objective(make_job(tmp_path, family, rows, settings=settings, tuning="full"))
        prompts = objective._prepare(0).prompts
        for batch in objective._micro_batches(objective._prepare(0), ALONE):
            with torch.no_grad():
                vectors = objective._encode(batch)
            for position, vector in zip(batch.positions, vectors, strict=True):
                prompt = prompts[position]
                assert prompt.row[-1] == tokenizer.eos_token_id
                assert tokenizer.eos_token_id not in [*prompt.prefix, *prompt.row[:-1]]
                tokens = torch.tensor([[*prompt.prefix, *prompt.row]])
                mask = torch.zeros(1, 1, tokens.shape[1], tokens.shape[1]) if attention != "causal" else None
                with torch.no_grad():
                    states = reference(
                        input_ids=tokens, attention_mask=mask, use_cache=False
                    ).last_hidden_state[0]
                own = states[len(prompt.prefix) :]
                expected = own[-1] if pooling == "last" else own.mean(dim=0)
                torch.testing.assert_close(vector, expected / expected.norm(), atol=1e-5, rtol=0)
