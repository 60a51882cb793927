"""A cache of what was used last, bounded by bytes: encoded prefixes differ a hundredfold in size."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

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
