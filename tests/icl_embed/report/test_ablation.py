"""The table over variants: what it averages, and which way its difference points."""

import pytest

from icl_embed.evaluate.measurement import Bootstrap
from icl_embed.evaluate.scores import read_measurements, read_scores
from icl_embed.report.ablation import VariantResult, ablation_table
from tests.icl_embed.report.run_folders import DATASETS, scores_writer, write_metrics


@pytest.fixture
def variant(tmp_path):
    """The trained model's scores on every data set of a realistic run."""
    embedder = tmp_path / "embedder"
    embedder.mkdir()
    write_metrics(embedder)
    folders = []
    for row in DATASETS:
        folders.append(tmp_path / row[0])
        folders[-1].mkdir()
        scores_writer(row, "trained")(folders[-1])
    return VariantResult("pooling=last", embedder, folders)


def first_number(cell):
    return float(cell.split()[0].replace("−", "-"))


def test_a_gain_is_few_shot_minus_zero_shot_over_unseen_sets_that_have_both(variant):
    [line] = ablation_table([variant], Bootstrap(200, 0.95, 13)).splitlines()[2:]
    label, losses, zero, few, gain = line.strip("| ").split(" | ")
    assert (label, "→" in losses) == ("pooling=last", True)
    measured = [
        read_measurements(folder, scores)
        for folder in variant.evaluations
        if not (scores := read_scores(folder)).trained_on and scores.dataset != "trivia-facts"
    ]
    expected = {
        setting: 100 * sum(one[setting].point for one in measured) / len(measured)
        for setting in ("zero-shot", "few-shot")
    }
    assert first_number(zero) == pytest.approx(expected["zero-shot"], abs=0.051)
    assert first_number(few) == pytest.approx(expected["few-shot"], abs=0.051)
    assert first_number(gain) == pytest.approx(expected["few-shot"] - expected["zero-shot"], abs=0.051)
    assert first_number(gain) > 1
