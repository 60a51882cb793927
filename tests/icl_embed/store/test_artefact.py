import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from icl_embed.errors import StoreError
from icl_embed.store import StageKey, Store, digests, lock
from icl_embed.store.files import sha256_of
from icl_embed.store.manifest import MANIFEST_NAME

KEY = StageKey("pool", 1, {"threshold": 0.9}, {"a": "dataset/1"}, label="demo")


def produce(folder: Path) -> dict[str, int]:
    (folder / "part").mkdir()
    (folder / "rows.txt").write_text("one\ntwo\n")
    (folder / "part" / "more.bin").write_bytes(bytes(range(256)))
    return {"rows": 2}


def refuse(_folder: Path) -> dict[str, int]:
    raise AssertionError("a cached artefact must not be produced again")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_an_artefact_is_built_once_and_then_found(store: Store) -> None:
    built = store.build(KEY, produce)
    assert store.build(KEY, refuse) == built
    assert built.manifest.counts == {"rows": 2}
    assert set(built.manifest.files) == {"rows.txt", "part/more.bin"}
    assert [one.fingerprint for one in store.artefacts()] == [KEY.fingerprint]


def test_the_fingerprint_depends_on_everything_but_the_label() -> None:
    same = StageKey("pool", 1, {"threshold": 0.9}, {"a": "dataset/1"}, label="other")
    assert same.fingerprint == KEY.fingerprint
    others = [
        StageKey("pools", 1, KEY.settings, KEY.inputs),
        StageKey("pool", 2, KEY.settings, KEY.inputs),
        StageKey("pool", 1, {"threshold": 0.8}, KEY.inputs),
        StageKey("pool", 1, KEY.settings, {"a": "dataset/2"}),
    ]
    assert len({KEY.fingerprint, *(other.fingerprint for other in others)}) == 5


def test_the_fingerprint_is_the_same_in_every_process() -> None:
    code = (
        "from icl_embed.store import StageKey;"
        "print(StageKey('pool', 1, {'threshold': 0.9}, {'a': 'dataset/1'}).fingerprint)"
    )
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        out = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
        )
        assert out.stdout.strip() == KEY.fingerprint


@pytest.mark.parametrize("damage", ["flip", "cut", "delete", "manifest", "no manifest"])
def test_damage_is_found_and_mended_and_the_damaged_folder_is_kept(store: Store, damage: str) -> None:
    folder = store.build(KEY, produce).path
    rows = folder / "rows.txt"
    if damage == "flip":
        data = bytearray(rows.read_bytes())
        data[0] ^= 1
        rows.write_bytes(data)
    elif damage == "cut":
        rows.write_bytes(rows.read_bytes()[:-1])
    elif damage == "delete":
        rows.unlink()
    elif damage == "manifest":
        (folder / MANIFEST_NAME).write_text("{")
    else:
        (folder / MANIFEST_NAME).unlink()
    assert not store.is_valid(KEY)
    with pytest.raises(StoreError, match="run the flow again"):
        store.get(KEY.stage, KEY.fingerprint)
    rebuilt = store.build(KEY, produce)
    assert store.is_valid(KEY)
    assert (rebuilt.path / "rows.txt").read_text() == "one\ntwo\n"
    assert len(list(folder.parent.glob("*.damaged-*"))) == 1


def test_a_failed_build_leaves_nothing_behind(store: Store) -> None:
    def fail(folder: Path) -> dict[str, int]:
        (folder / "half").write_text("x")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        store.build(KEY, fail)
    assert [path for path in (store.root / "pool").iterdir() if not path.name.startswith(".")] == []


def test_a_full_disk_is_a_clear_error_and_leaves_nothing(store: Store) -> None:
    def fill(folder: Path) -> dict[str, int]:
        (folder / "half").write_text("x")
        raise OSError(28, "No space left on device")

    with pytest.raises(StoreError, match="No space left on device; nothing was published"):
        store.build(KEY, fill)
    assert not store.path_of(KEY.stage, KEY.fingerprint).exists()


def test_a_failing_fsync_fails_the_build(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(StoreError, match="Input/output error"):
        store.build(KEY, produce)
    assert not store.is_valid(KEY)


HOLDER = """
import sys, time
from pathlib import Path
from icl_embed.store import StageKey, Store

def produce(folder):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
    (folder / "rows.txt").write_text("theirs")
    return {"rows": 1}

Store(Path(sys.argv[1])).build(StageKey("pool", 1, {"threshold": 0.9}, {"a": "dataset/1"}, label="demo"), produce)
"""


@contextmanager
def another_builder(store: Store, seconds: float) -> Iterator[subprocess.Popen[str]]:
    """A process that builds the artefact of KEY and takes a while."""
    argv = [sys.executable, "-c", HOLDER, str(store.root), str(seconds)]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_second_builder_waits_says_for_whom_and_takes_what_the_first_one_made(
    store: Store, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "REPEAT_SECONDS", 0.6)
    with another_builder(store, 1.5) as process, caplog.at_level(logging.WARNING):
        artefact = store.build(KEY, refuse)
    assert (artefact.path / "rows.txt").read_text() == "theirs"
    waiting = [one for one in caplog.messages if f"is being built by process {process.pid}; waiting" in one]
    assert len(waiting) >= 2  # at once, and again now and then


def test_a_second_builder_builds_itself_when_the_first_one_dies(store: Store) -> None:
    with another_builder(store, 60) as process:
        threading.Timer(0.5, process.kill).start()
        assert store.build(KEY, produce).manifest.counts == {"rows": 2}


def test_waiting_for_another_builder_has_an_end(store: Store) -> None:
    with another_builder(store, 60) as process:
        for seconds in (0.0, 0.7):
            with pytest.raises(StoreError, match=f"process {process.pid}.*wait for it, or stop it"):
                store.build(KEY, refuse, wait_seconds=seconds)


def test_what_cannot_be_written_is_a_typed_error_that_names_the_place(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match=r"cannot lock pool/.*Not a directory.*mend the folder.*file"):
        Store(tmp_path / "file").build(KEY, produce)


def test_a_server_that_does_not_answer_is_not_taken_for_the_disk(store: Store) -> None:
    def ask(_folder: Path) -> dict[str, int]:
        raise ConnectionResetError(104, "Connection reset by peer")

    with pytest.raises(ConnectionResetError):
        store.build(KEY, ask)


def test_an_artefact_that_is_there_needs_no_lock(store: Store) -> None:
    built = store.build(KEY, produce)
    store.lock_of(KEY.stage, KEY.fingerprint).unlink()
    assert store.build(KEY, refuse) == built
    assert not store.lock_of(KEY.stage, KEY.fingerprint).exists()  # nothing was written


def test_an_address_is_no_store() -> None:
    with pytest.raises(StoreError, match="a folder on this machine"):
        Store(Path("s3://bucket/store"))


def test_files_that_leave_the_folder_are_refused(store: Store) -> None:
    folder = store.build(KEY, produce).path
    manifest = json.loads((folder / MANIFEST_NAME).read_bytes())
    for name in ("../../etc/passwd", "/etc/passwd", "a\0b", "~root"):
        manifest["files"] = {name: {"bytes": 1, "sha256": "0" * 64}}
        (folder / MANIFEST_NAME).write_text(json.dumps(manifest))
        assert "would leave" in store.damage(KEY.stage, KEY.fingerprint)


def test_links_are_not_published(store: Store, tmp_path: Path) -> None:
    def link(folder: Path) -> dict[str, int]:
        (folder / "link").symlink_to(tmp_path)
        return {}

    with pytest.raises(StoreError, match="is a link"):
        store.build(KEY, link)


def test_the_work_folder_survives_a_failure_and_goes_after_success(store: Store) -> None:
    work = store.work_dir(KEY)
    work.mkdir(parents=True)
    (work / "checkpoint").write_text("x")
    with pytest.raises(ZeroDivisionError):
        store.build(KEY, lambda _folder: {"rows": 1 // 0})
    assert (work / "checkpoint").exists()
    store.build(KEY, produce)
    assert not work.exists()


def test_nan_in_a_key_is_refused() -> None:
    with pytest.raises(ValueError, match="JSON"):
        _ = StageKey("pool", 1, {"threshold": float("nan")}).fingerprint


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o002, 0o664)])
def test_published_files_follow_the_umask_whoever_wrote_them(store: Store, umask: int, mode: int) -> None:
    from safetensors.numpy import save_file

    def private(folder: Path) -> dict[str, int]:
        (folder / "part").mkdir()
        for path in (folder / "model.safetensors", folder / "part" / "more.safetensors"):
            save_file({"one": np.zeros(1, np.float32)}, path)
            path.chmod(0o600)  # as some releases of safetensors leave it
        return {}

    before = os.umask(umask)
    try:
        folder = store.build(KEY, private).path
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in folder.rglob("*") if path.is_file()} == {mode}


def test_an_untouched_artefact_is_read_once_per_process(tmp_path, monkeypatch):
    store, key = Store(tmp_path), StageKey("pool", 1, {"size": 2})
    artefact = store.build(key, lambda folder: (folder / "data.bin").write_bytes(b"x" * 1000) and {})
    read = []
    monkeypatch.setattr(digests, "sha256_of", lambda path: read.append(path.name) or sha256_of(path))
    assert store.is_valid(key) and store.is_valid(key)
    assert read == ["data.bin"] * 2, "what was written just now may change without its times telling"
    monkeypatch.setattr(digests, "SETTLED_SECONDS", -1.0)
    assert store.is_valid(key) and store.is_valid(key)
    assert read == ["data.bin"] * 3
    content = bytearray((artefact.path / "data.bin").read_bytes())
    content[500] ^= 1
    (artefact.path / "data.bin").write_bytes(content)
    assert not store.is_valid(key)
