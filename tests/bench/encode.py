"""Encoding against FlagEmbedding and sentence-transformers (``make bench-encode``).

One model folder, the same texts, the same number of threads; every system in its own process, each peer at the
batch size with which it is fastest; tokenisation is part of every time. Rounds are interleaved and ratios taken
round by round; every figure is the median of the rounds. The result goes to ``tests/bench/results/encode.json``.
"""

from __future__ import annotations

import argparse
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.bench.encode_run import EncodeBenchmark
from tests.bench.machine import describe_machine
from tests.bench.material import quick_material, real_material
from tests.bench.options import OUR_PYTHON, common_options, peer_python, write_result
from tests.bench.protocol import Worker
from tests.bench.rounds import Announcer

NAME = "encode"
OURS, FLAG, SENTENCE = (
    f"tests.bench.encode_{name}" for name in ("ours", "flag_embedding", "sentence_transformers")
)


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Run the benchmark and write its result."""
    parser = common_options(__doc__)
    parser.add_argument("--queries", type=int, default=512)
    parser.add_argument("--passages", type=int, default=384)
    parser.add_argument(
        "--peer-rounds", type=int, default=0, help="fewer rounds for FlagEmbedding's few-shot"
    )
    options = parser.parse_args(arguments)
    say = Announcer()
    about = describe_machine(options.threads)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sizes = {"num_queries": options.queries, "num_passages": options.passages}
        if options.quick:
            material = quick_material(folder, **sizes)
        else:
            material = real_material(folder, layers=options.layers, overrides=options.set, **sizes)
        workers = _start(stack, material.model, options)
        bench = EncodeBenchmark(material, workers, folder, say)
        measured = bench.run(options.rounds, options.peer_rounds or options.rounds)
        systems = {name: worker.about for name, worker in workers.items()}
        return write_result(options, NAME, {**measured, **about, "systems": systems})


def _start(stack: ExitStack, model: Path, options: argparse.Namespace) -> dict[str, Worker]:
    """All workers; ``ours auto`` is the one whose number format we choose on this machine."""
    common: dict[str, Any] = {"folder": str(model), "threads": options.threads}
    peer = peer_python(options)

    def start(python: Path, module: str) -> Worker:
        return stack.enter_context(Worker(python, module))

    workers = {
        "ours auto": start(OUR_PYTHON, OURS),
        "ours other": start(OUR_PYTHON, OURS),
        "FlagEmbedding float32": start(peer, FLAG),
        "sentence-transformers float32": start(peer, SENTENCE),
        "sentence-transformers bfloat16": start(peer, SENTENCE),
    }  # they import their libraries at the same time
    chosen = workers["ours auto"].load(dtype="auto", **common)["dtype"]
    other = "float32" if chosen == "bfloat16" else "bfloat16"
    workers[f"ours {chosen}"] = workers["ours auto"]
    workers[f"ours {other}"] = workers.pop("ours other")
    for name, worker in workers.items():
        if name != "ours auto":
            worker.load(dtype=name.split()[-1], **common)
    return workers


if __name__ == "__main__":
    main()
