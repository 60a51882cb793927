"""What is trained and what is published: adapters, new tokens, all weights, a 4-bit base."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

from icl_embed.config import PromptConfig, TemplateConfig
from icl_embed.config.load import load_config
from icl_embed.errors import ConfigError, ModelError
from icl_embed.model.embedder import Embedder
from icl_embed.model.lora import load_four_bit
from icl_embed.model.settings import WORDS, add_special_tokens
from icl_embed.prompts import SPECIAL_TOKENS, PromptBuilder
from icl_embed.train.embedder.model import load_for_training
from tests.icl_embed.train.gradients import ALONE
from tests.tiny_models import build_model
from tests.training_jobs import make_job, run_job, write_rows

SPECIAL = {"template": {"special_tokens": True}}
TABLE = "embed_tokens.weight"


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows") / "train.parquet")


@pytest.mark.parametrize("room", [0, 3])
def test_new_tokens_start_as_the_mean_of_their_words(tmp_path: Path, room: int) -> None:
    folder = build_model(tmp_path / "model")
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    if not room:
        model.resize_token_embeddings(len(tokenizer))  # no spare rows: the table must grow
    before = model.get_input_embeddings().weight.detach().clone()
    ids = add_special_tokens(model, tokenizer)
    after = model.get_input_embeddings().weight
    for token, number in zip(SPECIAL_TOKENS, ids, strict=True):
        pieces = tokenizer(WORDS[token], add_special_tokens=False)["input_ids"]
        torch.testing.assert_close(after[number], before[pieces].mean(dim=0))
        assert tokenizer.convert_tokens_to_ids(token) == number
    others = [number for number in range(len(before)) if number not in ids]
    assert torch.equal(after[others], before[others])
    assert add_special_tokens(model, tokenizer) == ids  # nothing is added twice
    prompts = PromptBuilder(tokenizer, PromptConfig(), TemplateConfig(special_tokens=True))
    assert not set(prompts.tokenize(["a <query> in a text"])[0]) & set(ids)


def test_rows_of_new_tokens_are_trained_and_merged_and_no_others(
    tiny_model: Path, rows: Path, tmp_path: Path
) -> None:
    job = make_job(tmp_path, tiny_model, rows, settings=SPECIAL)
    run_job(job, tmp_path)
    start, tokenizer = AutoModel.from_pretrained(tiny_model), AutoTokenizer.from_pretrained(tiny_model)
    ids = add_special_tokens(start, tokenizer)
    trained = load_file(job.out_dir / "model.safetensors")[TABLE]
    moved = (trained - start.get_input_embeddings().weight).abs().amax(dim=1)
    assert (moved[ids] > 1e-4).all()
    assert (moved.nonzero().squeeze(1) == torch.tensor(sorted(ids))).all()
    embedder = Embedder.load(job.out_dir, device="cpu", dtype="float32")
    assert embedder.encode_queries(["cat"], instruction="find").shape == (1, 32)


def test_full_tuning_moves_every_matrix(tiny_model: Path, rows: Path, tmp_path: Path) -> None:
    job = make_job(tmp_path, tiny_model, rows, tuning="full", optimizer={"zero_stage": 3})
    run_job(job, tmp_path)
    base = load_file(tiny_model / "model.safetensors")
    found = load_file(job.out_dir / "model.safetensors")
    for name, weight in found.items():
        assert not torch.equal(weight, base[f"model.{name}"]), name


def test_activations_are_recomputed_when_asked_for(tiny_model: Path, rows: Path, tmp_path: Path) -> None:
    for asked in (False, True):
        job = make_job(tmp_path, tiny_model, rows, activation_checkpointing=asked)
        assert load_for_training(job, ALONE).embedder.model.is_gradient_checkpointing == asked


def test_a_four_bit_base_needs_adapters_and_whole_weights() -> None:
    with pytest.raises(ConfigError, match="4-bit|four_bit_base is frozen"):
        load_config(None, ["train.four_bit_base=true", "train.tuning=full"])
    with pytest.raises(ConfigError, match="cannot be partitioned"):
        load_config(None, ["train.four_bit_base=true", "train.optimizer.zero_stage=3"])


@pytest.mark.skipif(find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_a_four_bit_base_without_bitsandbytes_says_what_to_install(tiny_model: Path) -> None:
    with pytest.raises(ModelError, match=r"pip install 'icl-embed\[gpu\]'"):
        load_four_bit(tiny_model, device=torch.device("cpu"), dtype=torch.float32)


def test_adapters_of_a_four_bit_base_are_published_on_the_full_one(
    tiny_model: Path, rows: Path, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    job = make_job(tmp_path, tiny_model, rows, four_bit_base=True, settings=SPECIAL)
    run_job(job, tmp_path)
    base = load_file(tiny_model / "model.safetensors")
    found = load_file(job.out_dir / "model.safetensors")
    change = (
        found["layers.0.self_attn.q_proj.weight"] - base["model.layers.0.self_attn.q_proj.weight"]
    ).abs()
    assert 0 < change.max() < 0.05  # the adapter's, on weights that were never rounded to 4 bits
    assert torch.equal(
        found["layers.0.input_layernorm.weight"], base["model.layers.0.input_layernorm.weight"]
    )
