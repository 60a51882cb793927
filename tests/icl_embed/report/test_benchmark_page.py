"""The benchmark page: what it says, that it is certain only where it may be, and that no text becomes markup."""

import re
from itertools import pairwise

import pytest

from icl_embed.errors import EvaluationError
from icl_embed.experiments.curves import read_scored
from icl_embed.few_shot.settings import AskedSetting
from icl_embed.report.benchmark import benchmark_table, build_benchmark_page
from icl_embed.report.charts import Bar, CurvePoint, Series, bar_chart, curve_chart
from tests.icl_embed.experiments.score_folders import score_folder
from tests.icl_embed.report.benchmark_folders import HOSTILE, HOW, TASKS, make_benchmark


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return make_benchmark(tmp_path_factory.mktemp("benchmark"))


@pytest.fixture(scope="module")
def page(folders, tmp_path_factory):
    path = build_benchmark_page(*folders, tmp_path_factory.mktemp("page"), HOW)
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def table(folders):
    return benchmark_table(read_scored(folders[0]), HOW)


def test_five_shots_stand_beside_zero_shot_and_the_average_comes_first(table):
    assert table.columns == ("zero-shot", "5-shot")
    assert table.lines[0].label == "Average of 4 tasks"
    assert {line.label for line in table.lines[1:]} == {name for name, *_ in TASKS}


def test_a_gain_is_coloured_only_if_the_corrected_test_is_certain(table):
    by_name = {line.label: line for line in table.lines}
    assert by_name["SciFact"].gain.style == "up"
    assert by_name["CosQA"].gain.style == "even"
    for line in table.lines:
        assert line.gain.style == "even" or line.gain.p_value < 0.05


def test_all_sections_are_there_and_only_when_there_is_something_to_say(page, folders, tmp_path):
    sections = re.findall(r'<section id="(\w+)">', page)
    assert sections == ["scores", "shots", "quality", "cost", "overlap", "reading"]
    alone = build_benchmark_page(folders[0][:1], [], tmp_path, HOW).read_text(encoding="utf-8")
    assert re.findall(r'<section id="(\w+)">', alone) == ["scores", "reading"]


def test_no_text_of_the_data_becomes_markup(page):
    assert "<script" not in page
    assert "<b>pay" not in page
    assert page.count("&lt;script&gt;") > 5
    assert HOSTILE not in page


def test_nothing_is_loaded_from_elsewhere(page):
    assert "default-src 'none'" in page
    assert not re.search(r'(src|href)="(?!#|data:)', page)


def test_every_chart_has_a_name_for_those_who_cannot_see_it(page):
    charts = re.findall(r'<svg viewBox="[^"]*" role="img" aria-label="([^"]+)"', page)
    assert len(charts) == 2 + 2 + 5  # shots and quality at two widths, five small ones
    assert len(set(charts)) == 7


def test_the_headlines_sum_up_gain_noise_cost_and_overlap(page):
    tiles = re.findall(r'<div class="tile"><b>(.*?)</b><span>(.*?)</span>', page)
    assert [meaning for _, meaning in tiles] == [
        "5-shot over zero-shot",
        "every example wrong, against clean ones",
        "time of 10-shot over zero-shot",
        "of evaluated texts seen in training, at most",
    ]
    assert tiles[3][0].startswith("10.3")  # 31 of 300


def test_two_models_are_refused(folders, tmp_path):
    other = score_folder(tmp_path, "SciFact", AskedSetting(0), 0.5, model="other")
    with pytest.raises(EvaluationError, match="about one model"):
        build_benchmark_page([*folders[0], other], folders[1], tmp_path, HOW)
    with pytest.raises(EvaluationError, match="found none"):
        build_benchmark_page([], [], tmp_path, HOW)


def test_names_at_the_ends_of_lines_never_cover_each_other_or_leave_the_chart():
    lines = [
        Series(f"task {n}", "s2", (CurvePoint(0, 0, 0, 0), CurvePoint(5, 0.1 * n, 0, 1)), n == 0)
        for n in range(9)
    ]
    drawn = str(curve_chart(lines, title="t", labels=("x", "y"), width=760))
    height = int(re.search(r'viewBox="0 0 760 (\d+)"', drawn)[1])
    ys = sorted(float(y) for y in re.findall(r'<text class="(?:row|axis)" x="602" y="([\d.]+)"', drawn))
    assert len(ys) == 9
    assert all(later - earlier >= 13.9 for earlier, later in pairwise(ys))
    assert ys[0] > 0
    assert ys[-1] < height


def test_bars_leave_zero_to_both_sides_and_say_their_interval():
    bars = [Bar("up & away", "", "up", 4.0, 3.0, 5.0), Bar("down", "", "down", -4.0, -5.0, -3.0)]
    drawn = str(bar_chart(bars, title="t", width=350))
    zero = float(re.search(r'class="zero" x1="([\d.]+)"', drawn)[1])
    (first, width), (second, _) = re.findall(r'class="bar" x="([\d.]+)" y="[\d.]+" width="([\d.]+)"', drawn)
    assert float(first) == pytest.approx(zero, abs=0.11)
    assert float(second) + float(width) == pytest.approx(zero, abs=0.11)
    assert "<title>up &amp; away: +4.0 (+3.0 to +5.0)</title>" in drawn
