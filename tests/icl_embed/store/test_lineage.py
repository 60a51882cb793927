from pathlib import Path

import pytest
from typer.testing import CliRunner

from icl_embed.cli.store import app
from icl_embed.errors import StoreError
from icl_embed.store import Artefact, StageKey, Store
from icl_embed.store.key import explain_difference
from icl_embed.store.lineage import ancestors, find, trained_datasets

CARD = {"card": {"source": {"kind": "pypi", "package": "cwe2", "filename": "cwe2.whl", "sha256": "ab" * 32}}}


def build(
    store: Store, stage: str, settings: dict[str, object], *inputs: Artefact, label: str = ""
) -> Artefact:
    references = {f"{one.stage}-{n}": f"{one.stage}/{one.fingerprint}" for n, one in enumerate(inputs)}

    def produce(folder: Path) -> dict[str, int]:
        (folder / "x").write_text(stage)
        return {}

    return store.build(StageKey(stage, 1, settings, references, label), produce)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def chain(store: Store, seed: int) -> Artefact:
    dataset = build(store, "dataset", CARD, label="cwe")
    pool = build(store, "pool", {"seed": seed}, dataset)
    score = build(store, "evaluation", {"seed": seed}, pool, dataset, label=f"trained on cwe {seed}")
    return build(store, "report", {"seed": seed}, score, label="demo")


def test_lineage_leads_from_a_report_to_the_source_file(store: Store) -> None:
    report = chain(store, 1)
    found = [
        (one.depth, one.manifest.stage, one.is_repeated) for one in ancestors(store, report) if one.manifest
    ]
    assert found == [
        (0, "report", False),
        (1, "evaluation", False),
        (2, "dataset", False),
        (2, "pool", False),
        (3, "dataset", True),
    ]
    printed = CliRunner().invoke(app, ["lineage", "trained on cwe 1", "--store", str(store.root)])
    assert printed.exit_code == 0
    assert "pypi cwe2 cwe2.whl" in printed.output
    assert "ab" * 32 in printed.output


def test_what_was_trained_on_is_read_from_the_pools_behind_an_artefact(store: Store) -> None:
    pool = build(store, "pool", {"trained": ["cwe", "lee"]}, build(store, "dataset", CARD))
    embedder = build(store, "embedder", {}, build(store, "negatives", {}, pool))
    assert trained_datasets(store, embedder) == {"cwe", "lee"}
    assert trained_datasets(store, build(store, "base-model", {})) == frozenset()


def test_an_artefact_is_found_by_reference_start_or_label(store: Store) -> None:
    report = chain(store, 1)
    assert find(store, f"report/{report.fingerprint}") == report
    assert find(store, report.fingerprint[:8]) == report
    assert find(store, f"report/{report.fingerprint[:8]}") == report
    with pytest.raises(StoreError, match="is called"):
        find(store, f"pool/{report.fingerprint[:8]}")
    assert find(store, "demo") == report
    with pytest.raises(StoreError, match="store ls"):
        find(store, "nothing")
    with pytest.raises(StoreError, match="several"):
        find(store, "")


def test_the_listing_is_one_whole_line_per_artefact_however_narrow_the_output(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    label = "trained on a data set with a name that no narrow table would show"
    score = build(store, "reranker-evaluation", {}, label=label)
    lines = CliRunner().invoke(app, ["ls", "--store", str(store.root)]).output.splitlines()
    assert len(lines) == 2
    assert lines[1].startswith(score.reference)
    assert lines[1].endswith(label)


def test_verify_fails_and_names_the_damaged_artefact(store: Store) -> None:
    report = chain(store, 1)
    assert CliRunner().invoke(app, ["verify", "--store", str(store.root)]).exit_code == 0
    (report.path / "x").write_text("y")
    result = CliRunner().invoke(app, ["verify", "--store", str(store.root)])
    assert result.exit_code == 1
    assert f"report/{report.fingerprint} damaged" in result.output


def test_a_difference_between_keys_is_named_with_both_values() -> None:
    old = {"settings": {"train": {"rate": 0.1, "steps": 5}}, "inputs": {"pool": "a"}}
    new = {"settings": {"train": {"rate": 0.2, "steps": 5}}, "inputs": {"pool": "b"}}
    assert explain_difference(new, old) == ['inputs.pool: "a" → "b"', "settings.train.rate: 0.1 → 0.2"]
