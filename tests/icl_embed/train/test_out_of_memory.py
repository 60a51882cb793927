"""A step that does not fit says which settings make it smaller."""

from types import SimpleNamespace

import pytest
import torch

from icl_embed.errors import TrainingError
from icl_embed.train.distributed import Place
from icl_embed.train.loop import train_step

PLACE = Place(0, 1, torch.device("cpu"), torch.float32)
TOO_MANY = 1 << 50  # four petabytes


def objective_that(fails):
    return SimpleNamespace(model=torch.nn.Linear(1, 1), rates={}, loss=lambda step, place: fails())


def test_memory_that_runs_out_is_named_with_its_cure() -> None:
    objective = objective_that(lambda: torch.empty(TOO_MANY))
    with pytest.raises(TrainingError, match=r"memory ran out in step 8 on cpu: lower train\.batch_tokens"):
        train_step(objective, None, 7, 1e-3, PLACE)


def test_other_errors_stay_what_they_are() -> None:
    objective = objective_that(lambda: torch.zeros(2) @ torch.zeros(3))
    with pytest.raises(RuntimeError, match="size"):
        train_step(objective, None, 7, 1e-3, PLACE)
