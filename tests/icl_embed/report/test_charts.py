"""Charts: round ticks, marks where the values are, and nothing that breaks out of a label."""

import re
import xml.etree.ElementTree as ElementTree
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icl_embed.report.charts import (
    Axis,
    CostPoint,
    IntervalRow,
    Mark,
    cost_chart,
    interval_chart,
    line_chart,
    ticks,
)

finite = st.floats(-1e6, 1e6, allow_nan=False)


@given(first=finite, second=finite)
def test_ticks_are_few_even_and_cover_the_range(first, second):
    low, high = sorted((first, second))
    found = ticks(low, high)
    slack = 1e-6 * max(1.0, high - low)
    assert found[0] <= low + slack
    assert found[-1] >= high - slack
    assert 1 <= len(found) <= 8
    steps = [b - a for a, b in pairwise(found)]
    assert max(steps, default=1) == pytest.approx(min(steps, default=1), rel=1e-3, abs=1e-8)


@pytest.mark.parametrize(("low", "high"), [(0.0, 5e-324), (0.0, 0.0), (1e6, 1e6), (-3.0, -3.0 + 1e-15)])
def test_a_range_of_one_value_has_ticks(low, high):
    assert 1 <= len(ticks(low, high)) <= 8


def test_an_axis_without_extent_does_not_divide_by_zero():
    assert Axis(3, 3, 10, 90)(3) == 10


@pytest.mark.parametrize("width", [350, 760])
def test_every_chart_is_well_formed_and_inside_its_box(width):
    rows = [IntervalRow('<b>"&', "x", (Mark("bm25", "<i>", 50, 40, 60), Mark("base-zero", "b", -5, -9, 2)))]
    points = [CostPoint("a<b", 10.0, 50, 48, 52, "c", True), CostPoint("b", 20.0, 55, 53, 57, "c", False)]
    curve = [(float(step), 3.0 / step) for step in range(1, 30)]
    for chart in (
        interval_chart(rows, title="t&t", width=width),
        cost_chart(points, title="t", labels=("x<", "y"), width=width),
        line_chart(curve, curve, title="t", labels=("x", "y"), width=width),
    ):
        root = ElementTree.fromstring(str(chart))
        height = float(root.get("viewBox").split()[3])
        for circle in root.iter("circle"):
            assert 0 <= float(circle.get("cx")) <= width
            assert 0 <= float(circle.get("cy")) <= height


def test_a_mark_sits_where_its_value_is():
    rows = [
        IntervalRow(
            "r", "", (Mark("a", "a", 0, 0, 0), Mark("b", "b", 50, 40, 60), Mark("c", "c", 100, 100, 100))
        )
    ]
    chart = str(interval_chart(rows, title="t", width=760))
    left, middle, right = (float(x) for x in re.findall(r'class="mark" cx="([\d.]+)"', chart))
    assert middle == pytest.approx((left + right) / 2, abs=0.1)


def test_one_point_makes_a_chart():
    assert "circle" in line_chart([(1.0, 2.0)], [(1.0, 2.0)], title="t", labels=("x", "y"), width=350)


@pytest.mark.parametrize("width", [350, 760])
def test_a_long_name_is_cut_and_kept_whole_in_its_tooltip(width):
    name = "a-very-long-data-set-name-" * 4
    chart = str(
        interval_chart([IntervalRow(name, "nDCG@10", (Mark("a", "a", 1, 0, 2),))], title="t", width=width)
    )
    assert f"<title>{name}</title>" in chart
    assert f"{name[:20]}" in chart
    assert chart.count(name) == 1
    assert "\N{HORIZONTAL ELLIPSIS}" in chart
