"""What is measured on dev splits, against a slow reference and against the finished embedder."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from icl_embed.config import DevConfig
from icl_embed.errors import TrainingError
from icl_embed.model.embedder import Embedder
from icl_embed.texts import compared_form
from icl_embed.train.distributed import Place
from icl_embed.train.embedder.dev_scores import METRICS, DevScorer, count_ahead
from icl_embed.train.embedder.dev_sets import DevSet, read_dev_sets
from icl_embed.train.rows import read_training_sets
from tests.made_rows import made_set
from tests.tiny_models import build_model
from tests.training_jobs import write_dev, write_rows

ALONE = Place(0, 1, torch.device("cpu"), torch.float32)
CONFIG = DevConfig(every=1, shots=3)
CLOSE = 1e-5  # cosines of one pair, in batches of another shape


@pytest.fixture(scope="module")
def training_sets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    return read_training_sets(write_rows(folder / "train.parquet"), folder)


@pytest.fixture(scope="module")
def dev_sets(tmp_path_factory, training_sets) -> list[DevSet]:
    return read_dev_sets(write_dev(tmp_path_factory.mktemp("dev")), training_sets, CONFIG, seed=1)


@pytest.fixture(scope="module")
def embedder(tmp_path_factory) -> Embedder:
    """Its weights are spread: vectors of fresh ones are too alike for ranks that rounding cannot change."""
    folder = build_model(tmp_path_factory.mktemp("spread") / "model", layers=3, spread=0.3)
    return Embedder.load(folder, device="cpu", dtype="float32")


def ahead_slowly(similar, relevant, ranked) -> list[float]:
    """Passages before the best positive, one by one."""
    found = []
    for row, cosines in enumerate(similar):
        best = max(cosine for column, cosine in enumerate(cosines) if relevant[row][column])
        others = [c for c in range(len(cosines)) if ranked[row][c] and not relevant[row][c]]
        found.append(float(sum(cosines[column] >= best for column in others)))
    return found


def test_ranks_are_those_of_a_slow_count_and_ties_count_against_the_model() -> None:
    rng = random.Random(0)
    for _ in range(50):
        similar = [[rng.choice((0.0, 0.25, 0.5, 1.0)) for _ in range(6)] for _ in range(4)]
        relevant = [[rng.random() < 0.3 or column == row for column in range(6)] for row in range(4)]
        ranked = [[rng.random() < 0.8 for _ in range(6)] for _ in range(4)]
        tensors = torch.tensor(similar), torch.tensor(relevant), torch.tensor(ranked)
        assert count_ahead(*tensors).tolist() == ahead_slowly(similar, relevant, ranked)
    same = torch.zeros(1, 4)
    positive = torch.tensor([[True, False, False, False]])
    assert count_ahead(same, positive, torch.ones(1, 4, dtype=torch.bool)).tolist() == [3.0]


def test_metrics_are_one_over_the_rank_and_the_share_of_firsts() -> None:
    ahead = torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64)
    assert METRICS["mrr"](ahead).tolist() == [1.0, 0.5, 0.25]
    assert METRICS["accuracy"](ahead).tolist() == [1.0, 0.0, 0.0]
    assert set(METRICS) == {"mrr", "accuracy"}


def scored_by_hand(embedder: Embedder, one: DevSet, metric: str, *, shots: bool) -> float:
    """Through the public methods of the embedder and plain loops."""
    task = embedder.compile_task(one.instruction, one.examples if shots else ())
    queries = embedder.encode_queries(one.queries, task=task)
    as_queries = one.kind == "sts"
    passages = (
        embedder.encode_queries(one.passages, task=task)
        if as_queries
        else embedder.encode_passages(one.passages)
    )
    similar = np.asarray(queries) @ np.asarray(passages).T
    found = []
    for row, positives in enumerate(one.relevant):
        ranked = one.candidates[row] if one.candidates else range(len(one.passages))
        best = max(similar[row, column] for column in positives)
        wrong = [c for c in ranked if c not in positives and one.passages[c] != one.queries[row]]
        assert all(abs(similar[row, c] - best) > CLOSE for c in wrong), "a tie would be chance"
        ahead = sum(similar[row, column] > best for column in wrong)
        found.append(1 / (1 + ahead) if metric == "mrr" else float(not ahead))
    return sum(found) / len(found)


@pytest.mark.parametrize("metric", ["mrr", "accuracy"])
@pytest.mark.parametrize("batch_tokens", [100, 8192])
def test_scores_are_those_of_the_embedder_in_use(
    embedder: Embedder, dev_sets: list[DevSet], metric: str, batch_tokens: int
) -> None:
    config = CONFIG.model_copy(update={"metric": metric})
    scorer = DevScorer(embedder, embedder.prompts, dev_sets, config, batch_tokens=batch_tokens, place=ALONE)
    found = scorer()
    assert [one.name for one in dev_sets] == list(found) == ["facts", "colours", "pairs"]
    for one in dev_sets:
        assert found[one.name].zero_shot == pytest.approx(scored_by_hand(embedder, one, metric, shots=False))
        assert found[one.name].few_shot == pytest.approx(scored_by_hand(embedder, one, metric, shots=True))
    assert any(score.zero_shot != score.few_shot for score in found.values()), "examples changed nothing"


def test_under_bidirectional_attention_every_query_has_a_prefix_of_its_own(
    embedder: Embedder, dev_sets: list[DevSet]
) -> None:
    settings = embedder.settings.model_copy(update={"attention": "bidirectional"})
    both_ways = Embedder(embedder.model, embedder.tokenizer, settings)
    scorer = DevScorer(both_ways, both_ways.prompts, dev_sets, CONFIG, batch_tokens=500, place=ALONE)
    found = scorer()
    for one in dev_sets:
        expected = [scored_by_hand(both_ways, one, "mrr", shots=shown) for shown in (False, True)]
        assert list(found[one.name]) == pytest.approx(expected)


def test_neither_modes_nor_random_numbers_are_disturbed(embedder: Embedder, dev_sets: list[DevSet]) -> None:
    scorer = DevScorer(embedder, embedder.prompts, dev_sets, CONFIG, batch_tokens=500, place=ALONE)
    embedder.model.train()
    before = torch.get_rng_state()
    scorer()
    assert embedder.model.training
    assert torch.equal(before, torch.get_rng_state())
    embedder.model.eval()


def test_a_vector_that_is_not_finite_is_refused(
    embedder: Embedder, dev_sets: list[DevSet], monkeypatch
) -> None:
    scorer = DevScorer(embedder, embedder.prompts, dev_sets[:1], CONFIG, batch_tokens=500, place=ALONE)
    embed = embedder.embed_groups
    monkeypatch.setattr(embedder, "embed_groups", lambda groups: embed(groups) * torch.nan)
    with pytest.raises(TrainingError, match=r"vector of facts is not finite; lower"):
        scorer()


def test_dev_sets_hold_the_dev_split_alone_and_examples_show_none_of_it(
    dev_sets: list[DevSet], training_sets
) -> None:
    facts, colours, pairs = dev_sets
    assert len(facts.queries) == 12 and len(facts.passages) == 24  # not those of the test split
    assert [facts.passages[min(one)] for one in facts.relevant] == list(facts.passages[:12])
    assert set(colours.passages) == {"red", "green", "blue"}
    assert len(pairs.queries) == 6 and len(pairs.passages) == 12  # the other half are unlike each other
    trained = {one.name: {row.query for row in one.rows} for one in training_sets}
    for one in dev_sets:
        assert len(one.examples) == CONFIG.shots
        assert {example.query for example in one.examples} <= trained[one.name]
    assert len({example.response for example in colours.examples}) == 3, "labels come by turns"


def test_an_example_that_shows_a_measured_text_is_not_shown(tmp_path: Path, training_sets) -> None:
    sources = write_dev(tmp_path)
    [facts, *_] = read_dev_sets(sources, training_sets, CONFIG, seed=1)
    rows = next(one for one in training_sets if one.name == "facts")
    leaking = [
        replace(row, query=f" {facts.queries[0].upper()} ")
        if number % 2
        else replace(row, response=facts.passages[0])
        for number, row in enumerate(rows.rows[:-3])
    ]
    leaky = made_set("facts", "retrieval", rows.instruction, rows.weight, [*leaking, *rows.rows[-3:]])
    [found, *_] = read_dev_sets(sources, [leaky], CONFIG, seed=1)
    assert {example.query for example in found.examples} == {row.query for row in rows.rows[-3:]}
    shown = {compared_form(text) for one in found.examples for text in (one.query, one.response)}
    assert not shown & {compared_form(text) for text in (*facts.queries, *facts.passages[:12])}


def test_caps_keep_every_positive(tmp_path: Path, training_sets) -> None:
    config = DevConfig(every=1, shots=2, queries=4, passages=6)
    facts, colours, _ = read_dev_sets(write_dev(tmp_path), training_sets, config, seed=1)
    assert len(facts.queries) == 4 and len(facts.passages) == 6
    assert all(max(one) < 4 for one in facts.relevant)
    assert len(colours.passages) == 3


def test_reranking_ranks_each_querys_own_texts(tmp_path: Path, training_sets) -> None:
    rows = [
        {"split": "dev", "query": f"q{n}", "positives": [f"p{n}"], "negatives": [f"n{n}", "both"], "label": None,
         "score": None, "row_id": str(n)}
        for n in range(3)
    ]  # fmt: skip
    [source, *_] = write_dev(tmp_path)
    pq.write_table(pa.Table.from_pylist(rows), source.folder / "rows.parquet")
    source = source.model_copy(update={"kind": "reranking"})
    [found] = read_dev_sets([source], training_sets, CONFIG, seed=1)
    assert found.candidates is not None
    assert [{found.passages[number] for number in one} for one in found.candidates] == [
        {f"p{n}", f"n{n}", "both"} for n in range(3)
    ]


def test_what_cannot_be_measured_is_refused_in_words(tmp_path: Path, training_sets) -> None:
    sources = write_dev(tmp_path / "few", rows=2)
    with pytest.raises(
        TrainingError, match=r"facts has 2 dev rows, fewer than the 3 .* lower train.dev.shots"
    ):
        read_dev_sets(sources, training_sets, CONFIG, seed=1)
    with pytest.raises(
        TrainingError, match=r"no data set .* has a dev split \(looked at: facts, colours, pairs\)"
    ):
        read_dev_sets(write_dev(tmp_path / "none", rows=0), training_sets, CONFIG, seed=1)
    with pytest.raises(
        TrainingError, match=r"looked at: none\); give a card dev rows .* train.dev.every = 0"
    ):
        read_dev_sets((), training_sets, CONFIG, seed=1)
    many = DevConfig(every=1, shots=41)
    with pytest.raises(TrainingError, match=r"facts has 40 training rows that may be shown .* asks for 41"):
        read_dev_sets(write_dev(tmp_path / "many", rows=50), training_sets, many, seed=1)
    damaged = write_dev(tmp_path / "damaged")
    (damaged[0].folder / "corpus.parquet").write_bytes(b"no table")
    with pytest.raises(TrainingError, match=r"cannot read the dev split in .*corpus.parquet"):
        read_dev_sets(damaged, training_sets, CONFIG, seed=1)


def test_examples_that_do_not_fit_are_an_error(embedder: Embedder, dev_sets: list[DevSet]) -> None:
    budgets = embedder.prompts.budgets.model_copy(update={"query_tokens": 64, "total_tokens": 65})
    prompts = type(embedder.prompts)(embedder.tokenizer, budgets)
    with pytest.raises(TrainingError, match=r"none of the 3 examples of facts fits into .* \(65\); raise it"):
        DevScorer(embedder, prompts, dev_sets, CONFIG, batch_tokens=500, place=ALONE)
