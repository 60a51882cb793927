"""From an artefact back to the source files, through the inputs that every manifest records."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from icl_embed.errors import StoreError
from icl_embed.store.artefact import Artefact, Store
from icl_embed.store.manifest import Manifest


@dataclass(frozen=True)
class Ancestor:
    """One step back: the role an artefact plays for its child, and the artefact's manifest."""

    depth: int
    role: str
    reference: str
    manifest: Manifest | None  # None when the artefact is gone
    is_repeated: bool


def find(store: Store, text: str, preferred: Sequence[str] = ()) -> Artefact:
    """The newest artefact that ``text`` names: a label, a fingerprint's start, or ``stage/start``.

    Parameters
        preferred: stages whose artefact is meant when others bear the same label.

    Raises
        StoreError: none, or a fingerprint's start that fits several.
    """
    artefacts = list(store.artefacts())
    exact = [one for one in artefacts if text in (one.reference, one.manifest.label)]
    if exact and text:
        return ([one for one in exact if one.stage in preferred] or exact)[-1]
    stage, _, start = text.rpartition("/")
    started = [one for one in artefacts if one.fingerprint.startswith(start) and stage in ("", one.stage)]
    if len(started) == 1:
        return started[0]
    if started:
        names = ", ".join(one.reference for one in started)
        raise StoreError(f"{text!r} fits several artefacts: {names}")
    raise StoreError(f"no artefact in {store.root} is called {text!r}; see icl-embed store ls")


def ancestors(store: Store, artefact: Artefact) -> Iterator[Ancestor]:
    """The artefact and all it was made from, depth first; a repeated ancestor is not opened again."""
    yield from _walk(store, "", artefact.reference, 0, set())


def _walk(store: Store, role: str, reference: str, depth: int, seen: set[str]) -> Iterator[Ancestor]:
    stage, _, fingerprint = reference.partition("/")
    folder = store.path_of(stage, fingerprint)
    manifest = Artefact(stage, fingerprint, folder).manifest if folder.exists() else None
    repeated = reference in seen
    yield Ancestor(depth, role, reference, manifest, repeated)
    seen.add(reference)
    if manifest is None or repeated:
        return
    for next_role, next_reference in manifest.key["inputs"].items():
        yield from _walk(store, next_role, next_reference, depth + 1, seen)


def trained_datasets(store: Store, artefact: Artefact) -> frozenset[str]:
    """Names of the data sets whose train split an artefact was made from, through its pool."""
    pools = [one.manifest for one in ancestors(store, artefact) if one.reference.startswith("pool/")]
    return frozenset(name for one in pools if one for name in one.key["settings"].get("trained", ()))


def sources_of(manifest: Manifest) -> list[str]:
    """What an artefact took from outside: a readable line per source, with its pin."""
    settings: dict[str, Any] = manifest.key["settings"]
    source = settings.get("card", {}).get("source") if manifest.stage == "dataset" else None
    if manifest.stage == "base-model":
        source = {"name": manifest.label, **settings}  # a folder's key knows only what is in it
    if not source:
        return []
    kind = source.get("kind") or source.get("source")
    where = " ".join(str(source[name]) for name in _PLACE if source.get(name))
    pin = f"sha256 {source['sha256']}" if source.get("sha256") else source.get("revision", "")
    if source.get("content"):
        pin = f"content {source['content']}"
    return [f"{kind} {where} ({pin})"]


_PLACE = ("package", "name", "version", "filename", "file", "url", "repository", "member", "members", "files")


def reachable(store: Store, roots: Iterable[Artefact]) -> set[str]:
    """References of the roots and everything they were made from."""
    return {ancestor.reference for root in roots for ancestor in ancestors(store, root) if ancestor.manifest}
