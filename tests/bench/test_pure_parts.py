"""What the benchmarks compute themselves: operations, ratios, texts and turns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModel, AutoTokenizer

from icl_embed.experiments.overhead import DecoderFlops
from tests.bench.encode_report import KEYS, Lengths, common_beginning, limits, summarise
from tests.bench.equality import compare
from tests.bench.material import Count, choose_examples
from tests.bench.model_folder import SPECIAL_TOKENS, dress
from tests.bench.rounds import fastest, ratio, spread, take_turns
from tests.bench.train_material import TrainingData
from tests.bench.workload import Workload


def quiet(_line: str) -> None:
    """Say nothing."""


@pytest.fixture(scope="module")
def dressed(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as all systems would load it."""
    return dress(tiny_model, tmp_path_factory.mktemp("dressed") / "model", layers=2)


def test_linear_operations_are_those_that_torch_counts(dressed: Path) -> None:
    flops = DecoderFlops.of(AutoConfig.from_pretrained(dressed))
    length = 32
    model = AutoModel.from_pretrained(dressed, attn_implementation="eager").eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(input_ids=torch.ones(1, length, dtype=torch.long), use_cache=False)
    counts = {str(operation): count for operation, count in counter.get_flop_counts()["Global"].items()}
    assert counts["aten.mm"] == flops.layers * length * flops.per_token
    # torch counts the whole square, we count what a causal token sees; rotary tables are a small product as well
    square = flops.layers * length * length * flops.per_pair
    assert counts["aten.bmm"] == pytest.approx(square, rel=0.02)


def test_a_shared_prefix_costs_what_the_whole_sequence_costs_when_it_has_one_row() -> None:
    flops = DecoderFlops(layers=3, per_token=100, per_pair=7)
    assert flops.shared(20, [5]) == flops.whole([25])
    assert flops.shared(20, [5, 5]) == 2 * flops.whole([25]) - flops.whole([20])


def test_figures_compare_each_round_with_itself() -> None:
    assert ratio([2.0, 20.0, 6.0], [1.0, 10.0, 2.0]) == 2.0
    assert spread([2.0, 20.0, 6.0], [1.0, 10.0, 2.0]) == [2.0, 3.0]


def test_a_contestant_with_fewer_rounds_is_compared_on_those_it_took_part_in() -> None:
    seconds = take_turns(
        {"a": lambda number: 1.0 + number, "b": lambda number: 2.0 + number}, 3, quiet, fewer={"b": 2}
    )
    assert seconds == {"a": [1.0, 2.0, 3.0], "b": [2.0, 3.0]}
    assert ratio(seconds["b"], seconds["a"]) == pytest.approx((2.0 + 1.5) / 2)


def test_turns_are_interleaved() -> None:
    order: list[str] = []

    def turn(name: str):
        return lambda number: float(order.append(f"{name}{number}") is None)

    take_turns({"a": turn("a"), "b": turn("b")}, 2, quiet)
    assert order == ["a0", "b0", "a1", "b1"]


def test_the_fastest_batch_size_wins() -> None:
    assert fastest(lambda size: abs(size - 30), (16, 32, 64), quiet) == (32, {16: 14, 32: 2, 64: 34})


def test_a_figure_above_one_says_that_we_are_faster_and_few_over_zero_what_examples_cost() -> None:
    times = {name: [1.0, 1.0] for names in KEYS.values() for name in names}
    times["few FlagEmbedding float32"] = [9.0, 11.0]
    times["few ours float32"] = [1.0, 1.0]
    times["zero ours float32"] = [0.8, 0.8]
    figures = summarise(times)
    assert figures["few_speedup_vs_flagembedding"] == 10.0
    assert figures["few_time_vs_zero"] == 1.25
    assert figures["spread_over_rounds"]["few_speedup_vs_flagembedding"] == [9.0, 11.0]


def test_limits_are_reached_by_whoever_runs_at_the_peak() -> None:
    flops = DecoderFlops(layers=1, per_token=1000, per_pair=10)
    lengths = Lengths(prefix=30, head=4, rows=(6, 8), passages=(5, 9))
    seconds = {"few ours float32": [flops.shared(30, [6, 8]) / 2e9], "passages ours auto": [1.0]}
    found = limits(flops, lengths, seconds, {"float32": 2.0, "bfloat16": 4.0}, "bfloat16")
    assert found["paths"]["few ours float32"]["share_of_peak"] == 1.0
    assert found["few_speedup_vs_flagembedding"] == pytest.approx(
        flops.whole([36, 38]) / flops.shared(30, [6, 8]), abs=0.01
    )


def test_a_prefix_is_what_all_sequences_begin_with() -> None:
    assert common_beginning([[1, 2, 3, 4], [1, 2, 9], [1, 2, 3]]) == 2
    assert common_beginning([[1, 2], [1, 2]]) == 2
    lengths = Lengths.of([[1, 2, 3, 7], [1, 2, 3, 8, 9]], [[1, 7], [1, 8, 9]], [[4, 5]])
    assert lengths == Lengths(prefix=3, head=1, rows=(1, 2), passages=(2,))


def test_vectors_are_compared_apart_where_tokens_differ() -> None:
    ours, theirs = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[2.0, 0.0], [1.0, 0.0]])
    found = compare(ours, theirs, [[1], [2]], [[1], [3]], ["same", "other"])
    assert found["min_cosine_same_tokens"] == 1.0
    assert found["min_cosine_all"] == 0.0
    assert found["texts_with_other_tokens"] == 1
    assert found["examples_of_other_tokens"][0]["text"] == "other"


def test_each_round_shows_the_same_examples_in_another_order() -> None:
    work = Workload(("q",), "find it", (("a", "1"), ("b", "2"), ("c", "3")))
    orders = {work.in_round(number).examples for number in range(3)}
    assert len(orders) == 3
    assert {frozenset(order) for order in orders} == {frozenset(work.examples)}
    assert Workload.of(work.to_json()) == work


def test_examples_fill_the_prefix(dressed: Path) -> None:
    count = Count(dressed)
    pairs = [(f"find {'cat ' * number}", "red green") for number in range(1, 60)]
    chosen = choose_examples(pairs, 200, 4, count)
    total = sum(4 + count(query) + count(response) + 3 for query, response in chosen)
    assert total == pytest.approx(200, abs=10)


def test_the_folder_appends_eos_knows_the_special_tokens_and_pads_left(dressed: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(dressed)
    ids = tokenizer(["a cat", f"{SPECIAL_TOKENS[0]}a"], padding=True)["input_ids"]
    assert all(row[-1] == tokenizer.eos_token_id for row in ids)
    assert tokenizer.convert_tokens_to_ids(SPECIAL_TOKENS[0]) in ids[1]
    assert tokenizer.padding_side == "left"
    assert tokenizer.chat_template is None


def test_both_trainers_get_the_same_rows(tmp_path: Path) -> None:
    import json

    from icl_embed.train.rows import read_training_sets

    data = TrainingData("set", "find it", tuple((f"q{n}", f"p{n}", (f"n{n}",)) for n in range(20))).draw(8, 1)
    [ours] = read_training_sets(data.write_parquet(tmp_path / "train.parquet"), tmp_path)
    theirs = [
        json.loads(line) for line in data.write_jsonl(tmp_path / "train.jsonl").read_text().splitlines()
    ]
    assert [(row.query, [row.positive], list(row.negatives)) for row in ours.rows] == [
        (row["query"], row["pos"], row["neg"]) for row in theirs
    ]
    assert len({row.query for row in ours.rows}) == 8
