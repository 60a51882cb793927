"""The commands that use an embedder, in this process, on a tiny model."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from typer.testing import CliRunner

from flows.command_line import app
from icl_embed import CompiledTask, Embedder, Example
from icl_embed.cli.options import placed
from icl_embed.config import EngineConfig
from icl_embed.errors import ConfigError, DataError, IclEmbedError, ModelError
from icl_embed.model.quantise import binarise
from icl_embed.store import StageKey, Store

EXAMPLES = [Example("red cat", "blue dog"), Example("green fish", "yellow bird")]
PASSAGES = ["red cat", "", "blue dog", "green fish and a yellow bird", "red cat"]


def call(*arguments: object) -> str:
    """What a command prints; its typed error if it has one."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(result.exception, IclEmbedError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def desk(tmp_path: Path, tiny_model: Path) -> Path:
    """A folder with a model, passages, queries and examples."""
    shutil.copytree(tiny_model, tmp_path / "model")
    (tmp_path / "passages.txt").write_text("\n".join(PASSAGES) + "\n")
    (tmp_path / "queries.jsonl").write_text('"sun"\n{"text": "the moon", "id": 7}\n')
    (tmp_path / "examples.jsonl").write_text(
        "".join(json.dumps({"query": one.query, "response": one.response}) + "\n" for one in EXAMPLES)
    )
    return tmp_path


def embedder(desk: Path) -> Embedder:
    return Embedder.load(desk / "model", device="cpu", dtype="float32")


def test_each_line_becomes_a_row(desk: Path) -> None:
    printed = call(
        "encode",
        "-m",
        desk / "model",
        "--input",
        desk / "passages.txt",
        "-o",
        desk / "p.npy",
        "--dtype",
        "float32",
    )
    assert "5 vectors of 32 dimensions" in printed
    assert np.array_equal(np.load(desk / "p.npy"), embedder(desk).encode_passages(PASSAGES))


def test_several_devices_give_the_rows_of_one(desk: Path) -> None:
    common = ("encode", "-m", desk / "model", "--input", desk / "passages.txt", "--dtype", "float32")
    for name, device in (("one", "cpu"), ("two", "cpu, cpu")):
        call(*common, "--device", device, "-o", desk / f"{name}.npy")
    one, two = (np.load(desk / f"{name}.npy") for name in ("one", "two"))
    np.testing.assert_allclose(two, one, atol=1e-6)


@pytest.mark.parametrize(
    ("option", "engine", "device"),
    [
        ("auto", EngineConfig(), "auto"),
        ("cuda:1", EngineConfig(), "cuda:1"),
        ("cuda:0, cuda:1", EngineConfig(devices=("cuda:0", "cuda:1")), "auto"),
        ("ray", EngineConfig(name="ray"), "auto"),
    ],
)
def test_one_option_names_a_device_several_or_a_cluster(
    option: str, engine: EngineConfig, device: str
) -> None:
    assert placed([option]) == placed(option.split(",")) == (engine, device)
    assert placed([]) == (EngineConfig(), "auto")


def test_queries_by_task_file_equal_queries_by_examples(desk: Path) -> None:
    printed = call(
        "compile-task", "-m", desk / "model", "-i", "find", "-e", desk / "examples.jsonl",
        "-o", desk / "task.safetensors", "--dtype", "float32",
    )  # fmt: skip
    assert re.search(r"2 of 2 examples, \d+ tokens, [\d.]+ kB in float32", printed)
    assert CompiledTask.load(desk / "task.safetensors").examples == tuple(EXAMPLES)
    common = ("encode", "-m", desk / "model", "--input", desk / "queries.jsonl", "--dim", 8)
    call(*common, "--task", desk / "task.safetensors", "-o", desk / "a.safetensors")
    call(
        *common, "-i", "find", "-e", desk / "examples.jsonl", "--as", "queries", "--dtype", "float32",
        "-o", desk / "b.npy",
    )  # fmt: skip
    expected = embedder(desk).encode_queries(
        ["sun", "the moon"], instruction="find", examples=EXAMPLES, truncate_dim=8
    )
    assert np.abs(load_file(desk / "a.safetensors")["vectors"] - expected).max() < 1e-6
    assert np.abs(np.load(desk / "b.npy") - expected).max() < 1e-6


def test_quantised_vectors_come_with_what_reads_them(desk: Path) -> None:
    common = ("encode", "-m", desk / "model", "--input", desk / "passages.txt", "--dtype", "float32")
    printed = call(*common, "--quantise", "int8", "-o", desk / "p.safetensors")
    assert "mean cosine loss 0.0000" in printed
    stored, expected = load_file(desk / "p.safetensors"), embedder(desk).encode_passages(PASSAGES)
    assert stored["codes"].dtype == np.int8
    assert np.abs(stored["codes"] * stored["steps"] - expected).max() <= stored["steps"].max()
    call(*common, "--quantise", "binary", "-o", desk / "p.npy")
    assert np.array_equal(np.load(desk / "p.npy"), binarise(expected))
    with pytest.raises(DataError, match="int8 vectors need their scales"):
        call(*common, "--quantise", "int8", "-o", desk / "p.npy")


def test_search_prints_the_best_passages(desk: Path) -> None:
    printed = call(
        "search", "-m", desk / "model", "--passages", desk / "passages.txt", "-q", "sun", "--queries",
        desk / "queries.jsonl", "-i", "find", "--top", 2, "--dtype", "float32",
    )  # fmt: skip
    found = embedder(desk).search(["sun", "sun", "the moon"], PASSAGES, instruction="find", top_k=2)
    lines = [line for line in printed.splitlines() if re.search(r"\b[12]  +-?0\.\d{3}", line)]
    assert len(lines) == 6
    for line, index, score in zip(lines, found.indices.flat, found.scores.flat, strict=True):
        assert f"{score:.3f}" in line and re.search(rf"\b{index + 1}\b", line.split(f"{score:.3f}")[1])


def test_a_model_can_be_named_as_an_artefact(desk: Path) -> None:
    store = Store(desk / "store")
    key = StageKey("embedder", 1, {"a": 1})
    store.build(key, lambda out: shutil.copytree(desk / "model", out, dirs_exist_ok=True) and {})
    for name in (f"embedder/{key.fingerprint[:6]}", key.fingerprint[:6], key.reference):
        call(
            "encode",
            "-m",
            name,
            "--store",
            desk / "store",
            "--input",
            desk / "passages.txt",
            "-o",
            desk / "p.npy",
        )
    with pytest.raises(ModelError, match="neither a folder nor an artefact"):
        call(
            "encode",
            "-m",
            "absent",
            "--store",
            desk / "store",
            "--input",
            desk / "passages.txt",
            "-o",
            desk / "p.npy",
        )


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (["--as", "queries"], ConfigError, "queries need --task or --instruction"),
        (["--as", "passages", "-i", "find"], ConfigError, "passages take neither"),
        (["-e", "examples.jsonl"], ConfigError, "--examples needs --instruction"),
        (["-o", "p.txt"], DataError, r"must end in \.npy or \.safetensors"),
        (["--dim", "99"], ConfigError, "truncate_dim must be from 1 to 32"),
        (["--device", "toaster"], ConfigError, "device must be auto, cpu"),
        (["--device", "cuda:97"], ConfigError, "cuda:97 is not among them"),
        (["--device", "cpu,toaster"], ConfigError, "device must be auto, cpu"),
        (["--task", "absent.safetensors"], ModelError, "cannot read the compiled task"),
        (["--input", "absent.txt"], DataError, "cannot read absent.txt: No such file"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    desk: Path, options: list[str], error: type[Exception], message: str
) -> None:
    common = ("encode", "-m", desk / "model", "--input", desk / "passages.txt", "-o", desk / "p.npy")
    with pytest.raises(error, match=message):
        call(*common, *options)
    assert not (desk / "p.npy").exists()


def test_a_number_format_that_there_is_not_is_refused_with_those_that_there_are(desk: Path) -> None:
    words = ["encode", "-m", desk / "model", "--input", desk / "passages.txt", "-o", desk / "p.npy"]
    result = CliRunner().invoke(app, [*map(str, words), "--dtype", "float64"])
    assert result.exit_code == 2
    assert "float64" in result.output and "bfloat16" in result.output


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'"good"\n{"text": 3}\n', r'line 2: expected a text or \{"text": …\}, found \{"text": 3\}'),
        (b'"good"\n\n"good"\n', "line 2: not JSON"),
        (b'"good"\n"good"\n{"text": "cut\n', "line 3: not JSON"),
        (b'"good"\n"\xff"\n', "line 2: not UTF-8"),
        (b"[" * 100_000, "line 1: not JSON"),
    ],
)
def test_a_bad_line_is_named(desk: Path, content: bytes, message: str) -> None:
    (desk / "bad.jsonl").write_bytes(content)
    with pytest.raises(DataError, match=message):
        call("encode", "-m", desk / "model", "--input", desk / "bad.jsonl", "-o", desk / "p.npy")


def test_a_line_that_is_not_an_example_is_named(desk: Path) -> None:
    (desk / "bad.jsonl").write_text('{"query": "a", "response": "b"}\n{"query": "a"}\n')
    with pytest.raises(DataError, match='line 2: expected {"query": …, "response": …}'):
        call(
            "compile-task",
            "-m",
            desk / "model",
            "-i",
            "find",
            "-e",
            desk / "bad.jsonl",
            "-o",
            desk / "t.safetensors",
        )


def test_plain_lines_keep_what_is_in_them(desk: Path) -> None:
    from icl_embed.model.text_files import read_texts

    path = desk / "odd.txt"
    path.write_bytes("\ufeffa\u2028b\r\n\r\n  c \x0c\n".encode())
    assert read_texts(path) == ["a\u2028b", "", "  c \x0c"]
    path.write_bytes(b"")
    assert read_texts(path) == []
    path.write_bytes(b"no newline at the end")
    assert read_texts(path) == ["no newline at the end"]


def test_no_texts_are_no_vectors(desk: Path) -> None:
    (desk / "empty.txt").write_text("")
    call("encode", "-m", desk / "model", "--input", desk / "empty.txt", "-o", desk / "p.npy")
    assert np.load(desk / "p.npy").shape == (0, 32)


def test_importing_the_package_is_light() -> None:
    import subprocess
    import sys

    script = "import sys, icl_embed; icl_embed.Example; print(sorted({'torch', 'transformers', 'pydantic'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
