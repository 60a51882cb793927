"""Memory that is bounded: batches that fit, learned by running out, and a cache of what was used last."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor

from icl_embed.errors import ModelError
from icl_embed.model.batching import plan_batches
from icl_embed.model.cpu.heap import give_back_freed_memory
from icl_embed.prompts import Tokens

Value = TypeVar("Value")


class Recent(Generic[Value]):
    """Keeps the values that were asked for last while they fit into ``max_bytes``.

    A value larger than the limit is made and handed out, but not kept. Safe to share between threads; two
    threads that miss the same key at once both make it.
    """

    def __init__(self, max_bytes: int, size_of: Callable[[Value], int]) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._size_of = size_of
        self._values: OrderedDict[Hashable, Value] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """The kept value of ``key``, or a new one from ``make``."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
        value = make()
        with self._lock:
            self._keep(key, value)
        return value

    def _keep(self, key: Hashable, value: Value) -> None:
        size = self._size_of(value)
        if key in self._values or size > self.max_bytes:
            return
        self._values[key] = value
        self.num_bytes += size
        while self.num_bytes > self.max_bytes:
            _, oldest = self._values.popitem(last=False)
            self.num_bytes -= self._size_of(oldest)


logger = logging.getLogger(__name__)

Embed = Callable[[Sequence[Tokens]], Tensor]
Result = TypeVar("Result")

# How torch's CPU allocator, CUDA libraries and oneDNN say it when they do not raise torch.OutOfMemoryError.
SIGNS_OF_MEMORY = (
    "not enough memory",
    "can't allocate memory",
    "DefaultCPUAllocator",
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "could not create a memory object",
    "could not create a primitive",
)


# Activations of more tokens leave a processor's cache: larger batches were up to a third slower.
TOKENS_IN_CACHE = 2048


class MemoryLimit:
    """The most tokens that go through the model at once: what the cache holds on CPU, else no limit at first.

    It falls when memory runs out. One per loaded model: what was learned in one call spares the next one the
    same failure.
    """

    def __init__(self, device: torch.device) -> None:
        self.tokens: int | None = TOKENS_IN_CACHE if device.type == "cpu" else None
        self._ran_out = False

    def run(self, rows: Sequence[Tokens], embed: Embed) -> Tensor:
        """``embed(rows)``, in as many parts as the memory asks for; [R, D] in the order of the rows.

        Raises
            ModelError: a single row does not fit.
        """
        lengths = [len(row) for row in rows]
        parts = [list(range(len(rows)))] if self.tokens is None else plan_batches(lengths, self.tokens)
        if len(parts) == 1:
            vectors = unless_out_of_memory(lambda: embed(rows))
            if isinstance(vectors, Tensor):
                return vectors
            self._lower(rows, vectors)
            return self.run(rows, embed)
        found = [self.run([rows[index] for index in part], embed) for part in parts]
        order = torch.tensor([index for part in parts for index in part], device=found[0].device)
        return torch.cat(found)[order.argsort()]

    def _lower(self, rows: Sequence[Tokens], reason: str) -> None:
        num_tokens = sum(map(len, rows))
        if len(rows) == 1:
            raise ModelError(
                f"one text of {num_tokens} tokens does not fit the memory; lower prompt.query_tokens or "
                f"prompt.passage_tokens, show fewer examples, or use a larger device ({reason})"
            )
        self.lower(num_tokens)

    def lower(self, num_tokens: int) -> None:
        """From now on at most half of the tokens with which memory ran out."""
        if not self._ran_out:
            logger.warning("out of memory with a batch of %d tokens; going on with smaller ones", num_tokens)
        self._ran_out = True
        self.tokens = max(1, num_tokens // 2)


def unless_out_of_memory(compute: Callable[[], Result]) -> Result | str:
    """The result, or the first words of the error; by then the failed attempt's tensors are freed."""
    try:
        return compute()
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        reason = str(error)[:100]
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    give_back_freed_memory()
    return reason


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch, or of a library below it, says that memory ran out."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS_OF_MEMORY)
