import pytest

from icl_embed.evaluation.air_bench.data import write_task
from icl_embed.evaluation.air_bench.names import TaskName
from tests.icl_embed.evaluation.conftest import prompts  # noqa: F401  # a fixture
from tests.icl_embed.evaluation.folders import HashEncoder, sentence

OWN = "air-bench/qa_healthcare_toy_en"
SIZE = 24


@pytest.fixture
def encoder(prompts):  # noqa: F811
    return HashEncoder(prompts)


@pytest.fixture
def toy():
    """Passages, queries and judgements: two relevant passages (grades 1 and 2) and an irrelevant one each."""
    passages = {f"p{n:03d}": sentence(n) for n in range(SIZE)}
    queries = {f"q{n:03d}": sentence(n, 3) for n in range(0, SIZE, 2)}
    relevance = {
        f"q{n:03d}": {f"p{n:03d}": 2, f"p{n + 1:03d}": 1, f"p{(n + 7) % SIZE:03d}": 0}
        for n in range(0, SIZE, 2)
    }
    return {"passages": passages, "queries": queries, "relevance": relevance}


@pytest.fixture
def mirror(tmp_path, toy):
    """A folder that holds the toy's dev split, and a test split without judgements."""
    folder = tmp_path / "mirror"
    name = TaskName.parse(OWN)
    write_task(folder, name, "dev", **toy)
    test = {f"t{n}": sentence(100 + n, 4) for n in range(5)}
    write_task(folder, name, "test", passages=toy["passages"], queries=test, relevance=None)
    return folder
