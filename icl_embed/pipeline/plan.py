"""The dry run: per stage CACHED or RUN, and which part of the key changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from icl_embed.store import StageKey, Store
from icl_embed.store.key import explain_difference


@dataclass(frozen=True)
class PlannedStage:
    """What would happen to one stage."""

    key: StageKey
    is_cached: bool
    reason: str


def plan(store: Store, keys: Iterable[StageKey]) -> list[PlannedStage]:
    """Compare keys with the store, without building anything. Cached artefacts are verified byte by byte."""
    latest = _latest_by_name(store)
    return [_plan_stage(store, key, latest) for key in keys]


def _plan_stage(store: Store, key: StageKey, latest: dict[tuple[str, str], dict[str, Any]]) -> PlannedStage:
    damage = store.damage(key.stage, key.fingerprint)
    if not damage:
        return PlannedStage(key, is_cached=True, reason="")
    if store.path_of(key.stage, key.fingerprint).exists():
        return PlannedStage(key, is_cached=False, reason=f"damaged: {damage}")
    previous = latest.get((key.stage, key.label))
    if previous is None:
        return PlannedStage(key, is_cached=False, reason="never built")
    return PlannedStage(key, is_cached=False, reason=_explain(key.parts(), previous))


def _explain(new: Mapping[str, Any], old: Mapping[str, Any]) -> str:
    """Changed settings with both values; changed inputs by name only, since their own line says why."""
    settings = explain_difference({**new, "inputs": {}}, {**old, "inputs": {}})
    before, after = old["inputs"], new["inputs"]
    inputs = [role for role in {**after, **before} if before.get(role) != after.get(role)]
    return "; ".join([*settings, *(f"input {role} changes" for role in inputs)])


def _latest_by_name(store: Store) -> dict[tuple[str, str], dict[str, Any]]:
    """The key of the newest artefact of each stage and label: what a changed key is compared with."""
    latest = {}
    for artefact in store.artefacts():
        manifest = artefact.manifest
        latest[artefact.stage, manifest.label] = manifest.key
    return latest
