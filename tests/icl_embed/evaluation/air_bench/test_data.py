"""What the data of a task may not be, and where they are read from."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from icl_embed.errors import DataError, EvaluationError, MissingTaskError, SourceError
from icl_embed.evaluation.air_bench.data import AirData, checked_data, write_task
from icl_embed.evaluation.air_bench.names import TaskName, published
from icl_embed.evaluation.air_bench.task import open_air_bench_task
from tests.icl_embed.evaluation.air_bench.conftest import OWN

NAN = float("nan")
PASSAGES = [{"id": "p1", "text": "red bird"}, {"id": "p2", "text": "blue fish"}]
QUERIES = [{"id": "q1", "text": "bird"}]
JUDGED = [{"qid": "q1", "docid": "p1", "relevance": 1}]


def part(mirror, repository, split):
    return mirror / repository / "AIR-Bench_24.05" / f"{split}.jsonl"


def corpus(mirror):
    return part(mirror, "qa_healthcare_en", "corpus_toy")


def test_what_was_written_is_read(mirror, toy):
    data = open_air_bench_task(OWN, folder=mirror).data
    assert (data.passages, data.queries) == (toy["passages"], toy["queries"])
    assert data.relevance == {query: dict(sorted(g.items())) for query, g in toy["relevance"].items()}


@pytest.mark.parametrize(
    ("passages", "queries", "judged", "message"),
    [
        ([], QUERIES, JUDGED, "no passage"),
        (PASSAGES, [], JUDGED, "no query"),
        ([*PASSAGES, PASSAGES[0]], QUERIES, JUDGED, "'p1' appears more than once"),
        (PASSAGES, [*QUERIES, *QUERIES], JUDGED, "'q1' appears more than once"),
        ([*PASSAGES, {"id": "p3", "text": NAN}], QUERIES, JUDGED, "'p3' is nan"),
        ([*PASSAGES, {"id": "p3", "text": " \n"}], QUERIES, JUDGED, "not empty"),
        ([*PASSAGES, {"id": 3, "text": "a"}], QUERIES, JUDGED, "has the id 3"),
        ([*PASSAGES, {"text": "a"}], QUERIES, JUDGED, "has the id None"),
        (PASSAGES, [*QUERIES, {"id": "q2", "text": "b"}], JUDGED, "1 of 2 queries have no judgement.*'q2'"),
        (
            PASSAGES,
            QUERIES,
            [*JUDGED, {"qid": "q1", "docid": "p9", "relevance": 1}],
            "'p9'.*not in the corpus",
        ),
        (PASSAGES, QUERIES, [*JUDGED, {"qid": "q9", "docid": "p1", "relevance": 1}], "'q9', which does not"),
        (PASSAGES, QUERIES, [{"qid": "q1", "docid": "p1", "relevance": NAN}], "is nan, expected a whole"),
        (PASSAGES, QUERIES, [{"qid": "q1", "docid": "p1", "relevance": 0.5}], "is 0.5, expected a whole"),
        (PASSAGES, QUERIES, [{"qid": "q1", "docid": "p1", "relevance": -1}], "is -1, expected a whole"),
        (PASSAGES, QUERIES, [*JUDGED, {"qid": "q1", "docid": "p1", "relevance": 0}], "judged twice.*1 and 0"),
        (PASSAGES, QUERIES, [{"qid": "q1", "docid": 7, "relevance": 1}], "docid 7"),
    ],
)
def test_bad_data_are_refused_with_what_was_found(passages, queries, judged, message):
    with pytest.raises(EvaluationError, match=message):
        checked_data("toy", passages, queries, judged)


def test_what_cannot_change_a_score_is_taken():
    judged = [*JUDGED, *JUDGED, {"qid": "q1", "docid": "gone", "relevance": 0.0}]
    assert checked_data("toy", PASSAGES, QUERIES, judged).relevance == {"q1": {"gone": 0, "p1": 1}}


def test_the_fingerprint_knows_content_not_order():
    def fingerprint(passages, judged=JUDGED):
        return checked_data("toy", passages, QUERIES, judged).fingerprint

    same = fingerprint(PASSAGES)
    assert fingerprint(PASSAGES[::-1]) == same
    assert fingerprint([PASSAGES[0], {"id": "p2", "text": "blue fish "}]) != same
    assert fingerprint(PASSAGES, [{**JUDGED[0], "relevance": 2}]) != same
    assert fingerprint(PASSAGES, None) != same


def test_bytes_that_are_not_utf_8_are_refused_in_json_and_in_parquet(mirror):
    path = corpus(mirror)
    path.write_bytes(path.read_bytes() + b'{"id": "bad", "text": "\xff"}\n')
    with pytest.raises(DataError, match=r"corpus_toy\.jsonl, record 25"):
        open_air_bench_task(OWN, folder=mirror)
    texts = pa.array([b"\xff"], pa.binary()).view(pa.string())
    path.unlink()
    (path.parents[1] / "README.md").unlink()
    pq.write_table(pa.table({"id": ["p"], "text": texts}), path.with_suffix(".parquet"))
    with pytest.raises(DataError, match="not UTF-8"):
        open_air_bench_task(OWN, folder=mirror)


def test_a_cut_off_file_is_refused(mirror):
    path = corpus(mirror)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="not valid JSON"):
        open_air_bench_task(OWN, folder=mirror)


def test_parquet_shards_without_a_card_are_found(mirror):
    expected = open_air_bench_task(OWN, folder=mirror).data
    path = corpus(mirror)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.unlink()
    (path.parents[1] / "README.md").unlink()
    for number, shard in enumerate((rows[:10], rows[10:])):
        target = path.with_name(f"corpus_toy-0000{number}-of-00002.parquet")
        pq.write_table(pa.Table.from_pylist(shard), target)
    assert open_air_bench_task(OWN, folder=mirror).data.fingerprint == expected.fingerprint


def test_a_card_may_place_files_anywhere_within_the_repository(mirror):
    path = corpus(mirror)
    moved = path.parents[1] / "odd" / "passages.jsonl"
    moved.parent.mkdir()
    path.rename(moved)
    card = path.parents[1] / "README.md"
    card.write_text(card.read_text().replace("AIR-Bench_24.05/corpus_toy.jsonl", "odd/*.jsonl"))
    assert len(open_air_bench_task(OWN, folder=mirror).data.passages) == 24


def test_a_card_cannot_lead_out_of_the_folder(mirror):
    card = mirror / "qa_healthcare_en" / "README.md"
    secret = mirror.parent / "secret.jsonl"
    secret.write_text('{"id": "s", "text": "secret"}\n')
    original = card.read_text()
    for path in ("../../secret.jsonl", str(secret)):
        card.write_text(original.replace("AIR-Bench_24.05/corpus_toy.jsonl", path))
        with pytest.raises(MissingTaskError):
            open_air_bench_task(OWN, folder=mirror)
    card.write_text(original)
    corpus(mirror).unlink()
    corpus(mirror).symlink_to(secret)
    with pytest.raises(SourceError, match="leads out"):
        open_air_bench_task(OWN, folder=mirror)


def test_a_hugging_face_cache_is_read_through_its_links(mirror, tmp_path):
    expected = open_air_bench_task(OWN, folder=mirror).data.fingerprint
    cache = tmp_path / "cache"
    for repository in ("qa_healthcare_en", "qrels-qa_healthcare_en-dev"):
        root = cache / f"datasets--AIR-Bench--{repository}"
        shutil.copytree(mirror / repository, root / "snapshots" / "abc123")
        (root / "blobs").mkdir()
        for number, file in enumerate(sorted((root / "snapshots").rglob("*.jsonl"))):
            file.rename(root / "blobs" / str(number))
            file.symlink_to(os.path.relpath(root / "blobs" / str(number), file.parent))
    assert open_air_bench_task(OWN, folder=cache).data.fingerprint == expected
    shutil.copytree(root / "snapshots" / "abc123", root / "snapshots" / "def456", symlinks=True)
    with pytest.raises(EvaluationError, match="2 snapshots"):
        open_air_bench_task(OWN, folder=cache)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("def456")
    assert open_air_bench_task(OWN, folder=cache).data.fingerprint == expected


def test_a_task_that_the_folder_does_not_hold_is_missing_by_name(mirror):
    with pytest.raises(MissingTaskError, match="corpus_default") as caught:
        open_air_bench_task("air-bench/qa_wiki_en", folder=mirror)
    assert caught.value.task == "air-bench/24.05/qa_wiki_en"


def test_a_mirror_of_a_published_task_with_other_sizes_is_refused(tmp_path, toy):
    write_task(tmp_path, TaskName.parse("air-bench/qa_finance_en"), "dev", **toy)
    with pytest.raises(
        EvaluationError, match=r"24 passages and 12 queries.*26266 and 317.*qa_finance_mine_en"
    ):
        open_air_bench_task("air-bench/qa_finance_en", folder=tmp_path)


def test_a_mirror_with_the_published_sizes_is_taken_as_such(tmp_path):
    (one,) = [one for one in published() if one.version == "24.04" and one.dataset == "gemini"]
    name = TaskName.parse("air-bench/24.04/long-doc_arxiv_gemini_en")
    passages = {str(n): f"text {n}" for n in range(one.passages)}
    queries = {str(n): f"question {n}" for n in range(one.queries["test"])}
    write_task(tmp_path, name, "test", passages=passages, queries=queries, relevance=None)
    assert (tmp_path / "long-doc_arxiv_en" / "AIR-Bench_24.04" / "queries_gemini.jsonl").is_file()
    task = open_air_bench_task(name.full, folder=tmp_path, split="test")
    assert task.facts.served_from == "mirror (sizes as published)"
    assert (task.facts.subset, task.facts.metric) == ("AIR-Bench_24.04", "recall_at_10")


def test_splits_that_do_not_exist_are_named(mirror):
    with pytest.raises(EvaluationError, match="it has: test"):
        open_air_bench_task("air-bench/long-doc_arxiv_gpt3_en", folder=mirror, split="dev")
    with pytest.raises(EvaluationError, match="it has: dev, test"):
        open_air_bench_task(OWN, folder=mirror, split="train")
    with pytest.raises(EvaluationError, match="it has: test"):
        open_air_bench_task(OWN, folder=mirror, version="24.04", split="dev")


def test_own_data_without_a_folder_are_an_unknown_name():
    with pytest.raises(EvaluationError, match="did you mean air-bench/long-doc_arxiv_gpt3_en"):
        open_air_bench_task("air-bench/long-doc_arxiv_gtp3_en", split="test")


def test_without_a_network_the_hub_is_told_to_be_out_of_reach(tmp_path):
    script = (
        "from icl_embed.evaluation.air_bench.task import open_air_bench_task as o\n"
        "from icl_embed.errors import MissingTaskError\n"
        "try: o('air-bench/qa_wiki_en')\n"
        "except MissingTaskError as error: print(error)\n"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert "cannot get corpus_default of AIR-Bench/qa_wiki_en, AIR-Bench_24.05, from the hub" in done.stdout
    assert "give the folder that holds it as the mirror" in done.stdout


def test_what_the_hub_gave_before_is_read_without_a_network(tmp_path, toy):
    # Prepared from a folder of the repository's name, a repository lies in the cache as the hub's would,
    # but for the owner in the folder's name.
    write_task(tmp_path / "AIR-Bench", TaskName.parse("qa_law_en"), "dev", **toy)
    script = (
        "import os, pathlib\n"
        "from datasets import load_dataset\n"
        "os.chdir('prepared')\n"
        "for name in ('qa_law_en', 'qrels-qa_law_en-dev'):\n"
        "    load_dataset('AIR-Bench/' + name, 'AIR-Bench_24.05')\n"
        "    cached = pathlib.Path(os.environ['HF_HOME']) / 'datasets'\n"
        "    (cached / name).rename(cached / ('AIR-Bench___' + name))\n"
        "os.chdir('..')\n"
        "from icl_embed.evaluation.air_bench.task import open_air_bench_task\n"
        "task = open_air_bench_task('air-bench/qa_law_en')\n"
        "print(task.facts.served_from, task.data.fingerprint)\n"
    )
    (tmp_path / "prepared").mkdir()
    (tmp_path / "AIR-Bench").rename(tmp_path / "prepared" / "AIR-Bench")
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path / "hf"),
        "PYTHONPATH": str(Path(__file__).parents[4]),
    }
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    expected = AirData(
        toy["passages"],
        toy["queries"],
        {query: dict(sorted(grades.items())) for query, grades in toy["relevance"].items()},
    )
    assert done.stdout.split() == ["hub", expected.fingerprint]
    assert "says 141678 and 360" in done.stderr  # a hub that differs from the table is told, not refused


def test_a_folder_that_would_shadow_the_hub_is_refused(mirror, tmp_path, monkeypatch):
    write_task(
        tmp_path / "AIR-Bench", TaskName.parse("qa_law_en"), "dev", passages={}, queries={}, relevance=None
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EvaluationError, match="working directory"):
        open_air_bench_task("air-bench/qa_law_en")
