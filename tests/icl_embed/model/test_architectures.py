"""Every architecture of the README's table does what the table says; the others are refused before any work."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from icl_embed.config import ModelConfig, RerankConfig
from icl_embed.errors import ConfigError, ModelError
from icl_embed.examples import Example
from icl_embed.export.folder import write_model
from icl_embed.model.architectures import KNOWN, REFUSED, read_config, sliding_window
from icl_embed.model.backbone import refuse_unfaithful
from icl_embed.model.base import fetch_base_model
from icl_embed.model.embedder import Embedder
from icl_embed.pipeline.run import open_run
from icl_embed.rerank.folder import export_reranker, read_reranker, start_from
from icl_embed.rerank.reranker import Reranker
from tests.icl_embed.train.gradients import ALONE, make_objective
from tests.tiny_models import build_model
from tests.tiny_project import build_project
from tests.training_jobs import make_job, write_rows

README = Path(__file__).resolve().parents[3] / "README.md"
TEXTS = ["the cat and the dog", "red", "sun moon star tree river stone fire water"]
EXAMPLES = [Example("blue bird", "fish"), Example("time", "day night")]
CPU = {"device": torch.device("cpu"), "dtype": torch.float32}


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    root = tmp_path_factory.mktemp("families")
    return lambda family: (
        root / family if (root / family).exists() else build_model(root / family, family, spread=0.2)
    )


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows") / "train.parquet", rows_per_set=10)


def plain(folder: Path, sequences: list[list[int]]) -> np.ndarray:
    """Unit vectors of the last tokens, by transformers with padding and the model's own attention."""
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    longest = max(map(len, sequences))
    tokens = torch.tensor([one + [0] * (longest - len(one)) for one in sequences])
    mask = torch.tensor([[1] * len(one) + [0] * (longest - len(one)) for one in sequences])
    with torch.no_grad():
        states = model(input_ids=tokens, attention_mask=mask, use_cache=False).last_hidden_state
    last = states[torch.arange(len(sequences)), mask.sum(1) - 1]
    return torch.nn.functional.normalize(last, dim=-1).numpy()


@pytest.mark.parametrize("family", KNOWN)
def test_it_encodes_as_transformers_does_with_padding(family: str, folder_of) -> None:
    embedder = Embedder.load(folder_of(family), device="cpu", dtype="float32")
    prompts = embedder.prompts
    close(embedder.encode_passages(TEXTS), plain(folder_of(family), prompts.passages(TEXTS)))
    task = embedder.compile_task("find", EXAMPLES)
    tails = prompts.query_tails("find", TEXTS)
    close(
        embedder.encode_queries(TEXTS, task=task),
        plain(folder_of(family), [[*task.prefix.tokens, *tail] for tail in tails]),
    )


def close(found, expected) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", KNOWN)
def test_a_training_step_reaches_every_layer_that_llama_would_train(
    family: str, folder_of, rows: Path, tmp_path: Path, caplog
) -> None:
    objective = make_objective(make_job(tmp_path, folder_of(family), rows))
    assert "no layer" not in caplog.text
    before = objective.embedder.encode_passages(TEXTS)
    trained = {name: weight for name, weight in objective.model.named_parameters() if weight.requires_grad}
    layers = {name.split(".lora_")[0].rpartition(".")[2] for name in trained}
    assert layers >= {one.rpartition(".")[2] for one in KNOWN[family].linears.values()} and len(layers) >= 3
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-2)
    loss, _ = objective.loss(0, ALONE)
    loss.backward()
    still = [name for name, weight in trained.items() if weight.grad is None or not weight.grad.any()]
    assert not still, "no gradient"
    optimizer.step()
    assert np.abs(objective.embedder.encode_passages(TEXTS) - before).max() > 1e-3


@pytest.mark.parametrize("family", KNOWN)
def test_it_reranks_and_reads_what_it_has_saved(family: str, folder_of, tmp_path: Path) -> None:
    config = RerankConfig(start_layer=1, layer_step=1, compress_layers=(1,), max_tokens=96)
    model, tokenizer, settings = start_from(folder_of(family), config, **CPU)
    reranker = Reranker(model.eval(), tokenizer, settings)
    pairs = [("the red cat", text) for text in TEXTS]
    scores = reranker.score(pairs)
    # one after the other is what sharing the query's states must give
    np.testing.assert_allclose(scores, [reranker.score([pair])[0] for pair in pairs], rtol=0, atol=1e-4)
    export_reranker(model, tokenizer, settings, tmp_path)
    again = Reranker(*read_reranker(tmp_path, **CPU))
    for options in ({}, {"cutoff_layer": 1}, {"compress_ratio": 2}):
        np.testing.assert_allclose(
            again.score(pairs, **options), reranker.score(pairs, **options), rtol=0, atol=1e-5
        )


@pytest.mark.parametrize("family", KNOWN)
def test_its_export_gives_the_same_vectors(family: str, folder_of, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    write_model(folder_of(family), tmp_path, {})
    theirs = SentenceTransformer(str(tmp_path), device="cpu").encode_document(TEXTS)
    close(theirs, Embedder.load(folder_of(family), device="cpu", dtype="float32").encode_passages(TEXTS))


@pytest.mark.parametrize("family", KNOWN)
def test_its_base_model_is_cut_to_the_layers_asked_for(family: str, folder_of, tmp_path: Path) -> None:
    config = ModelConfig(source="local", name=str(folder_of(family)), num_layers=1)
    assert fetch_base_model(config, tmp_path, tmp_path / "out")["layers"] == 1
    Embedder.load(tmp_path / "out", device="cpu").encode_passages(TEXTS)


@pytest.mark.parametrize("family", REFUSED)
def test_an_architecture_that_is_refused_is_refused_before_any_work(family: str, tmp_path: Path) -> None:
    preset = build_project(tmp_path)
    config = tmp_path / "model" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "model_type": family}))
    (tmp_path / "model" / "model.safetensors").write_bytes(b"not read")
    with pytest.raises(ModelError, match=r"Supported are Llama, .*GPT-2"):
        _ = open_run(str(preset)).keys


@pytest.mark.parametrize("load", [Embedder.load, Reranker.load], ids=["embedder", "reranker"])
def test_every_command_refuses_it_by_name(load: Callable[[Path], object], folder_of, tmp_path: Path) -> None:
    folder = shutil.copytree(folder_of("bloom"), tmp_path / "model")
    (folder / "icl_rerank.json").write_text('{"head_layers": [2]}')
    with pytest.raises(ModelError, match=r"is a model of the type Bloom: its positions \(ALiBi\)"):
        load(folder)


@pytest.mark.parametrize("family", ["bloom", "falcon", "gptj", "stablelm"])
def test_what_is_refused_would_not_work(family: str, folder_of) -> None:
    """The reason is real: the day it no longer is, the architecture belongs into the other table."""
    from transformers import AutoModel

    with pytest.raises(ModelError, match="cannot attend to packed sequences|does not give what"):
        refuse_unfaithful(AutoModel.from_pretrained(folder_of(family)))


def test_an_unlisted_architecture_is_tried_when_the_base_model_is_fetched(folder_of, tmp_path: Path) -> None:
    config = ModelConfig(source="local", name=str(folder_of("cohere")))
    assert fetch_base_model(config, tmp_path, tmp_path / "out")["architecture"] == "CohereForCausalLM"
    for family in ("openai-gpt", "xglm"):  # one has an attention of its own, the other other positions
        unknown = ModelConfig(source="local", name=str(folder_of(family)))
        with pytest.raises(ModelError, match="cannot attend to packed sequences|does not give what"):
            fetch_base_model(unknown, tmp_path, tmp_path / family)


def test_the_readme_says_what_is_tested_here() -> None:
    heads = ("", "encode", "train", "rerank", "export")
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    lines += [f"| {one.title} | " + " | ".join(["yes"] * 4) + " |" for one in KNOWN.values()]
    lines += [f"| {title} | refused: {why} ||||" for title, why in REFUSED.values()]
    assert "\n".join(lines) in README.read_text(encoding="utf-8"), "\n".join(lines)


@pytest.mark.parametrize(
    ("family", "more", "window"),
    [
        ("mistral", {"sliding_window": 128}, 128),
        ("gemma2", {"sliding_window": 128}, 128),
        ("gemma3_text", {"sliding_window": 128}, 128),
        ("phi3", {"sliding_window": 128}, 128),
        ("qwen2", {"sliding_window": 128}, None),
        ("qwen2", {"sliding_window": 128, "use_sliding_window": True, "max_window_layers": 0}, 128),
        ("llama", {}, None),
    ],
    ids=str,
)
def test_a_window_shorter_than_the_prompt_is_refused_when_the_run_is_planned(
    family: str, more: dict[str, object], window: int | None, tmp_path: Path
) -> None:
    preset = build_project(tmp_path)  # prompts of 256 tokens
    build_model(tmp_path / "model", family, **more)
    assert sliding_window(read_config(tmp_path / "model")) == window
    if window is None:
        _ = open_run(str(preset)).keys
        return
    with pytest.raises(ConfigError, match=r"looks back 128 tokens.*train\.prompt\.total_tokens = 256"):
        _ = open_run(str(preset)).keys
    _ = open_run(
        str(preset), [f"{section}.prompt.total_tokens=128" for section in ("model", "train", "evaluate")]
    ).keys


def test_an_opt_that_normalises_after_its_layers_is_refused(tmp_path: Path) -> None:
    preset = build_project(tmp_path)
    build_model(tmp_path / "model", "opt", do_layer_norm_before=False)
    with pytest.raises(ModelError, match="normalises after its layers"):
        _ = open_run(str(preset)).keys
