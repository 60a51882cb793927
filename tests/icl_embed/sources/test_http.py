import hashlib
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
import requests
from pydantic import ValidationError

from icl_embed.errors import SourceError
from icl_embed.sources.card_source import HttpSource
from icl_embed.sources.http import Patience, fetch_http, retry_after
from tests.icl_embed.sources.web import Site, cut_after, endless, running_site, silence, status, whole

DATA = bytes(range(256)) * 4096  # 1 MiB
DIGEST = hashlib.sha256(DATA).hexdigest()
QUICK = Patience(attempts=3, first_wait=0.01, connect_timeout=1.0, read_timeout=0.4)


@pytest.fixture
def site() -> Iterator[Site]:
    with running_site() as running:
        yield running


def get(url: str, downloads: Path, *, sha256: str = DIGEST, max_bytes: int = 8 << 20) -> bytes:
    source = HttpSource(kind="http", url=url, sha256=sha256, max_bytes=max_bytes)
    (file,) = fetch_http(source, downloads, patience=QUICK)
    with file.open() as handle:
        return handle.read()


def test_a_file_is_fetched_once_and_then_comes_from_the_downloads_folder(site, tmp_path):
    url = site.on("/data.bin", whole(DATA))
    assert get(url, tmp_path) == DATA
    assert get(url, tmp_path) == DATA
    assert len(site.requests) == 1


def test_progress_is_told_up_to_the_last_byte(site, tmp_path):
    seen = []
    source = HttpSource(kind="http", url=site.on("/data.bin", whole(DATA)), sha256=DIGEST)
    fetch_http(source, tmp_path, progress=lambda name, done, total: seen.append((name, done, total)))
    assert seen[-1] == ("data.bin", len(DATA), len(DATA))
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)


def test_server_errors_are_retried(site, tmp_path):
    url = site.on("/data.bin", status(500), status(429, Retry_After="0"), whole(DATA))
    assert get(url, tmp_path) == DATA
    assert len(site.requests) == 3


def test_retrying_ends(site, tmp_path):
    url = site.on("/data.bin", status(503))
    with pytest.raises(SourceError, match=r"after 3 attempts: the server answered 503"):
        get(url, tmp_path)
    assert len(site.requests) == 3


def test_a_server_says_in_words_how_long_to_wait(site, tmp_path):
    answer = status(529, Retry_After="Wed, 21 Oct 2015 07:28:00 GMT")  # a date that is over, and a rare code
    assert get(site.on("/data.bin", answer, whole(DATA)), tmp_path) == DATA
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=20), usegmt=True)
    response = requests.Response()
    response.headers["Retry-After"] = later
    assert 15 < retry_after(response) <= 20


def test_what_is_missing_is_not_asked_for_again(site, tmp_path):
    with pytest.raises(SourceError, match="answered 404"):
        get(site.url + "/data.bin", tmp_path)
    assert len(site.requests) == 1


def test_a_truncated_answer_is_continued_where_it_stopped(site, tmp_path):
    url = site.on("/data.bin", cut_after(DATA, 300_000), whole(DATA))
    assert get(url, tmp_path) == DATA
    assert site.requests[1] == ("/data.bin", "bytes=300000-")


def test_a_download_continues_in_the_next_run(site, tmp_path):
    url = site.on("/data.bin", cut_after(DATA, 1000))
    with pytest.raises(SourceError, match="truncated"):
        get(url, tmp_path)
    arrived = (tmp_path / DIGEST / "data.bin.part").stat().st_size
    assert arrived == 1000
    site.requests.clear()
    site.on("/data.bin", whole(DATA))
    assert get(url, tmp_path) == DATA
    assert site.requests == [("/data.bin", "bytes=1000-")]


def test_truncation_that_stays_names_both_sizes_and_leaves_no_file(site, tmp_path):
    def always_cut(handler):
        del handler.headers["Range"]
        cut_after(DATA, 5000)(handler)

    with pytest.raises(SourceError, match="5000 bytes arrived, expected 1048576"):
        get(site.on("/data.bin", always_cut), tmp_path)
    assert not (tmp_path / DIGEST / "data.bin").exists()


def test_a_server_that_ignores_range_sends_the_file_from_the_start(site, tmp_path):
    def no_range(handler):
        del handler.headers["Range"]
        whole(DATA)(handler)

    url = site.on("/data.bin", cut_after(DATA, 5000), no_range)
    assert get(url, tmp_path) == DATA


def test_spoiled_bytes_of_an_interrupted_run_are_fetched_anew(site, tmp_path):
    part = tmp_path / DIGEST / "data.bin.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"spoiled" * 10)
    assert get(site.on("/data.bin", whole(DATA)), tmp_path) == DATA


def test_other_bytes_than_promised_are_refused_and_kept_apart(site, tmp_path):
    url = site.on("/data.bin", whole(DATA[:-1] + b"!"))
    with pytest.raises(SourceError, match=f"expected {DIGEST}") as caught:
        get(url, tmp_path)
    assert "has sha256" in str(caught.value)
    assert not (tmp_path / DIGEST / "data.bin").exists()
    assert len(list((tmp_path / "quarantine").iterdir())) == 1
    assert len(site.requests) == 1


def test_a_file_that_rotted_on_the_disk_is_quarantined_and_fetched_again(site, tmp_path):
    url = site.on("/data.bin", whole(DATA))
    get(url, tmp_path)
    (tmp_path / DIGEST / "data.bin").write_bytes(DATA[:-1] + b"!")
    assert get(url, tmp_path) == DATA
    assert len(list((tmp_path / "quarantine").iterdir())) == 1


def test_a_silent_server_is_given_up(site, tmp_path):
    release = threading.Event()
    url = site.on("/data.bin", silence(release))
    with pytest.raises(SourceError, match="silent"):
        get(url, tmp_path)
    release.set()


def test_a_redirect_to_another_host_is_refused(site, tmp_path):
    url = site.on("/data.bin", status(302, Location="https://elsewhere.invalid/data.bin"))
    with pytest.raises(SourceError, match=r"redirects to another host, elsewhere\.invalid"):
        get(url, tmp_path)


def test_a_redirect_to_a_local_file_is_refused(site, tmp_path):
    url = site.on("/data.bin", status(302, Location="file:///etc/hostname"))
    with pytest.raises(SourceError, match="redirects"):
        get(url, tmp_path)


def test_a_redirect_within_the_host_is_followed(site, tmp_path):
    site.on("/real.bin", whole(DATA))
    assert get(site.on("/data.bin", status(302, Location="/real.bin")), tmp_path) == DATA


def test_a_redirect_loop_ends(site, tmp_path):
    with pytest.raises(SourceError, match="redirects more than"):
        get(site.on("/data.bin", status(302, Location="/data.bin")), tmp_path)


def test_a_longer_file_than_allowed_is_refused_before_it_is_read(site, tmp_path):
    with pytest.raises(SourceError, match="more than the 1000 allowed"):
        get(site.on("/data.bin", whole(DATA)), tmp_path, max_bytes=1000)


def test_an_endless_answer_is_cut_off(site, tmp_path):
    with pytest.raises(SourceError, match="longer than the 1000000 bytes allowed"):
        get(site.on("/data.bin", endless(DATA, 1000)), tmp_path, max_bytes=1_000_000)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/a.gz",
        "file:///etc/passwd",
        "ftp://example.org/a",
        "https://u:p@example.org/a",
        "a",
    ],
)
def test_only_https_without_a_password_is_an_address(url):
    with pytest.raises(ValidationError):
        HttpSource(kind="http", url=url, sha256=DIGEST)


def test_several_readers_of_one_file_cause_one_download(site, tmp_path):
    url = site.on("/data.bin", whole(DATA))
    results: list[bytes] = []
    threads = [threading.Thread(target=lambda: results.append(get(url, tmp_path))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [DATA] * 4
    assert len(site.requests) == 1
