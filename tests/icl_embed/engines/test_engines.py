"""What every engine is asked: which devices, which software; and the local one with scorers."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from icl_embed.config import EngineConfig, TeacherConfig
from icl_embed.engines.engine import spread_over, start_engine
from icl_embed.errors import ConfigError
from icl_embed.rerank.scorer_pool import ScorerPool, ScoreWork, by_query
from icl_embed.rerank.teachers import load_teacher, open_teacher
from icl_embed.store.software import CODE, refuse_other_software, software


def length(device: str) -> object:
    return lambda pairs: [len(query) + len(passage) / 1000 for query, passage in pairs]


@pytest.mark.parametrize(
    ("config", "device", "expected"),
    [
        ({}, "auto", None),
        ({"devices": ("cpu",)}, "auto", None),
        ({"devices": ("cpu", "cpu")}, "auto", ("cpu", "cpu")),
        ({}, "cpu", None),
        ({"name": "ray"}, "auto", ()),
        ({"name": "ray", "devices": ("cuda", "cuda")}, "auto", ("cuda", "cuda")),
    ],
)
def test_one_device_of_this_machine_needs_no_workers(config, device, expected, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert spread_over(EngineConfig(**config), device) == expected


def test_without_a_word_every_gpu_of_the_machine_has_a_worker(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    assert spread_over(EngineConfig()) == ("cuda:0", "cuda:1", "cuda:2")
    assert spread_over(EngineConfig(), "cuda:1") is None


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'icl-embed\[ray\]'"):
        start_engine("ray", ScoreWork("scorer", length), [])


def test_nodes_with_other_software_are_refused_with_the_difference():
    ours = software()
    refuse_other_software(dict(ours), "a node")
    with pytest.raises(ConfigError, match=r"a node runs other software: torch: .* here, 1\.0 there"):
        refuse_other_software({**ours, "torch": "1.0"}, "a node")
    with pytest.raises(ConfigError, match="icl-embed's code: "):
        refuse_other_software({**ours, CODE: "0"}, "a node")


def test_pairs_of_a_query_stay_together_in_jobs_of_about_the_size_asked_for():
    pairs = [(f"q{number % 5}", f"p{number}") for number in range(23)]
    jobs = list(by_query(pairs, wanted=7))
    assert sorted(place for job in jobs for place in job) == list(range(23))
    owners = [{pairs[place][0] for place in job} for job in jobs]
    assert sum(map(len, owners)) == 5, "no query is in two jobs"
    assert [len(job) for job in jobs[:-1]] == [10, 9]


def test_scores_come_back_in_their_places():
    pairs = [("q" * (1 + number % 9), "p" * number) for number in range(2000)]
    pool = ScorerPool.start(EngineConfig(), ["cpu", "cpu"], "scorer", length)
    assert np.allclose(pool.score(pairs), length("cpu")(pairs))
    assert pool.score([]).shape == (0,)


def test_a_teacher_on_two_devices_gives_the_scores_of_one(tiny_model: Path) -> None:
    pairs = [(f"sun {number // 4}", "moon " * (number % 9)) for number in range(40)]
    config = TeacherConfig(source="reranker", folder=tiny_model)
    more = {"max_tokens": 64, "dtype": "float32"}
    alone = load_teacher(config, tiny_model, **more)(pairs)
    both = open_teacher(config, tiny_model, EngineConfig(devices=("cpu", "cpu")), **more)(pairs)
    one = open_teacher(config, tiny_model, EngineConfig(), **more)(pairs)
    assert np.abs(both - alone).max() < 1e-4
    assert np.array_equal(one, alone)
