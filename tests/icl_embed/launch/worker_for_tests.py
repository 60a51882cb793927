"""A rank that behaves as its job file says."""

import atexit
import os
import sys
import time
from pathlib import Path

from icl_embed.config import LaunchConfig
from icl_embed.errors import TrainingError
from icl_embed.launch.worker import beat, run_rank

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
    elif name == "linger":
        atexit.register(os.abort)
        sys.stdout = open(
            sys.stdout.fileno(), "w", buffering=1 << 16, closefd=False
        )  # holds back what it is told
        print("all is saved")
    elif name == "trip":
        raise ZeroDivisionError("nobody foresaw this")
    elif name.startswith("sleep"):
        print("asleep")
        time.sleep(float(name.removeprefix("sleep") or 120))
    elif name == "beat":
        for _ in range(14):
            time.sleep(0.5)
            beat()
    elif name == "meet":
        from icl_embed.train.distributed import enter  # torch: the others start without it

        with enter(LaunchConfig(device="cpu", threads=1), dtype="float32") as place:
            place.wait()
            print("here we are")
            time.sleep(1)
    elif name == "fill":
        with (path.parent / "everything").open("wb") as handle:
            handle.write(bytes(64 << 20))
    return True


if __name__ == "__main__":
    path = Path(sys.argv[1])
    run_rank(path.parent / "work", lambda: behave(path.read_text()))
