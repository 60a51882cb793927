"""Names of tasks, subsets, splits and benchmarks."""

import pytest

from icl_embed.errors import ConfigError
from icl_embed.evaluation.mteb.names import parse, resolve
from tests.icl_embed.evaluation.mteb.mirrors import write_set


def test_a_benchmark_is_its_tasks_in_its_order():
    tasks = resolve(["MTEB(eng, v2)"])
    assert len(tasks) == 41
    assert tasks[:2] == ["ArguAna", "ArXivHierarchicalClusteringP2P"]
    assert not any("[" in name for name in tasks)  # English subsets are what a bare name means


def test_an_aggregate_becomes_its_parts_and_repeats_appear_once():
    parts = resolve(["CQADupstackRetrieval"])
    assert len(parts) == 12
    assert resolve(["CQADupstackRetrieval", "CQADupstackTexRetrieval"]) == parts


def test_a_benchmark_of_another_language_names_its_subsets():
    assert "AmazonReviewsClassification[de]" in resolve(["MTEB(deu, v1)"])


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("SciFact", ("SciFact", None, None)),
        ("STS22[de-en]", ("STS22", "de-en", None)),
        ("MSMARCO[default@dev]", ("MSMARCO", "default", "dev")),
        ("MSMARCO[@dev]", ("MSMARCO", None, "dev")),
    ],
)
def test_brackets_hold_a_subset_and_a_split(name, parts):
    asked = parse(name)
    assert (asked.task, asked.subset, asked.split) == parts
    assert resolve([name]) == [name]


@pytest.mark.parametrize(
    ("wrong", "suggested"),
    [("scifact", "SciFact"), ("Banking77", "Banking77Classification"), ("MTEB(eng v2)", r"MTEB\(eng, v2\)")],
)
def test_an_unknown_name_is_answered_with_the_nearest(wrong, suggested):
    with pytest.raises(ConfigError, match=f"did you mean.*{suggested}"):
        resolve([wrong])


def test_a_name_like_nothing_is_refused_without_a_guess():
    with pytest.raises(ConfigError, match="nothing is called so"):
        resolve(["%%%%"])


def test_a_folder_of_the_mirror_may_be_named(tmp_path):
    write_set(tmp_path, "retrieval", name="claims")
    write_set(tmp_path, "sts", name="own", task=None)
    assert resolve(["claims", "own"], mirror=tmp_path) == ["SciFact", "own"]
    with pytest.raises(ConfigError, match="did you mean own"):
        resolve(["ownn"], mirror=tmp_path)
