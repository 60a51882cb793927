"""Curves: means over seeds and tasks, differences with correction, and what may not be mixed."""

import numpy as np
import pytest

from icl_embed.errors import EvaluationError
from icl_embed.evaluation.measurement import Bootstrap
from icl_embed.evaluation.significance import Randomisation
from icl_embed.experiments.curves import Statistics, quality_rows, read_scored, shot_rows
from icl_embed.experiments.record import Study, read_study, write_study
from icl_embed.few_shot.settings import AskedSetting
from tests.icl_embed.experiments.score_folders import score_folder

HOW = Statistics(Bootstrap(300), Randomisation(300))
GAIN = {0: 0.0, 1: 0.02, 5: 0.10}


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    home = tmp_path_factory.mktemp("scores")
    folders = []
    for task, level in (("first", 0.4), ("second", 0.6)):
        for shots, gain in GAIN.items():
            for seed in (0, 1) if shots else (0,):
                asked = AskedSetting(shots, "random", seed) if shots else AskedSetting(0)
                folders.append(score_folder(home, task, asked, level + gain + 0.01 * seed))
        for quality, loss in (("shuffled", 0.01), ("label-noise-100", 0.2)):
            asked = AskedSetting(5, "random", 0, quality)
            folders.append(score_folder(home, task, asked, level + 0.1 - loss))
    return read_scored(folders)


def pick(rows, **wanted):
    [row] = [row for row in rows if all(row[name] == value for name, value in wanted.items())]
    return row


def test_a_shot_count_is_the_mean_of_its_seeds_and_says_how_far_they_lie_apart(scored):
    rows = shot_rows(scored, HOW)
    row = pick(rows, task="first", shots=5)
    assert row["mean"] == pytest.approx(0.505)
    assert (row["seeds"], row["seed_low"], row["seed_high"]) == (2, pytest.approx(0.5), pytest.approx(0.51))
    assert row["low"] < row["mean"] < row["high"]
    assert row["over_zero"] == pytest.approx(0.105)
    assert row["query_tokens"] == 220
    assert row["examples_shown"] == 5
    assert pick(rows, task="first", shots=0)["over_zero"] is None


def test_the_average_over_tasks_follows_the_tasks(scored):
    rows = shot_rows(scored, HOW)
    row = pick(rows, is_average=True, shots=5)
    assert row["task"] == "average of 2 tasks"
    assert row["mean"] == pytest.approx(np.mean([0.505, 0.705]))
    assert row["over_zero"] == pytest.approx(0.105)


def test_a_large_gain_is_significant_after_correction_and_correction_never_helps(scored):
    rows = [row for row in shot_rows(scored, HOW) if row["over_zero_p"] is not None]
    assert all(row["over_zero_holm"] >= row["over_zero_p"] for row in rows)
    assert pick(rows, task="first", shots=5)["over_zero_holm"] < 0.05
    assert len([row for row in rows if not row["is_average"]]) == 4


def test_qualities_are_compared_with_zero_shot_and_with_clean_examples(scored):
    five = [one for one in scored if one.asked.shots in (0, 5) and one.asked.seed == 0]
    rows = quality_rows(five, HOW)
    assert [row["quality"] for row in rows if row["task"] == "first"] == [
        "zero-shot",
        "clean",
        "label-noise-100",
        "shuffled",
    ]
    noise = pick(rows, task="first", quality="label-noise-100")
    assert noise["over_clean"] == pytest.approx(-0.2)
    assert noise["over_zero"] == pytest.approx(-0.1)
    assert noise["over_clean_holm"] < 0.05
    assert pick(rows, task="first", quality="clean")["over_clean"] is None


def test_what_cannot_be_one_study_is_refused(scored, tmp_path):
    with pytest.raises(EvaluationError, match="no zero-shot score"):
        shot_rows([one for one in scored if one.asked.shots], HOW)
    with pytest.raises(EvaluationError, match="several ways"):
        quality_rows(scored, HOW)
    with pytest.raises(EvaluationError, match="clean"):
        quality_rows([one for one in scored if one.asked.quality == "shuffled"], HOW)
    other = read_scored([score_folder(tmp_path, "first", AskedSetting(0), 0.5, model="other")])
    with pytest.raises(EvaluationError, match="found scores of 2"):
        shot_rows([*scored, *other], HOW)
    changed = read_scored([score_folder(tmp_path, "first", AskedSetting(3), 0.5, data_fingerprint="new")])
    with pytest.raises(EvaluationError, match="different versions"):
        shot_rows([*scored, *changed], HOW)


def test_equal_runs_have_a_difference_of_zero_and_nothing_to_detect(tmp_path):
    folders = [score_folder(tmp_path, "task", AskedSetting(0), 0.5)]
    [zero] = read_scored(folders)
    same = [zero, type(zero)(zero.scores, AskedSetting(1), zero.measurement, zero.folder)]
    row = pick(shot_rows(same, HOW), shots=1)
    assert (row["over_zero"], row["over_zero_p"], row["over_zero_mde"]) == (0.0, 1.0, None)


def test_rank_statistics_are_averaged_over_seeds_too(tmp_path):
    asked = [AskedSetting(0), AskedSetting(2), AskedSetting(2, "random", 1)]
    folders = [
        score_folder(tmp_path, "pairs", one, 0.6 + 0.1 * bool(one.shots), aggregation="spearman", kind="sts")
        for one in asked
    ]
    scored = read_scored(folders)
    row = pick(shot_rows(scored, HOW), shots=2)
    assert row["mean"] == pytest.approx(np.mean([one.measurement.point for one in scored[1:]]))


def test_a_study_survives_its_files_and_a_strange_file_is_refused(scored, tmp_path):
    import pyarrow.parquet as pq

    rows = tuple(shot_rows(scored, HOW))
    study = Study("shots", "m", "print", rows, {"seeds": [0, 1]})
    assert write_study(tmp_path, study) == {"study": "shots", "rows": 9}
    assert read_study(tmp_path) == study
    assert pq.read_table(tmp_path / "study.parquet").to_pylist()[0]["task"] == "first"
    with pytest.raises(EvaluationError, match="no rows"):
        write_study(tmp_path, Study("shots", "m", "print", ()))
    (tmp_path / "study.json").write_text('{"name": "tea", "model": "", "model_fingerprint": "", "rows": []}')
    with pytest.raises(EvaluationError, match="unknown study 'tea'"):
        read_study(tmp_path)
