"""A real browser without a window: pages of ours, and how much of them fits."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium binary found (apt-get install chromium)"
)
QUIET = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
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


def dom_of(address: str, profile: Path, *flags: str, patience_ms: int = 5000) -> str:
    """The page's elements once its scripts have run."""
    argv = [str(CHROMIUM), *QUIET, *flags, f"--user-data-dir={profile}", "--window-size=1400,1000"]
    argv += [f"--virtual-time-budget={patience_ms}", "--dump-dom", address]
    return subprocess.run(argv, capture_output=True, text=True, timeout=120, check=True).stdout


def measure(page: Path, width: int, *flags: str) -> dict[str, Any]:
    """What a browser finds in a page of ours at a window width."""
    probe = page.parent / f"probe-{width}.html"
    frame = f'<iframe src="{page.name}" style="width:{width}px;height:900px;border:0"></iframe>'
    probe.write_text(f"<!doctype html><body>{frame}<pre id=answer></pre>{MEASURE}", encoding="utf-8")
    flags = ("--hide-scrollbars", "--allow-file-access-from-files", *flags)
    dom = dom_of(probe.as_uri(), page.parent / f"profile-{width}", *flags)
    [answer] = re.findall(r'<pre id="answer">(.*?)</pre>', dom, re.DOTALL)
    found: dict[str, Any] = json.loads(answer.replace("&gt;", ">").replace("&lt;", "<").replace("&amp;", "&"))
    return found
