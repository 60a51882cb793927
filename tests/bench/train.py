"""Training against FlagEmbedding's ICL trainer (``make bench-train``).

The same model, rows, batch, number of negatives, adapters, lengths, optimizer, number format and threads. Each run
is one epoch over rows that are drawn anew for every round; its first step is not timed. Runs take turns, ratios are
taken round by round, and every figure is the median of the rounds. The result goes to
``tests/bench/results/train.json``.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any

from tests.bench.machine import describe_machine
from tests.bench.measured import run_measured
from tests.bench.options import common_options, peer_python, write_result
from tests.bench.rounds import Announcer, Say
from tests.bench.train_material import TrainingData, quick_training, real_training
from tests.bench.train_ours import train_ours
from tests.bench.train_setting import Outcome, Setting

NAME = "train"
FLAG, EQUAL, GROUPS, BATCH = "FlagEmbedding", "ours per_query", "ours per_group", "ours per_batch"
SHARING = {EQUAL: "per_query", GROUPS: "per_group", BATCH: "per_batch"}
GROWTH = 8
MICRO_BATCH_TOKENS = 2048  # small enough that both batches of the memory test fill it


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Run the benchmark and write its result."""
    parser = common_options(__doc__)
    parser.add_argument("--steps", type=int, default=4, help="per run, the first is not timed")
    options = parser.parse_args(arguments)
    python, say = peer_python(options), Announcer()
    about = describe_machine(options.threads)
    setting = Setting(steps=options.steps, threads=options.threads)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if options.quick:
            model, sets = quick_training(folder, num_negatives=setting.num_negatives)
        else:
            model, sets = real_training(
                folder, layers=options.layers, overrides=options.set, num_negatives=setting.num_negatives
            )
        bench = TrainBenchmark(model, python, folder, say)
        by_data_set = {data.name: bench.compare(data, setting, options.rounds) for data in sets}
        memory = bench.memory_growth(sets[0], setting)
        layers = json.loads((model / "config.json").read_bytes())["num_hidden_layers"]
    return write_result(
        options,
        NAME,
        {
            **summarise(by_data_set),
            "memory_growth": memory["growth"],
            "by_data_set": by_data_set,
            "memory": memory,
            "setting": {"layers": layers, "dtype": "float32", "rounds": options.rounds, **asdict(setting)},
            **about,
        },
    )


def summarise(by_data_set: dict[str, Any]) -> dict[str, Any]:
    """The least of both data sets, so that no figure hangs on the kinder one.

    ``speedup_vs_flagembedding`` is equal work: every query has examples of its own, as FlagEmbedding draws them.
    The other two change what is trained: queries of a group or batch share one set of examples.
    """

    def least(system: str, field: str) -> float:
        return min(float(found[system][field]) for found in by_data_set.values())

    return {
        "speedup_vs_flagembedding": least(EQUAL, "speedup"),
        "speedup_per_group_vs_flagembedding": least(GROUPS, "speedup"),
        "speedup_per_batch_vs_flagembedding": least(BATCH, "speedup"),
        "useful_token_share": least(EQUAL, "useful_token_share"),
        "useful_token_share_flagembedding": least(FLAG, "useful_token_share"),
    }


class TrainBenchmark:
    """One model, trained again and again."""

    def __init__(self, model: Path, peer: Path, folder: Path, say: Say) -> None:
        self.model, self.peer, self.folder, self.say = model, peer, folder, say
        self.runs = 0

    def compare(self, data: TrainingData, setting: Setting, rounds: int) -> dict[str, Any]:
        """All systems on one data set, by turns."""
        outcomes: dict[str, list[Outcome]] = {name: [] for name in (FLAG, *SHARING)}
        for number in range(rounds):
            rows = data.draw(setting.rows, number)
            mine = replace(setting, seed=number)
            for name, found in outcomes.items():
                found.append(self.run(name, rows, mine))
                self.say(
                    f"{data.name} round {number + 1}/{rounds}  {name:<16} "
                    f"{found[-1].queries_per_second:7.3f} queries/s"
                )
        peer = outcomes[FLAG]
        return {name: _medians(found, peer) for name, found in outcomes.items()}

    def run(self, name: str, data: TrainingData, setting: Setting) -> Outcome:
        """One run of one system."""
        folder = self._new_folder()
        if name in SHARING:
            rows = data.write_parquet(folder / "train.parquet")
            return train_ours(folder, self.model, rows, setting, examples={"sharing": SHARING[name]})
        request = {
            "model": str(self.model),
            "rows": str(data.write_jsonl(folder / "train.jsonl")),
            "folder": str(folder),
            "outcome": str(folder / "outcome.json"),
            "setting": asdict(setting),
        }
        path = folder / "request.json"
        path.write_text(json.dumps(request), encoding="utf-8")
        command = [str(self.peer), "-m", "tests.bench.train_flag_embedding", str(path)]
        peak = run_measured(command, {"HF_HUB_OFFLINE": "1"}, folder / "log.txt")
        return replace(Outcome.read(folder / "outcome.json"), peak_mib=peak)

    def memory_growth(self, data: TrainingData, setting: Setting) -> dict[str, Any]:
        """Peak memory of our trainer with the gradient cache, for a batch and one that is 8 times as large."""
        peaks = {}
        for batch_size in (setting.batch_size, GROWTH * setting.batch_size):
            mine = replace(setting, steps=1, batch_size=batch_size)
            folder = self._new_folder()
            rows = data.draw(mine.rows, 0).write_parquet(folder / "train.parquet")
            outcome = train_ours(
                folder, self.model, rows, mine, gradient_cache=True, batch_tokens=MICRO_BATCH_TOKENS
            )
            peaks[batch_size] = round(outcome.peak_mib)
            self.say(f"gradient cache, batch of {batch_size}: peak memory {outcome.peak_mib:.0f} MiB")
        small, large = peaks.values()
        return {"peak_mib": peaks, "growth": round(large / small, 3), "batch_tokens": MICRO_BATCH_TOKENS}

    def _new_folder(self) -> Path:
        self.runs += 1
        folder = self.folder / f"run-{self.runs}"
        folder.mkdir()
        return folder


def _medians(outcomes: list[Outcome], peer: list[Outcome]) -> dict[str, Any]:
    speedups = [
        mine.queries_per_second / theirs.queries_per_second
        for mine, theirs in zip(outcomes, peer, strict=True)
    ]

    def median_of(field: str) -> float:
        return float(median(getattr(one, field) for one in outcomes))

    return {
        "speedup": round(median(speedups), 3),
        "speedup_spread": [round(min(speedups), 3), round(max(speedups), 3)],
        "queries_per_second": round(median_of("queries_per_second"), 4),
        "useful_token_share": round(median_of("useful_token_share"), 4),
        "examples_per_query": round(median_of("examples_per_query"), 2),
        "peak_mib": round(median_of("peak_mib")),
    }


if __name__ == "__main__":
    main()
