"""The table over variants: what it averages, and which way its difference points."""

from dataclasses import replace

import pytest

from icl_embed.evaluation.measurement import Bootstrap
from icl_embed.evaluation.scores import read_measurements, read_scores
from icl_embed.report.variants import VariantResult, ablation_table
from tests.icl_embed.report.run_folders import DATASETS, FEW_SHOT, PLACES, scores_writer, write_metrics


def variant_of(home, system):
    """A system's scores on every data set of a realistic run."""
    embedder = home / "embedder"
    embedder.mkdir(parents=True)
    write_metrics(embedder)
    folders = []
    for row in DATASETS:
        for setting, _ in PLACES[system]:
            folders.append(home / f"{row[0]} {setting}")
            folders[-1].mkdir()
            scores_writer(row, system, only=setting)(folders[-1])
    return VariantResult(f"system={system}", embedder, folders)


def first_number(cell):
    return float(cell.split()[0].replace("−", "-"))


def expected_of(variant):
    """Averages in percent over the sets that no variant saw and that have both settings."""
    found = {"zero-shot": [], FEW_SHOT: []}
    trained = {row[0] for row in DATASETS if row[4]}
    for folder in variant.scores:
        scores = read_scores(folder)
        if scores.card not in trained and scores.card != "trivia-facts":
            for name, measured in read_measurements(folder, scores).items():
                found[name].append(100 * measured.point)
    return [sum(points) / len(points) for points in found.values()]


def test_differences_point_from_without_to_with_examples_and_from_the_first_variant(tmp_path):
    variants = [variant_of(tmp_path / system, system) for system in ("base", "trained")]
    rows = ablation_table(variants, Bootstrap(200, 0.95, 13)).splitlines()[2:]
    cells = [row.strip("| ").split(" | ") for row in rows]
    assert [row[0] for row in cells] == ["system=base", "system=trained"]
    for variant, row in zip(variants, cells, strict=True):
        zero, few = expected_of(variant)
        assert "→" in row[1]
        assert [first_number(cell) for cell in row[2:5]] == pytest.approx([zero, few, few - zero], abs=0.051)
    assert cells[0][5] == "–"
    by_training = expected_of(variants[1])[1] - expected_of(variants[0])[1]
    assert first_number(cells[1][5]) == pytest.approx(by_training, abs=0.051)
    assert by_training > 1


def test_seeds_of_one_variant_are_one_row_with_their_spread_in_the_interval(tmp_path):
    (tmp_path / "a").mkdir()
    base, trained = variant_of(tmp_path / "a" / "base", "base"), variant_of(tmp_path / "trained", "trained")
    how = Bootstrap(200, 0.95, 13)
    both = [replace(one, label="pooling=mean") for one in (base, trained)]
    (row,) = ablation_table(both, how).splitlines()[2:]
    cells = row.strip("| ").split(" | ")
    assert cells[0] == "pooling=mean, 2 seeds"
    mean = [sum(pair) / 2 for pair in zip(expected_of(base), expected_of(trained), strict=True)]
    assert [first_number(cell) for cell in cells[2:4]] == pytest.approx(mean, abs=0.051)
    low, high = (float(part) for part in cells[3].partition("(")[2].rstrip(")").split("–"))
    few = sorted(expected_of(one)[1] for one in (base, trained))
    assert high - low > few[1] - few[0]  # wider than what lies between the two
