"""How large a run's models and data sets are, from what is at hand.

That is: artefacts of the store, the kept index of a collection, a model's ``config.json``. What is not there
is taken from published figures or assumed, and says so; nothing is fetched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icl_embed.config import BaseModelConfig, Kind, RunConfig, TemplateConfig
from icl_embed.errors import ModelError
from icl_embed.model.architectures import read_config
from icl_embed.model.decoder_shape import DecoderShape
from icl_embed.pipeline.stages.base_model import base_model_key
from icl_embed.sources.collection import CollectionCard
from icl_embed.store import Store
from icl_embed.train.cost import CHARACTERS_PER_TOKEN, Lengths

if TYPE_CHECKING:
    from icl_embed.pipeline.run import Run
    from icl_embed.store import StageKey

# Of models that are not at hand: sizes of their config.json at the pinned commits, and bytes of a stored
# weight (gemma-2-9b is published in fp32).
PUBLISHED_MODELS: Mapping[str, tuple[DecoderShape, int]] = {
    "mistralai/Mistral-7B-v0.1": (DecoderShape(32, 4096, 32, 8, 128, 14336, 32000), 2),
    "google/gemma-2-9b": (DecoderShape(42, 3584, 16, 8, 256, 14336, 256000, is_tied=True), 4),
}
CAPPED = {"google/gemma-2-9b"}  # attention scores are capped: no flash kernel

# Rows of collections whose index is not at hand: what their pages say. Of "more than 2.1 M rows" those of
# splits whose sizes are not told count as retrieval.
PUBLISHED_ROWS: Mapping[str, Mapping[Kind, int]] = {
    "bge-full-data": {"retrieval": 1_984_441, "clustering": 62_308, "classification": 53_251}
}

# Mean tokens where no row is at hand: an instruction of a sentence, MS MARCO's queries and passages, short
# texts.
ASSUMED: Mapping[Kind, Lengths] = {
    "retrieval": Lengths(16, 24, 160),
    "reranking": Lengths(16, 24, 60),
    "pair_classification": Lengths(16, 24, 24),
    "sts": Lengths(10, 24, 24),
    "classification": Lengths(20, 60, 12, 8),
    "clustering": Lengths(20, 120, 120, 8),
}
LENGTHS_ASSUMED = (
    "tokens: no mined row is at hand, so lengths are assumed by kind (retrieval: "
    f"{ASSUMED['retrieval'].query:.0f} of a query, {ASSUMED['retrieval'].passage:.0f} of a passage); build "
    "the negatives, and they are measured"
)
Count = Callable[[Sequence[str]], float]  # mean tokens of texts
SAMPLED = 200  # rows of a data set whose tokens are counted


@dataclass(frozen=True)
class Trained:
    """A data set to train on, as far as it is known.

    Attributes
        num_bytes: still to fetch.
        basis: what the figures rest on, where they are not those of what is there.
    """

    name: str
    kind: Kind
    rows: int
    lengths: Lengths
    num_bytes: int = 0
    basis: tuple[str, ...] = ()


def is_there(store: Store, key: StageKey) -> bool:
    """Whether an artefact is there; unlike a plan it verifies nothing."""
    return store.path_of(key.stage, key.fingerprint).exists()


def shape_of(config: RunConfig, model: BaseModelConfig, store: Store) -> tuple[DecoderShape, int] | None:
    """A base model's sizes and bytes per stored weight: from its folder, the store, or what is published."""
    try:
        if model.source == "local":
            return _read_shape(Path(model.name))
        key = base_model_key(config, model)
        if is_there(store, key):
            return _read_shape(store.path_of(key.stage, key.fingerprint))
    except ModelError:
        return None
    if model.name not in PUBLISHED_MODELS:
        return None
    shape, stored = PUBLISHED_MODELS[model.name]
    return replace(shape, layers=model.num_layers or shape.layers), stored


def _read_shape(folder: Path) -> tuple[DecoderShape, int]:
    found = read_config(folder)
    dtype = str(found.get("dtype") or found.get("torch_dtype") or "float32")
    return DecoderShape.of(found), 4 if dtype == "float32" else 2


def known_sets(run: Run) -> tuple[list[Trained], list[str]]:
    """The data sets that a run trains on, and of which nothing is known yet, with the reason."""
    negatives, keys = run.keys.negatives, run.keys
    if is_there(run.store, negatives):
        base = run.store.path_of(keys.base_model.stage, keys.base_model.fingerprint)
        rows_path = run.store.path_of(negatives.stage, negatives.fingerprint) / "train.parquet"
        return measured_sets(rows_path, base, run.config.model.template), []
    found, unknown = [], []
    for name in run.config.data.train:
        card, key = run.catalog[name], keys.datasets[name]
        kind, assumed = card.kind, ASSUMED[card.kind]
        if is_there(run.store, key):
            counts = run.store.get(key.stage, key.fingerprint).manifest.counts
            rows = int(counts.get("rows", {}).get("train", 0))
            found.append(Trained(name, kind, rows, assumed, basis=(LENGTHS_ASSUMED,)))
        elif isinstance(card, CollectionCard) and card.num_rows is not None:
            rows = min(card.num_rows, run.config.data.max_train_rows)
            found.append(Trained(name, kind, rows, assumed, card.num_bytes, (LENGTHS_ASSUMED,)))
        else:
            unknown.append(name)
    if unknown:
        unknown = [f"rows and bytes of {_listed(unknown)}, known once they are fetched"]
    return found, unknown


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def published_sets(names: Iterable[str], reason: str) -> tuple[list[Trained], list[str]]:
    """Collections whose index cannot be read, by what their pages say, and what these do not say."""
    found, unknown = [], []
    for name in names:
        if name not in PUBLISHED_ROWS:
            unknown.append(f"rows and bytes of {name}: its page tells no total, and {reason}")
            continue
        basis = f"rows of {name}: its page's total and the splits it tells of, bytes not told; {reason}"
        for kind, rows in PUBLISHED_ROWS[name].items():
            found.append(
                Trained(f"{name} ({kind})", kind, rows, ASSUMED[kind], basis=(basis, LENGTHS_ASSUMED))
            )
    if found:
        found.append(replace(found[0], rows=0, basis=(LENGTHS_ASSUMED,)))
    return found, unknown


def measured_sets(rows_path: Path, base: Path, template: TemplateConfig) -> list[Trained]:
    """Rows and mean tokens of mined rows; texts are tokenised as the base model does, if it is there."""
    import pyarrow.parquet as pq

    count = _counter(base / "tokenizer.json")
    table = pq.ParquetFile(rows_path)
    kinds: dict[str, Kind] = {}
    rows: dict[str, int] = {}
    lengths: dict[str, Lengths] = {}
    for group in range(table.num_row_groups):
        for name, kind in zip(
            *(table.read_row_group(group, [column]).column(0).to_pylist() for column in ("dataset", "kind")),
            strict=True,
        ):
            kinds[name], rows[name] = kind, rows.get(name, 0) + 1
        batch = next(table.iter_batches(SAMPLED, row_groups=[group]), None)
        for name, records in _by_name(batch.to_pylist() if batch else []).items():
            lengths.setdefault(name, _lengths(records, count, template))
    return [Trained(name, kinds[name], rows[name], lengths.get(name, ASSUMED[kinds[name]])) for name in kinds]


def _by_name(records: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        found.setdefault(str(record["dataset"]), []).append(record)
    return found


def _lengths(records: Sequence[Mapping[str, Any]], count: Count, template: TemplateConfig) -> Lengths:
    """Mean tokens of some rows of a data set, with what the prompt puts around them."""
    instruction = str(records[0]["instruction"])
    if template.special_tokens:  # which a tokenizer that does not have them yet would take apart
        head, suffix = 3 + count([instruction]), 3.0
    else:
        head, suffix = 1 + count([f"Instruct: {instruction}\nQuery:"]), 1 + count(["\nResponse:"])
    passages = [text for one in records for text in (one["positive"], *(one["negatives"] or ()))]
    return Lengths(
        instruction=head,
        query=suffix + count([str(one["query"]) for one in records]),
        passage=1 + count(passages),
        label=1 + count([str(one["response"]) for one in records]),
    )


def _counter(path: Path) -> Count:
    """Mean tokens of texts: by a tokenizer that is there, else a quarter of their characters."""
    if not path.is_file():
        return lambda texts: sum(map(len, texts)) / max(1, len(texts)) / CHARACTERS_PER_TOKEN
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))

    def count(texts: Sequence[str]) -> float:
        encoded = tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return sum(len(one.ids) for one in encoded) / max(1, len(texts))

    return count
