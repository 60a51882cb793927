"""The report and the benchmark page in a real browser: what is on them, that they fit a phone, and follow its theme."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from icl_embed.report.benchmark import build_benchmark_page
from icl_embed.report.page import build_report
from tests.icl_embed.report.benchmark_folders import HOW, make_benchmark
from tests.icl_embed.report.run_folders import make_run
from tests.ui.browser import measure, needs_chromium

pytestmark = needs_chromium


@dataclass(frozen=True)
class Page:
    """A page of ours, and what it must hold."""

    build: Callable[[Path], Path]
    tables: frozenset[str]
    rows: int
    charts: int
    marks: int


def build_run_report(home: Path) -> Path:
    build_report(make_run(home), home / "report")
    return home / "report" / "index.html"


PAGES = {
    "report": Page(
        build_run_report,
        frozenset(f"{name}-table" for name in ("score", "cost", "reranker", "data", "config", "lineage")),
        rows=2 + 9 + 6,  # averages, data sets, kinds
        charts=5,
        marks=41,
    ),
    "benchmark": Page(
        lambda home: build_benchmark_page(*make_benchmark(home / "artefacts"), home, HOW),
        frozenset(f"{name}-table" for name in ("score", "shots", "quality", "cost", "overlap")),
        rows=1 + 4,  # the average and the tasks
        charts=7,
        marks=0,
    ),
}


@pytest.fixture(scope="module", params=PAGES)
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Page]:
    wanted = PAGES[request.param]
    return wanted.build(tmp_path_factory.mktemp(request.param)), wanted


@pytest.mark.parametrize("width", [390, 1200])
def test_tables_and_charts_are_on_the_page_and_nothing_overflows(page: tuple[Path, Page], width: int) -> None:
    path, wanted = page
    found = measure(path, width)
    assert found["width"] == width
    assert found["content"] <= width
    assert found["overflowing"] == []
    assert found["clipped"] == []
    assert wanted.tables <= set(found["tables"])
    assert (found["rows"], len(found["charts"])) == (wanted.rows, wanted.charts)
    assert found["marks"] >= wanted.marks
    assert found["smallest"] >= 11


def test_the_browser_asks_for_nothing_and_runs_nothing(page: tuple[Path, Page]) -> None:
    found = measure(page[0], 800)
    assert found["scripts"] == 0
    assert found["resources"] == []


def test_light_and_dark_follow_the_reader(page: tuple[Path, Page]) -> None:
    light = measure(page[0], 700)["background"]
    dark = measure(page[0], 701, "--blink-settings=preferredColorScheme=0")["background"]
    assert light == "rgb(251, 251, 250)"
    assert dark == "rgb(20, 22, 26)"
