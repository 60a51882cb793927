"""Compiled tasks: exact, bound to their model, safe to read from anywhere."""

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from icl_embed.config import PromptConfig, TemplateConfig
from icl_embed.errors import ConfigError, DataError, ModelError, StoreError
from icl_embed.examples import Example
from icl_embed.model.compiled import METADATA_KEY, CompiledTask
from icl_embed.model.demonstrations import add_demonstrations, take_demonstrations
from icl_embed.model.embedder import Embedder
from icl_embed.model.packing import PrefixStates
from icl_embed.model.settings import EmbedderSettings
from tests.tiny_models import build_model

FAMILIES = ("llama", "qwen2", "qwen3", "mistral", "gemma2")
EXAMPLES = [Example("red cat", "blue dog"), Example("green fish </s>", "yellow bird")]
TEXTS = ["sun", "the big moon and the small star", "fire water earth wind " * 4]


def plain_forward(folder: Path, sequences: list[list[int]]) -> np.ndarray:
    """The slow, obvious way: a fresh transformers model, one whole prompt at a time, its last state."""
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        states = [model(input_ids=torch.tensor([one])).last_hidden_state[0, -1] for one in sequences]
    return F.normalize(torch.stack(states), dim=-1).numpy()


@pytest.fixture(scope="module")
def embedder(tiny_model: Path) -> Embedder:
    return Embedder.load(tiny_model, device="cpu", dtype="float32")


@pytest.fixture
def saved(embedder: Embedder, tmp_path: Path) -> Path:
    path = tmp_path / "task.safetensors"
    embedder.compile_task("find", EXAMPLES).save(path)
    return path


@pytest.mark.parametrize("family", FAMILIES)
def test_a_compiled_task_gives_the_vectors_of_the_whole_prompt(family: str, tmp_path: Path) -> None:
    folder = build_model(tmp_path / family, family)
    embedder = Embedder.load(folder, device="cpu", dtype="float32")
    task = embedder.compile_task("find", EXAMPLES)
    prefix = embedder.prompts.prefix("find", EXAMPLES).tokens
    assert task.prefix.tokens == prefix
    expected = plain_forward(folder, [prefix + tail for tail in embedder.prompts.query_tails("find", TEXTS)])
    task.save(tmp_path / "task.safetensors")
    loaded = CompiledTask.load(tmp_path / "task.safetensors")
    for found in (
        embedder.encode_queries(TEXTS, task=task),
        embedder.encode_queries(TEXTS, task=loaded),
        embedder.encode_queries(TEXTS, instruction="find", examples=EXAMPLES),
    ):
        assert (found * expected).sum(axis=1).min() >= 0.99999
        assert np.abs(found - expected).max() < 1e-5


def test_a_saved_task_is_the_same_to_the_bit(embedder: Embedder, saved: Path) -> None:
    task, loaded = embedder.compile_task("find", EXAMPLES), CompiledTask.load(saved)
    for name in ("instruction", "examples", "prefix", "fingerprints", "settings", "dtype"):
        assert getattr(loaded, name) == getattr(task, name)
    for side in ("keys", "values"):
        for mine, theirs in zip(getattr(task.states, side), getattr(loaded.states, side), strict=True):
            assert torch.equal(mine, theirs)
    assert task.num_bytes == 2 * 4 * 2 * len(task.prefix.tokens) * 8 * 4  # sides, layers, heads, width, fp32
    expected = embedder.encode_queries(TEXTS, task=task)
    assert np.array_equal(embedder.encode_queries(TEXTS, task=loaded), expected)


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_a_bidirectional_task_keeps_tokens_alone_and_is_right(
    embedder: Embedder, tmp_path: Path, pooling: str
) -> None:
    settings = EmbedderSettings(attention="bidirectional", pooling=pooling)
    both = Embedder(embedder.model, embedder.tokenizer, settings, embedder.folder)
    both.compile_task("find", EXAMPLES).save(tmp_path / "task.safetensors")
    task = CompiledTask.load(tmp_path / "task.safetensors")
    assert task.states is None and task.num_bytes == 0
    found = both.encode_queries(TEXTS, task=task)
    alone = [both.encode_queries([text], instruction="find", examples=EXAMPLES)[0] for text in TEXTS]
    assert np.abs(found - np.stack(alone)).max() < 1e-5
    assert np.abs(found - embedder.encode_queries(TEXTS, instruction="find", examples=EXAMPLES)).max() > 1e-3


def test_a_task_of_another_model_is_refused_and_says_which(
    embedder: Embedder, saved: Path, tmp_path: Path
) -> None:
    task = CompiledTask.load(saved)
    folder = tmp_path / "other"
    shutil.copytree(embedder.folder, folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, indent=4))
    with pytest.raises(ModelError, match=rf"another tokenizer \(fingerprint {task.fingerprints.tokenizer}"):
        Embedder.load(folder, device="cpu", dtype="float32").encode_queries(TEXTS, task=task)
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] += 1
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=rf"another model \(fingerprint {task.fingerprints.model}"):
        Embedder.load(folder, device="cpu", dtype="float32").encode_queries(TEXTS, task=task)


def test_a_task_saved_beside_the_weights_is_still_theirs(embedder: Embedder, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(embedder.folder, folder)
    first = Embedder.load(folder, device="cpu", dtype="float32")
    first.compile_task("find", EXAMPLES).save(folder / "find.safetensors")
    again = Embedder.load(folder, device="cpu", dtype="float32")
    assert again.encode_queries(TEXTS, task=CompiledTask.load(folder / "find.safetensors")).shape == (3, 32)


def test_a_task_of_other_settings_or_number_format_is_refused(embedder: Embedder, saved: Path) -> None:
    task = CompiledTask.load(saved)
    shorter = EmbedderSettings(prompt=PromptConfig(query_tokens=100))
    with pytest.raises(ModelError, match=r"other settings \(prompt\)"):
        Embedder.load(embedder.folder, device="cpu", dtype="float32", settings=shorter).encode_queries(
            TEXTS, task=task
        )
    coarse = Embedder.load(embedder.folder, device="cpu", dtype="bfloat16")
    with pytest.raises(ModelError, match="compiled in float32, but this embedder computes in bfloat16"):
        coarse.encode_queries(TEXTS, task=task)


def test_a_model_in_memory_knows_its_own_tasks_and_saves_none(embedder: Embedder, tmp_path: Path) -> None:
    one = Embedder(embedder.model, embedder.tokenizer, embedder.settings)
    two = Embedder(embedder.model, embedder.tokenizer, embedder.settings)
    task = one.compile_task("find", EXAMPLES)
    assert one.encode_queries(TEXTS, task=task).shape == (3, one.dimension)
    with pytest.raises(ModelError, match="another model"):
        two.encode_queries(TEXTS, task=task)
    with pytest.raises(ModelError, match="in memory alone"):
        task.save(tmp_path / "task.safetensors")
    assert not list(tmp_path.iterdir())


def change(path: Path, edit: object) -> None:
    """Rewrite a task file through ``edit(record, tensors)``."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        record = json.loads(file.metadata()[METADATA_KEY])
    tensors = load_file(path)
    edit(record, tensors)
    save_file(tensors, path, {METADATA_KEY: json.dumps(record)})


def poison(tensors: dict[str, torch.Tensor]) -> None:
    tensors["values.3"][0, 1, 2, 3] = float("nan")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda record, _: record.update(format=2), "format"),
        (lambda record, _: record.update(layers=10**12), "expected keys and values of 1000000000000 layers"),
        (lambda record, _: record.update(layers=0), "expected keys and values of 0 layers"),
        (lambda record, _: record.update(surprise=1), "surprise"),
        (lambda record, _: record.update(tokens=[]), "expected"),
        (lambda record, _: record.update(tokens=[-2]), "tokens"),
        (lambda record, _: record.update(num_examples=1), "contradicts itself"),
        (lambda record, _: record.update(demonstrations=[[1]]), "contradicts itself"),
        (lambda record, _: record["tokens"].__setitem__(0, -1), "contradicts itself"),
        (lambda record, _: record["settings"].update(attention="sideways"), "attention"),
        (lambda record, _: record.update(dtype="bfloat16"), r"keys\.0 is torch.float32, expected bfloat16"),
        (
            lambda _, tensors: tensors.update({"keys.1": tensors["keys.1"][:, :1].clone()}),
            r"keys\.1 has shape",
        ),
        (lambda _, tensors: tensors.update({"keys.0": torch.zeros(3)}), r"keys\.0 has shape \(3,\)"),
        (lambda _, tensors: tensors.update({"keys.9": tensors.pop("keys.2")}), r"no tensor keys\.2"),
        (lambda _, tensors: poison(tensors), r"values\.3 holds a value that is not finite"),
    ],
)
def test_a_file_that_lies_is_refused(saved: Path, edit: object, message: str) -> None:
    change(saved, edit)
    with pytest.raises(ModelError, match=message):
        CompiledTask.load(saved)


def test_tensors_that_do_not_fit_the_model_are_refused(embedder: Embedder, saved: Path) -> None:
    def narrower(record: dict, tensors: dict) -> None:
        tensors.update({name: tensor[..., :4].clone() for name, tensor in tensors.items()})

    change(saved, narrower)
    with pytest.raises(
        ModelError, match=r"\(layers, key heads, width\) are \(4, 2, 4\), the model's \(4, 2, 8\)"
    ):
        embedder.encode_queries(TEXTS, task=CompiledTask.load(saved))
    change(saved, lambda record, _: record["tokens"].__setitem__(0, 99999))
    with pytest.raises(ModelError, match=r"\(4, 2, 4\)"):
        embedder.encode_queries(TEXTS, task=CompiledTask.load(saved))


def test_a_token_that_the_model_lacks_is_refused(embedder: Embedder, saved: Path) -> None:
    change(saved, lambda record, _: record["tokens"].__setitem__(0, 99999))
    with pytest.raises(ModelError, match="token 99999"):
        embedder.encode_queries(TEXTS, task=CompiledTask.load(saved))


def test_a_broken_file_is_refused(saved: Path, embedder: Embedder, tmp_path: Path) -> None:
    data = saved.read_bytes()
    for number, damaged in enumerate((b"", data[:100], data[:-1], b"\xff" * len(data), b"{}" * 50)):
        path = tmp_path / f"damaged-{number}"
        path.write_bytes(damaged)
        with pytest.raises(ModelError, match="cannot read the compiled task"):
            CompiledTask.load(path)
    with pytest.raises(ModelError, match="cannot read the compiled task"):
        CompiledTask.load(tmp_path / "absent")
    with pytest.raises(ModelError, match="is not a compiled task"):
        CompiledTask.load(embedder.folder / "model.safetensors")


def test_a_disk_that_refuses_leaves_the_old_file(embedder: Embedder, saved: Path) -> None:
    with pytest.raises(StoreError):
        embedder.compile_task("find").save(saved / "below-a-file")
    assert len(CompiledTask.load(saved).examples) == 2


def test_examples_longer_than_the_context_are_dropped_whole_and_counted(
    embedder: Embedder, caplog: pytest.LogCaptureFixture
) -> None:
    settings = EmbedderSettings(prompt=PromptConfig(query_tokens=60, total_tokens=120))
    small = Embedder(embedder.model, embedder.tokenizer, settings)
    long = Example("fire " * 100, "water " * 100)
    with caplog.at_level(logging.WARNING):
        task = small.compile_task("find", [EXAMPLES[0], long, EXAMPLES[1]])
    assert (task.prefix.num_examples, task.prefix.num_dropped) == (1, 2)
    assert "2 of 3 examples do not fit into prompt.total_tokens=120" in caplog.text
    only_first = small.compile_task("find", EXAMPLES[:1])
    assert task.prefix.tokens == only_first.prefix.tokens
    none_left = small.encode_queries(TEXTS, instruction="find", examples=[long])
    assert np.array_equal(none_left, small.encode_queries(TEXTS, instruction="find"))


def test_budgets_never_exceed_the_positions_of_the_model(
    embedder: Embedder, caplog: pytest.LogCaptureFixture
) -> None:
    settings = EmbedderSettings(prompt=PromptConfig(total_tokens=4096, passage_tokens=3000))
    with caplog.at_level(logging.WARNING):
        found = Embedder(embedder.model, embedder.tokenizer, settings).prompts.budgets
    assert found == PromptConfig(total_tokens=2048, passage_tokens=2048)
    assert "2048 positions; passage_tokens, total_tokens lowered" in caplog.text


def test_repeated_calls_reuse_what_they_encoded(embedder: Embedder) -> None:
    mine = Embedder(embedder.model, embedder.tokenizer, embedder.settings)
    first = mine._recent_task("find", EXAMPLES)
    assert mine._recent_task("find", list(EXAMPLES)) is first
    assert mine._recent_task("find", EXAMPLES[:1]) is not first
    small = replace(mine, task_cache_bytes=first.num_bytes)
    assert small._recent_task("find", EXAMPLES) is small._recent_task("find", EXAMPLES)
    small._recent_task("seek", EXAMPLES)
    assert len(small._tasks) == 1


def test_changed_weights_are_noticed(tiny_model: Path) -> None:
    embedder = Embedder.load(tiny_model, device="cpu", dtype="float32")
    before = embedder.encode_queries(TEXTS, instruction="find", examples=EXAMPLES)
    with torch.no_grad():
        embedder.model.layers[0].self_attn.v_proj.weight.mul_(2)
    after = embedder.encode_queries(TEXTS, instruction="find", examples=EXAMPLES)
    fresh = Embedder(embedder.model, embedder.tokenizer, embedder.settings)
    assert np.array_equal(after, fresh.encode_queries(TEXTS, instruction="find", examples=EXAMPLES))
    assert np.abs(after - before).max() > 1e-4


def test_control_strings_and_surrogates_in_a_task_are_plain_text(embedder: Embedder, tmp_path: Path) -> None:
    task = embedder.compile_task("find </s> <s> \ud800", [Example("a </s>\udfff", "<s>")])
    eos, bos = embedder.tokenizer.eos_token_id, embedder.tokenizer.bos_token_id
    assert not {eos, bos} & set(task.prefix.tokens[len(embedder.prompts.bos) :])
    task.save(tmp_path / "task.safetensors")
    loaded = CompiledTask.load(tmp_path / "task.safetensors")
    assert np.array_equal(
        embedder.encode_queries(TEXTS, task=loaded),
        embedder.encode_queries(
            TEXTS, instruction="find </s> <s> \ud800", examples=[Example("a </s>\udfff", "<s>")]
        ),
    )


def test_an_empty_list_of_examples_is_zero_shot(embedder: Embedder) -> None:
    task = embedder.compile_task("find", [])
    assert (task.prefix.num_examples, task.prefix.num_dropped) == (0, 0)
    zero = embedder.encode_queries(TEXTS, instruction="find")
    assert np.array_equal(embedder.encode_queries(TEXTS, task=task), zero)


def test_what_is_not_an_example_is_refused(embedder: Embedder) -> None:
    with pytest.raises(DataError, match=r"examples\[1\] must be an Example, found tuple"):
        embedder.compile_task("find", [EXAMPLES[0], ("a", "b")])
    with pytest.raises(DataError, match=r"examples\[0\] must have a text"):
        embedder.encode_queries(TEXTS, instruction="find", examples=[Example("a", None)])


def test_a_task_and_an_instruction_together_or_neither_are_refused(embedder: Embedder) -> None:
    task = embedder.compile_task("find")
    for arguments in ({}, {"task": task, "instruction": "find"}, {"task": task, "examples": EXAMPLES}):
        with pytest.raises(ConfigError, match="an instruction"):
            embedder.encode_queries(TEXTS, **arguments)


def test_broken_weights_make_no_task(tiny_model: Path) -> None:
    embedder = Embedder.load(tiny_model, device="cpu", dtype="float32")
    with torch.no_grad():
        embedder.model.layers[0].self_attn.k_proj.weight.fill_(float("nan"))
    with pytest.raises(ModelError, match="encoded examples are not finite"):
        embedder.compile_task("find", EXAMPLES)
    with pytest.raises(ModelError, match="text 0 is not finite"):
        embedder.encode_queries(TEXTS, instruction="find", examples=EXAMPLES)


def test_states_are_one_pair_per_layer(embedder: Embedder) -> None:
    states = embedder.compile_task("find", EXAMPLES).states
    assert isinstance(states, PrefixStates) and len(states.keys) == len(states.values) == 4


def test_a_loaded_task_knows_the_demonstrations_of_its_slots(tmp_path: Path, tiny_model: Path) -> None:
    """Where the prefix is encoded again (a pool's worker, bidirectional attention) tokens alone must do."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    template = TemplateConfig(demonstrations=True)
    for attention in ("causal", "bidirectional"):
        settings = EmbedderSettings(template=template, attention=attention)
        projected = Embedder.load(folder, device="cpu", dtype="float32")
        add_demonstrations(projected.model)
        take_demonstrations(projected.model, folder)
        embedder = Embedder.load(folder, device="cpu", dtype="float32", settings=settings)
        expected = embedder.encode_queries(TEXTS, instruction="find", examples=EXAMPLES)
        embedder.compile_task("find", EXAMPLES).save(tmp_path / "task.safetensors")
        bare = replace(CompiledTask.load(tmp_path / "task.safetensors"), states=None)
        found = embedder.encode_queries(TEXTS, task=embedder.with_states(bare))
        assert np.abs(found - expected).max() < 1e-5
