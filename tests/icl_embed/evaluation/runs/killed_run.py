"""A run in a process of its own, slow enough to be killed: ``python -m … STORE LOG SECONDS_PER_CALL``.

The model is a real tiny one behind a wrapper that writes down every text after it was encoded.
"""

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icl_embed.config import EvaluateConfig, PromptConfig
from icl_embed.evaluation.grid import RunRequest, run_grid
from icl_embed.evaluation.measurement import Bootstrap
from icl_embed.evaluation.models import open_model
from icl_embed.evaluation.summary import as_json, summarise
from icl_embed.evaluation.tasks.opening import TaskPlaces
from icl_embed.few_shot.settings import settings_of
from icl_embed.store import Store

CHUNK = 8
PROMPT = PromptConfig(query_tokens=64, passage_tokens=64, total_tokens=256)


@dataclass
class SlowEncoder:
    encoder: Any
    log: Path
    seconds: float

    @property
    def prompts(self):
        return self.encoder.prompts

    @property
    def dimension(self):
        return self.encoder.dimension

    def encode_queries(self, texts, *, instruction, examples=(), **more):
        vectors = self.encoder.encode_queries(texts, instruction=instruction, examples=examples, **more)
        shown = [[one.query, one.response] for one in examples]
        return self._noted(vectors, [["query", instruction, shown, text] for text in texts])

    def encode_passages(self, texts, **more):
        return self._noted(self.encoder.encode_passages(texts, **more), [["passage", text] for text in texts])

    def _noted(self, vectors, calls):
        time.sleep(self.seconds)
        with self.log.open("a") as handle:
            handle.writelines(json.dumps(call) + "\n" for call in calls)
        return vectors


def main(root: Path, log: Path, seconds: float) -> None:
    config = EvaluateConfig(prompt=PROMPT, bootstrap_resamples=100, label_experiments=2, cluster_sets=3)
    store = Store(root)
    model = open_model(str(root.parent / "model"), store, prompt=PROMPT, device="cpu", dtype="float32")
    slow = SlowEncoder(model.encoder, log, seconds)
    model.__dict__["encoder"] = slow
    names = sorted(f"data/{one.manifest.label}" for one in store.artefacts() if one.stage == "dataset")
    asked = tuple(settings_of([0, 2], ["random"], [0]))
    request = RunRequest(
        tuple(names), asked, TaskPlaces(store, config=config), config=config, chunk_texts=CHUNK
    )
    outcome = run_grid(request, model, store)
    result = as_json(summarise(outcome, model.shown.name, Bootstrap(100)), model)
    (root.parent / "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]))
