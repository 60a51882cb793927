"""The benchmark page in a real browser: what is on it, that it fits a phone, and follows the reader's theme."""

import pytest

from icl_embed.report.benchmark import build_benchmark_page
from tests.icl_embed.report.benchmark_folders import HOW, make_benchmark
from tests.ui.test_report_page import CHROMIUM, measure

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium binary found (apt-get install chromium)"
)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    home = tmp_path_factory.mktemp("ui")
    return build_benchmark_page(*make_benchmark(home / "artefacts"), home, HOW)


@pytest.mark.parametrize("width", [390, 1200])
def test_tables_and_charts_are_on_the_page_and_nothing_overflows(page, width):
    found = measure(page, width)
    assert found["content"] <= width
    assert found["overflowing"] == []
    assert found["clipped"] == []
    tables = {"score-table", "shots-table", "quality-table", "cost-table", "overlap-table"}
    assert tables <= set(found["tables"])
    assert found["rows"] == 1 + 4  # the average and the tasks
    assert len(found["charts"]) == 7
    assert found["smallest"] >= 11


def test_the_browser_asks_for_nothing_and_runs_nothing(page):
    found = measure(page, 800)
    assert found["scripts"] == 0
    assert found["resources"] == []


def test_light_and_dark_follow_the_reader(page):
    light = measure(page, 700)["background"]
    dark = measure(page, 701, "--blink-settings=preferredColorScheme=0")["background"]
    assert light == "rgb(251, 251, 250)"
    assert dark == "rgb(20, 22, 26)"
