"""What the encoding benchmark measures, in order: equality, batch sizes, queries, passages, the machine's peak."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoConfig

from icl_embed.model.decoder_shape import DecoderShape
from tests.bench.encode_report import Lengths, describe_setting, limits, summarise
from tests.bench.equality import compare, cosine
from tests.bench.material import Material
from tests.bench.protocol import Worker
from tests.bench.rounds import BATCH_SIZES, Contestant, Say, fastest, take_turns
from tests.bench.workload import Workload

FLAG, SENTENCE, SENTENCE_HALF = (
    "FlagEmbedding float32",
    "sentence-transformers float32",
    "sentence-transformers bfloat16",
)


class EncodeBenchmark:
    """One model, one set of texts, one worker per system and number format."""

    def __init__(self, material: Material, workers: dict[str, Worker], folder: Path, say: Say) -> None:
        self.material, self.workers, self.folder, self.say = material, workers, folder, say
        self.zero = Workload(material.few.texts, material.few.instruction)

    def run(self, rounds: int, peer_rounds: int) -> dict[str, Any]:
        """Everything, as one record. Equality first: being faster at something else would be worth nothing."""
        equality = self.compare_vectors()
        sizes, tried = self.choose_batch_sizes()
        seconds = self.time_queries(sizes, rounds, peer_rounds) | self.time_passages(sizes, rounds)
        lengths = self.lengths()
        flag = equality["FlagEmbedding"].values()
        return {
            **summarise(seconds),
            "min_cosine_vs_flagembedding": min(
                record["min_cosine_same_tokens"] for record in flag if record["min_cosine_same_tokens"]
            ),
            "setting": {"rounds": rounds, **describe_setting(self.material, lengths)},
            "equality": equality,
            "flop_limits": limits(
                DecoderShape.of(AutoConfig.from_pretrained(self.material.model)),
                lengths,
                seconds,
                self.peaks(),
                self.auto_dtype,
            ),
            "batch_sizes": sizes,
            "batch_sizes_tried_seconds": tried,
            "median_seconds": {name: round(statistics.median(values), 3) for name, values in seconds.items()},
            "seconds": {name: [round(value, 3) for value in values] for name, values in seconds.items()},
        }

    @property
    def auto_dtype(self) -> str:
        """The number format that we choose on this machine."""
        return str(self.workers["ours auto"].about["dtype"])

    def compare_vectors(self) -> dict[str, Any]:
        """Our fp32 vectors against both peers; our bf16 vectors, which only rounding sets apart, against fp32."""
        found: dict[str, Any] = {"FlagEmbedding": {}, "sentence-transformers": {}, "ours bfloat16": {}}
        for kind, work in self.material.equality.items():
            ours, our_tokens = self.vectors("ours float32", work), self.tokens("ours float32", work)
            rounded = cosine(ours, self.vectors("ours bfloat16", work)).min()
            found["ours bfloat16"][kind] = {"min_cosine_all": round(float(rounded), 5)}
            for peer in (FLAG,) if work.instruction else (FLAG, SENTENCE):
                theirs, their_tokens = self.vectors(peer, work), self.tokens(peer, work)
                record = compare(ours, theirs, our_tokens, their_tokens, work.texts)
                found[peer.split()[0]][kind] = record
                self.say(
                    f"{kind}: least cosine to {peer} {record['min_cosine_all']}, "
                    f"{record['texts_with_other_tokens']} of {record['texts']} texts have other tokens"
                )
        return found

    def choose_batch_sizes(self) -> tuple[dict[str, int], dict[str, Any]]:
        """The fastest size of each peer for each work. These runs warm it up, so we get a run as well."""
        few, passages = self.material.few, self.material.passages
        for name in ("ours float32", "ours bfloat16"):
            self.turn(name, few)(-1)
            self.turn(name, passages)(-1)
        best: dict[str, int] = {}
        tried: dict[str, dict[int, float]] = {}
        wanted = [(FLAG, "queries", few)]
        wanted += [(system, "passages", passages) for system in (FLAG, SENTENCE, SENTENCE_HALF)]
        for system, role, work in wanted:
            self.say(f"{role} by {system}, to find its best batch size")

            def run(size: int, system: str = system, work: Workload = work) -> float:
                return self.turn(system, work, size)(-1)

            key = f"{role} {system}"
            best[key], tried[key] = fastest(run, BATCH_SIZES, self.say)
        return best, tried

    def time_queries(self, sizes: dict[str, int], rounds: int, peer_rounds: int) -> dict[str, list[float]]:
        """Zero-shot and few-shot queries."""
        size = sizes[f"queries {FLAG}"]
        contestants = {}
        for dtype in ("float32", "bfloat16"):
            contestants[f"few ours {dtype}"] = self.turn(f"ours {dtype}", self.material.few)
            contestants[f"zero ours {dtype}"] = self.turn(f"ours {dtype}", self.zero)
        contestants[f"zero {FLAG}"] = self.turn(FLAG, self.zero, size)
        contestants[f"few {FLAG}"] = self.turn(FLAG, self.material.few, size)
        return take_turns(contestants, rounds, self.say, fewer={f"few {FLAG}": peer_rounds})

    def time_passages(self, sizes: dict[str, int], rounds: int) -> dict[str, list[float]]:
        """Passages."""
        systems = ("ours float32", "ours auto", FLAG, SENTENCE, SENTENCE_HALF)
        passages = self.material.passages
        contestants = {
            f"passages {name}": self.turn(name, passages, sizes.get(f"passages {name}")) for name in systems
        }
        return take_turns(contestants, rounds, self.say)

    def turn(self, system: str, work: Workload, batch_size: int | None = None) -> Contestant:
        """A contestant of ``take_turns``; each round shows the examples in another order."""

        def run(number: int) -> float:
            shown = work.in_round(number).to_json()
            answer = self.workers[system].ask("encode", work=shown, batch_size=batch_size)
            return float(answer["seconds"])

        return run

    def vectors(self, system: str, work: Workload) -> np.ndarray:
        """Vectors [N, D] that a system computes."""
        path = self.folder / "vectors.npy"
        size = min(BATCH_SIZES)
        self.workers[system].ask("encode", work=work.to_json(), batch_size=size, save=str(path))
        vectors: np.ndarray = np.load(path, allow_pickle=False)
        return vectors

    def tokens(self, system: str, work: Workload) -> list[list[int]]:
        """Token ids that a system feeds the model."""
        return list(self.workers[system].ask("tokens", work=work.to_json())["tokens"])

    def lengths(self) -> Lengths:
        """Tokens of everything that is timed."""
        few, zero, passages = (
            self.tokens("ours float32", work)
            for work in (self.material.few, self.zero, self.material.passages)
        )
        return Lengths.of(few, zero, passages)

    def peaks(self) -> dict[str, float]:
        """GFLOP/s of the fastest matrix product in each number format."""
        ask = self.workers["ours float32"].ask
        return {
            dtype: ask("peak", dtype=dtype, folder=str(self.material.model))["gflops"]
            for dtype in ("float32", "bfloat16")
        }
