"""The few-shot example: the one record that every room of the house passes around."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Example:
    """A (query, response) pair shown in the prompt, before the query that is to be embedded."""

    query: str
    response: str
