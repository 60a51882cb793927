"""The report in a real browser: what the DOM holds, and that it fits a phone."""

import json
import re
import shutil
import subprocess

import pytest

from icl_embed.report.page import build_report
from tests.icl_embed.report.run_folders import make_run

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium binary found (apt-get install chromium)"
)

QUIET = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars --allow-file-access-from-files"
).split()

# Runs in the page's frame once it is laid out; the answer is left in the outer document for --dump-dom.
MEASURE = """
<script>
addEventListener("load", () => {
  const frame = document.querySelector("iframe"), page = frame.contentDocument;
  const shown = e => e.getClientRects().length > 0;
  const all = name => [...page.querySelectorAll(name)];
  const wide = all("main *").filter(e => shown(e) && !e.closest(".scroll, svg") &&
    e.getBoundingClientRect().right > frame.clientWidth + 0.5);
  document.querySelector("#answer").textContent = JSON.stringify({
    width: frame.clientWidth,
    content: page.documentElement.scrollWidth,
    overflowing: wide.map(e => e.tagName + "." + e.className),
    tables: all("table").filter(shown).map(e => e.id),
    rows: all("#score-table tbody tr").length,
    charts: all("figure svg[role=img]").filter(shown).map(e => e.getAttribute("aria-label")),
    marks: all("#chart-scores .mark").filter(shown).length,
    clipped: all("figure svg[role=img] text").filter(shown).filter(e => {
      const box = e.getBoundingClientRect(), home = e.closest("svg").getBoundingClientRect();
      return box.left < home.left - 1 || box.right > home.right + 1 || box.bottom > home.bottom + 1;
    }).map(e => e.textContent),
    scripts: all("script").length,
    resources: frame.contentWindow.performance.getEntriesByType("resource").map(e => e.name),
    background: frame.contentWindow.getComputedStyle(page.body).backgroundColor,
    smallest: Math.min(...all("main td, main th, main p, main li").filter(shown)
      .map(e => parseFloat(frame.contentWindow.getComputedStyle(e).fontSize))),
  });
});
</script>
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    home = tmp_path_factory.mktemp("ui")
    build_report(make_run(home), home / "report")
    return home / "report" / "index.html"


def measure(page, width, *flags):
    """What a browser finds in the report at a window width."""
    probe = page.parent / f"probe-{width}.html"
    frame = f'<iframe src="{page.name}" style="width:{width}px;height:900px;border:0"></iframe>'
    probe.write_text(f"<!doctype html><body>{frame}<pre id=answer></pre>{MEASURE}", encoding="utf-8")
    argv = [CHROMIUM, *QUIET, *flags, f"--user-data-dir={page.parent / f'profile-{width}'}"]
    argv += ["--window-size=1400,1000", "--virtual-time-budget=5000", "--dump-dom", probe.as_uri()]
    dom = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=True).stdout
    answer = re.search(r'<pre id="answer">(.*?)</pre>', dom, re.DOTALL)[1]
    return json.loads(answer.replace("&gt;", ">").replace("&lt;", "<").replace("&amp;", "&"))


@pytest.mark.parametrize("width", [390, 1200])
def test_tables_and_charts_are_on_the_page_and_nothing_overflows(page, width):
    found = measure(page, width)
    assert found["width"] == width
    assert found["content"] <= width
    assert found["overflowing"] == []
    assert found["clipped"] == []
    tables = {"score-table", "cost-table", "reranker-table", "data-table", "config-table", "lineage-table"}
    assert tables <= set(found["tables"])
    assert found["rows"] == 2 + 9 + 6  # averages, data sets, kinds
    assert len(found["charts"]) == 5
    assert found["marks"] > 40
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
