"""A rank that behaves as its job file says."""

import os
import sys
import time
from pathlib import Path

from icl_embed.errors import TrainingError
from icl_embed.launch.worker import run_rank

RANK = os.environ["RANK"]


def behave(name: str) -> bool:
    if name == "talk":
        for number in range(3):
            print(f"rank {RANK} line {number}")
            time.sleep(0.4)
    elif name == "refuse":
        raise TrainingError("the rank said so")
    elif name == "crash":
        print("about to crash")
        os.abort()
    elif name == "sleep":
        print("asleep")
        time.sleep(120)
    return True


if __name__ == "__main__":
    path = Path(sys.argv[1])
    sys.exit(run_rank(path.parent / "work", lambda: behave(path.read_text())))
