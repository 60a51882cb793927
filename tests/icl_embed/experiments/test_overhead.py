"""Overhead: both ways give the same vectors, and every count agrees with an obvious one."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from icl_embed.errors import EvaluationError
from icl_embed.examples import Example
from icl_embed.experiments.overhead import (
    OverheadPlan,
    describe_machine,
    measure_overhead,
    peak_bytes,
)
from icl_embed.model.decoder_shape import DecoderShape
from icl_embed.model.embedder import Embedder
from tests.tiny_models import WORDS

EXAMPLES = [Example(f"question {word}", f"answer {word}") for word in WORDS[:3]]
QUERIES = [f"the {word} of {other}" for word, other in zip(WORDS[:12], WORDS[12:24], strict=True)]
INSTRUCTION = "Retrieve the answer"


@pytest.fixture(scope="module")
def embedder(tiny_model):
    return Embedder.load(tiny_model, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def rows(embedder):
    plan = OverheadPlan(shots=(0, 3), batch=12, singles=4, rounds=2)
    return measure_overhead(embedder, instruction=INSTRUCTION, examples=EXAMPLES, queries=QUERIES, plan=plan)


def test_both_ways_give_the_same_vectors_at_every_shot_count(rows):
    assert [(row["shots"], row["way"]) for row in rows] == [
        (0, "shared"),
        (0, "in full"),
        (3, "shared"),
        (3, "in full"),
    ]
    assert all(row["largest_difference"] < 1e-5 for row in rows)


def test_tokens_are_those_of_the_prompt(rows, embedder):
    prompts = embedder.prompts
    expected = len(prompts.prefix(INSTRUCTION, EXAMPLES).tokens)
    assert [row["prefix_tokens"] for row in rows if row["shots"]] == [expected] * 2
    tails = [len(tail) for tail in prompts.query_tails(INSTRUCTION, QUERIES)]
    assert rows[0]["query_tokens"] == pytest.approx(np.mean(tails), abs=0.01)
    assert [row["examples_shown"] for row in rows] == [0, 0, 3, 3]


def test_every_figure_is_positive_and_quantiles_are_in_order(rows):
    for row in rows:
        assert 0 < row["latency_p50_ms"] <= row["latency_p95_ms"]
        assert row["queries_per_second_low"] <= row["queries_per_second"] <= row["queries_per_second_high"]
        assert row["prompt_ms"] > 0
        assert row["prepare_ms"] > 0


def test_sharing_saves_operations_exactly_where_there_is_a_prefix(rows):
    flops = {(row["shots"], row["way"]): row["gflops_per_query_in_batch"] for row in rows}
    assert flops[3, "in full"] > 2 * flops[3, "shared"]
    assert flops[3, "in full"] > flops[0, "in full"]


def test_too_few_examples_or_queries_are_refused(embedder):
    for examples, queries in ((EXAMPLES[:1], QUERIES), (EXAMPLES, ["same", "same"])):
        with pytest.raises(EvaluationError, match="2 distinct queries and 3 examples"):
            measure_overhead(
                embedder,
                instruction=INSTRUCTION,
                examples=examples,
                queries=queries,
                plan=OverheadPlan(shots=(3,)),
            )


CONFIG = SimpleNamespace(
    hidden_size=32, num_attention_heads=4, num_key_value_heads=2, intermediate_size=64, num_hidden_layers=3
)


@given(st.integers(0, 6), st.lists(st.integers(1, 5), min_size=1, max_size=3))
def test_operations_agree_with_counting_every_token_and_every_pair(prefix, tails):
    flops = DecoderShape.of(CONFIG)

    def counted(positions, first):
        seen = sum(position + 1 for position in range(first, positions))
        return flops.layers * ((positions - first) * flops.per_token + seen * flops.per_pair)

    assert flops.in_full(prefix, tails) == sum(counted(prefix + tail, 0) for tail in tails)
    shared = counted(prefix, 0) + sum(counted(prefix + tail, prefix) for tail in tails)
    assert flops.shared(prefix, tails) == shared


def test_operations_per_token_are_twice_the_weights_of_the_layers_linear_maps(embedder):
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(embedder.folder)
    layer = plain.model.layers[0]
    weights = sum(part.weight.numel() for part in layer.modules() if isinstance(part, torch.nn.Linear))
    assert DecoderShape.of(plain.config).per_token == 2 * weights


def test_peak_memory_sees_what_was_held_even_if_it_is_freed_again():
    size = 64 << 20
    found = peak_bytes(lambda: np.ones(size, np.uint8).sum(), torch.device("cpu"))
    if found is None:
        pytest.skip("this system does not tell a process's high-water mark")
    assert 0.9 * size < found < 3 * size


def test_the_machine_is_described():
    facts = describe_machine(torch.device("cpu"))
    assert facts["threads"] == torch.get_num_threads()
    assert facts["processor"]
