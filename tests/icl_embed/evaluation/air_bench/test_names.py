"""Names of AIR-Bench tasks and groups."""

import pytest

from icl_embed.errors import EvaluationError
from icl_embed.evaluation.air_bench.names import TaskName, is_air_bench, published, resolve, versions


def test_the_table_has_what_air_bench_announces_for_each_version():
    count = {version: sum(one.version == version for one in published()) for version in versions()}
    languages = {one.language for one in published() if one.version == "24.05"}
    assert (count, len(languages)) == ({"24.04": 28, "24.05": 69}, 13)


def test_every_published_task_is_read_back_from_its_own_name():
    for one in published():
        name = TaskName(one.version, one.type, one.domain, one.language, one.dataset)
        assert TaskName.parse(name.full) == name
        assert name.published == one


def test_a_data_set_with_underscores_reads_one_way():
    name = TaskName.parse("air-bench/long-doc_healthcare_pubmed_100K-200K_1_en")
    assert (name.domain, name.dataset, name.language) == ("healthcare", "pubmed_100K-200K_1", "en")


def test_a_group_expands_to_the_tasks_that_have_the_split():
    dev = resolve(["air-bench/long-doc_arxiv"], split="dev")
    test = resolve(["air-bench/long-doc_arxiv_en"], split="test")
    assert dev == ["air-bench/24.05/long-doc_arxiv_llama2_en"]
    assert [name.rpartition("/")[2] for name in test] == [
        "long-doc_arxiv_gpt3_en",
        "long-doc_arxiv_gemini_en",
        "long-doc_arxiv_llm-survey_en",
    ]


def test_the_papers_english_question_answering_is_a_group_of_eight():
    assert len(resolve(["air-bench/24.04/qa_en"], split="test")) == 8


def test_a_version_in_the_name_goes_before_the_one_given_and_tasks_appear_once():
    names = resolve(["air-bench/24.04/qa_wiki_en", "air-bench/24.04/qa_wiki"], version="24.05", split="test")
    assert names == ["air-bench/24.04/qa_wiki_en", "air-bench/24.04/qa_wiki_zh"]


def test_the_family_alone_means_everything():
    assert len(resolve(["air-bench"], split="dev")) + len(resolve(["air-bench"], split="test")) == 69 + 53
    assert is_air_bench("air-bench") and not is_air_bench("SciFact")


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(EvaluationError, match="did you mean air-bench/qa_wiki_en"):
        resolve(["air-bench/qa_wikki_en"])


@pytest.mark.parametrize(
    "name", ["qa_wiki", "qa__en", "qa_wiki_../x_en", "sts_wiki_en", "qa_wiki_xx", "", "qa_Wi/ki_en"]
)
def test_a_malformed_task_name_is_refused(name: str):
    with pytest.raises(EvaluationError):
        TaskName.parse(f"air-bench/{name}")


def test_an_unknown_version_and_an_unpublished_split_are_named():
    with pytest.raises(EvaluationError, match=r"24\.04 and 24\.05"):
        resolve(["air-bench/23.01/qa"])
    with pytest.raises(EvaluationError, match="it has: test"):
        resolve(["air-bench/24.04/qa"], split="dev")
    with pytest.raises(EvaluationError, match="splits dev and test"):
        resolve(["air-bench/qa"], split="train")
