"""The table over variants: what it averages, and which way its difference points."""

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
