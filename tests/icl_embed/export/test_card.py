"""The card: every figure from the store, front matter that the hub reads, snippets that run."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from icl_embed.cli.export import app
from icl_embed.errors import ConfigError, ModelError
from icl_embed.export.card import write_card
from icl_embed.export.facts import gather_facts
from icl_embed.export.folder import published, write_model
from icl_embed.export.task_prompts import TaskPrompt
from icl_embed.model.embedder import Embedder
from tests.icl_embed.export.conftest import PASSAGES, QUERIES, TASKS
from tests.icl_embed.export.small_store import HOSTILE, build_store
from tests.icl_embed.export.test_adapter_and_attention import train_a_little

README = Path(__file__).parents[3] / "README.md"
FENCED = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def front_and_body(folder):
    _, front, body = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(front), body


@pytest.fixture
def carded(tiny_model, tmp_path):
    store, embedder = build_store(tmp_path / "store", tiny_model())
    exported = write_model(embedder.path, tmp_path, TASKS)
    facts = gather_facts(store, embedder, {})
    write_card(tmp_path, exported, facts, name="my-model", licence="Apache-2.0")
    return tmp_path


def test_the_scores_and_data_of_the_store_are_on_the_card(carded):
    front, body = front_and_body(carded)
    row = next(line for line in body.splitlines() if line.startswith("| unseen-set "))
    assert "61.2 (55.0 to 66.0)" in row  # zero-shot
    assert "64.3 (58.0 to 69.0)" in row  # few-shot
    assert "10.1 (8.0 to 12.0)" in row  # the base model's
    assert "| trained-set | retrieval | training | not stated |" in body
    assert "- train.optimizer.steps: 7" in body
    assert "- last loss: 0.5" in body
    values = {m["name"]: m["value"] for m in front["model-index"][0]["results"][0]["metrics"]}
    assert values == {"nDCG@10, zero-shot": 61.2, "nDCG@10, 3-shot fixed": 64.3}


def test_the_hub_library_reads_the_front_matter(carded):
    from huggingface_hub import ModelCard

    data = ModelCard.load(carded / "README.md").data
    assert data.license == "apache-2.0"
    assert data.model_name == "my-model"
    assert data.eval_results[0].metric_value == 61.2


def test_hostile_names_stay_text(tiny_model, tmp_path):
    store, embedder = build_store(tmp_path / "store", tiny_model(), trained_set=HOSTILE)
    exported = write_model(embedder.path, tmp_path, {HOSTILE: TASKS["facts"]})
    write_card(tmp_path, exported, gather_facts(store, embedder, {}), name=HOSTILE)
    _, body = front_and_body(tmp_path)
    outside_code = re.sub(FENCED, "", body)
    assert "<script>" not in outside_code
    assert not re.search(r"(?<!\\)\]\(javascript", outside_code)
    for code in re.findall(FENCED, body):
        compile(code, "card", "exec")


LONG_QUERIES = [*QUERIES, "red " * 200, "cat 1,000 é " * 60]  # beyond the budget of a query


@pytest.mark.parametrize("tasks", [{"few": TASKS["facts-few"]}, {}], ids=["a task", "no task"])
@pytest.mark.parametrize("settings", [{}, {"pooling": "mean"}, {"special_tokens": True}], ids=str)
def test_the_snippets_of_the_card_give_our_vectors_whatever_the_length(
    tiny_model, tmp_path, monkeypatch, settings, tasks
):
    source = tiny_model(**settings)
    (tmp_path / "my-model").mkdir()
    exported = write_model(source, tmp_path / "my-model", tasks)
    write_card(tmp_path / "my-model", exported, None, name="my-model")
    _, body = front_and_body(tmp_path / "my-model")
    ours, st, plain = re.findall(FENCED, body)
    monkeypatch.chdir(tmp_path)
    embedder = Embedder.load(source, device="cpu", dtype="float32")
    task = tasks.get("few", TaskPrompt("Retrieve the answer"))
    passages = embedder.encode_passages(PASSAGES)
    for code in (st, plain):
        # Mean pooling needs the end of a query in its text, where sentence-transformers cuts.
        queries = QUERIES if code == st and exported.settings.pooling == "mean" else LONG_QUERIES
        names = {"texts": queries, "passages": PASSAGES}
        exec(code, names)
        expected = embedder.encode_queries(queries, instruction=task.instruction, examples=task.examples)
        np.testing.assert_allclose(np.asarray(names["queries"]), expected, atol=1e-5)
        np.testing.assert_allclose(np.asarray(names["vectors"]), passages, atol=1e-5)
    names = {"texts": QUERIES, "passages": PASSAGES}
    exec(ours, names)
    np.testing.assert_allclose(names["vectors"], passages, atol=1e-2)


def test_the_calls_of_the_readme_give_our_vectors_whatever_the_length(tiny_model, tmp_path):
    from sentence_transformers import SentenceTransformer

    [calls] = [code for code in re.findall(FENCED, README.read_text()) if "SentenceTransformer" in code]
    write_model(tiny_model(), tmp_path, {"weakness": TASKS["facts-few"]})
    queries, passages = ["stack smashed by a long name"], ["Buffer Overflow", "moon " * 100]
    names = {"SentenceTransformer": SentenceTransformer}
    code = calls.replace('"my-embedder"', repr(str(tmp_path))).replace(
        '"Cross-site Scripting"', repr(passages[1])
    )
    exec(code, names)
    embedder = Embedder.load(tiny_model(), device="cpu", dtype="float32")
    task = TASKS["facts-few"]
    expected = embedder.encode_queries(queries, instruction=task.instruction, examples=task.examples)
    np.testing.assert_allclose(names["queries"], expected, atol=1e-5)
    np.testing.assert_allclose(names["passages"], embedder.encode_passages(passages), atol=1e-5)


@pytest.mark.parametrize("adapter", [False, True], ids=["merged", "adapter"])
def test_the_command_needs_no_task(tiny_model, tmp_path, adapter):
    trained = train_a_little(tiny_model(), tmp_path / "trained")
    arguments = [
        "export",
        str(trained),
        "--output",
        str(tmp_path / "out"),
        "--store",
        str(tmp_path / "store"),
    ]
    more = ["--adapter", "--base", str(tiny_model())] if adapter else []
    result = CliRunner().invoke(app, [*arguments, *more], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    weights = "adapter_model.safetensors" if adapter else "model.safetensors"
    assert (tmp_path / "out" / weights).is_file()
    assert "Retrieve the answer" in (tmp_path / "out" / "README.md").read_text()


def test_the_command_exports_an_artefact_by_name(tiny_model, tmp_path):
    build_store(tmp_path / "store", tiny_model())
    (tmp_path / "task.json").write_text('[{"instruct": "Find it", "query": "a", "response": "b"}]')
    arguments = ["export", "embedder", "--output", str(tmp_path / "out"), "--store", str(tmp_path / "store")]
    task = ["--task", f"mine={tmp_path / 'task.json'}"]
    result = CliRunner().invoke(app, [*arguments, *task], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "| mine | Find it | 1 |" in (tmp_path / "out" / "README.md").read_text()
    with pytest.raises(ConfigError, match="exists already"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)


def test_a_failed_export_leaves_nothing(tmp_path):
    with pytest.raises(ModelError), published(tmp_path / "out") as partial:
        (partial / "half").write_text("x")
        raise ModelError("stop")
    assert not list(tmp_path.iterdir())


def test_only_models_are_exported(tiny_model, tmp_path):
    build_store(tmp_path / "store", tiny_model())
    for name, message in (
        ("trained-set", "is no embedder or base-model or checkpoint"),
        ("none", "neither a folder"),
    ):
        arguments = ["export", name, "--output", str(tmp_path / "out"), "--store", str(tmp_path / "store")]
        with pytest.raises(ModelError, match=message):
            CliRunner().invoke(app, arguments, catch_exceptions=False)
