"""Search results and the archive: the layout that AIR-Bench documents, and what it would refuse."""

import json
import logging
import zipfile
from pathlib import Path

import pytest

from icl_embed.errors import EvaluationError
from icl_embed.evaluation.air_bench.names import TaskName
from icl_embed.evaluation.air_bench.submission import (
    NO_RERANKER,
    SearchResults,
    load_results,
    pack_stored_runs,
    pack_submission,
    retriever_name,
    save_results,
)
from icl_embed.evaluation.scores import Absence, EvaluationScores, write_examples, write_ranking, write_scores

RANKING = {"q1": {"p1": 0.9, "p2": 0.25}, "q2": {"p2": 0.5}}


def results(name="qa_wiki_en", split="test", reranker=NO_RERANKER, ranking=RANKING, retriever="toy"):
    return SearchResults(TaskName.parse(name), split, retriever, reranker, ranking)


def test_the_archive_holds_the_documented_layout_and_no_dev_results(tmp_path):
    for one in (
        results(),
        results(split="dev"),
        results("long-doc_arxiv_llm-survey_en"),
        results("long-doc_healthcare_pubmed_100K-200K_1_en"),
        results(reranker="other"),
    ):
        save_results(tmp_path / "results", one)
    archive = pack_submission(tmp_path / "results", tmp_path / "out", retriever="toy")
    assert archive.name == "toy_NoReranker.zip"
    with zipfile.ZipFile(archive) as packed:
        assert packed.namelist() == [
            "long-doc/arxiv/en_llm-survey_test.json",
            "long-doc/healthcare/en_pubmed_100K-200K_1_test.json",
            "qa/wiki/en_default_test.json",
        ]
        assert json.loads(packed.read("qa/wiki/en_default_test.json")) == {
            "model_name": "toy",
            "reranker_name": "NoReranker",
            "benchmark_version": "AIR-Bench_24.05",
            "task_type": "qa",
            "domain": "wiki",
            "language": "en",
            "dataset_name": "default",
            "split": "test",
            "search_results": RANKING,
        }
    reranked = pack_submission(tmp_path / "results", tmp_path / "out", retriever="toy", reranker="other")
    assert reranked.name == "toy_other.zip"
    assert zipfile.ZipFile(reranked).namelist() == ["qa/wiki/en_default_test.json"]


def test_equal_results_make_equal_archives(tmp_path):
    save_results(tmp_path / "results", results())
    first = pack_submission(tmp_path / "results", tmp_path / "a", retriever="toy")
    Path(tmp_path / "results/toy/NoReranker/qa/wiki/en_default_test.json").touch()
    second = pack_submission(tmp_path / "results", tmp_path / "b", retriever="toy")
    assert first.read_bytes() == second.read_bytes()


def test_what_was_saved_is_loaded(tmp_path):
    saved = results("24.04/qa_law_en")
    assert load_results(save_results(tmp_path, saved)) == saved


def test_tasks_that_are_absent_are_told(tmp_path, caplog):
    save_results(tmp_path, results())
    with caplog.at_level(logging.WARNING):
        pack_submission(tmp_path, tmp_path / "out", retriever="toy")
    assert "holds 1 of the 64 test tasks of AIR-Bench 24.05" in caplog.text


def test_a_retrievers_name_differs_wherever_its_results_could(tmp_path):
    def name(model="toy", fingerprint="0123456789abcdef", setting="3-shot", **asked):
        return retriever_name(model, fingerprint, setting, {"qa_wiki_en": {"examples": ["a"]}, **asked})

    names = [
        name(),
        name(fingerprint="fedcba9876543210"),
        name(fingerprint="0123456789ab0000"),
        name(model="other/model"),
        name(model="other model"),
        name(setting="5-shot"),
        name(qa_wiki_en={"examples": ["b"]}),
        name(qa_law_en={"examples": ["a"]}),
    ]
    assert len(set(names)) == len(names) and name() == name()
    for one in names:
        save_results(tmp_path, results(retriever=one))


def stored_run(
    folder, task, *, setting="3-shot", split="test", examples=("a",), family="air-bench", depth=10
):
    folder.mkdir(parents=True)
    name = TaskName.parse(task)
    scores = EvaluationScores(
        dataset=str(name),
        kind="retrieval",
        model="toy",
        model_fingerprint="0123456789abcdef",
        metric="ndcg_at_10",
        aggregation="mean",
        trained_on=False,
        confidence=0.95,
        results=(),
        absent=(Absence(setting, "not public"),),
        family=family,
        split=split,
        subset=name.config,
    )
    write_scores(folder, scores)
    write_examples(folder, {setting: {"instruction": "find", "examples": list(examples)}})
    write_ranking(folder, RANKING, depth=depth)
    return folder


def test_stored_runs_become_one_archive_per_setting_and_version(tmp_path):
    folders = [
        stored_run(tmp_path / "a", "qa_wiki_en"),
        stored_run(tmp_path / "b", "long-doc_arxiv_gpt3_en", examples=("b", "c")),
        stored_run(tmp_path / "c", "qa_wiki_en", setting="zero-shot", examples=()),
        stored_run(tmp_path / "d", "24.04/qa_wiki_en"),
        stored_run(tmp_path / "e", "qa_law_en", split="dev"),
        stored_run(tmp_path / "f", "qa_law_en", family="local"),
    ]
    archives = pack_stored_runs(folders, tmp_path / "out")
    members = [zipfile.ZipFile(archive).namelist() for archive in archives]
    wiki = "qa/wiki/en_default_test.json"
    assert members == [[wiki], ["long-doc/arxiv/en_gpt3_test.json", wiki], [wiki]]
    content = json.loads(zipfile.ZipFile(archives[1]).read(wiki))
    assert archives[1].name == f"{content['model_name']}_NoReranker.zip"
    assert content["search_results"] == RANKING
    assert content["model_name"].startswith("toy-0123456789ab-3-shot-")
    assert pack_stored_runs(folders, tmp_path / "out", setting="zero-shot") == archives[2:]
    with pytest.raises(EvaluationError, match="none of the 6 score artefacts"):
        pack_stored_runs(folders, tmp_path / "out", model="other")


def test_two_stored_runs_of_one_task_must_be_chosen_between(tmp_path):
    folders = [
        stored_run(tmp_path / "a", "qa_wiki_en"),
        stored_run(tmp_path / "b", "qa_wiki_en", examples=("other",)),
    ]
    with pytest.raises(EvaluationError, match="name the folders to submit"):
        pack_stored_runs(folders, tmp_path / "out")
    with pytest.raises(EvaluationError, match="--split test"):
        pack_stored_runs([], tmp_path / "out")


@pytest.mark.parametrize("name", ["", ".", "..", "../up", "a/b", "/abs", "a\0b", "a b", "x" * 201, "-rf"])
def test_names_that_are_no_file_names_are_refused(tmp_path, name):
    with pytest.raises(EvaluationError, match="cannot name"):
        save_results(tmp_path, results(retriever=name))
    with pytest.raises(EvaluationError, match="cannot name"):
        pack_submission(tmp_path, tmp_path / "out", retriever="toy", reranker=name)


@pytest.mark.parametrize(
    ("ranking", "message"),
    [({}, "holds no query"), ({"q": {"p": float("nan")}}, "is nan"), ({"q": {"p": float("inf")}}, "is inf")],
)
def test_rankings_that_are_no_rankings_are_refused(tmp_path, ranking, message):
    with pytest.raises(EvaluationError, match=message):
        save_results(tmp_path, results(ranking=ranking))


def test_only_results_of_the_test_split_can_be_submitted(tmp_path):
    save_results(tmp_path, results(split="dev"))
    with pytest.raises(EvaluationError, match="no result of the test split"):
        pack_submission(tmp_path, tmp_path / "out", retriever="toy")
    with pytest.raises(EvaluationError, match="no result of the test split"):
        pack_submission(tmp_path, tmp_path / "out", retriever="nobody")


def test_what_air_bench_would_refuse_is_refused_first(tmp_path):
    save_results(tmp_path, results())
    save_results(tmp_path, results("qa_cooking_mine_en"))
    with pytest.raises(EvaluationError, match=r"cooking.*a domain of arxiv, book"):
        pack_submission(tmp_path, tmp_path / "out", retriever="toy")
    assert not list((tmp_path / "out").glob("*") if (tmp_path / "out").exists() else ())


def test_two_versions_in_one_archive_are_refused(tmp_path):
    save_results(tmp_path, results())
    save_results(tmp_path, results("24.04/qa_law_en"))
    with pytest.raises(EvaluationError, match=r"mixes AIR-Bench 24\.04 and 24\.05"):
        pack_submission(tmp_path, tmp_path / "out", retriever="toy")


@pytest.mark.parametrize("change", ["moved", "relabelled", "cut", "scores", "linked"])
def test_a_file_that_contradicts_its_place_or_is_damaged_is_refused(tmp_path, change):
    path = save_results(tmp_path, results())
    content = json.loads(path.read_bytes())
    if change == "moved":
        path.rename(path.with_name("zh_default_test.json"))
    elif change == "relabelled":
        path.write_text(json.dumps({**content, "model_name": "better"}))
    elif change == "cut":
        path.write_bytes(path.read_bytes()[:-5])
    elif change == "scores":
        path.write_text(json.dumps({**content, "search_results": {"q": {"p": "high"}}}))
    else:
        path.rename(tmp_path / "outside.json")
        path.symlink_to(tmp_path / "outside.json")
    with pytest.raises(EvaluationError):
        pack_submission(tmp_path, tmp_path / "out", retriever="toy")
