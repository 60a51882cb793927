"""Training that teaches nothing: refused or told before the model is loaded, and told while it runs."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from icl_embed.config import TrainConfig
from icl_embed.errors import TrainingError
from icl_embed.pipeline.stages.training_jobs import summarise
from icl_embed.train.embedder.batches import refuse_nothing_to_learn
from icl_embed.train.learning import CHANCE_STEPS, IDLE_STEPS, LearningWatch
from icl_embed.train.rows import Row, TrainingSet
from tests.icl_embed.train.gradients import ALONE, make_objective
from tests.made_rows import made_set
from tests.training_jobs import make_job, run_job, write_rows

CONFIG = TrainConfig()


def row(query: str, positive: str, *negatives: str, label: str = "") -> Row:
    return Row(query, positive, positive, label, negatives)


def labelled(*labels: str) -> TrainingSet:
    rows = [row(f"text {number}", label, label=label) for number, label in enumerate(labels)]
    return made_set("mail", "classification", "sort", 1.0, rows)


def pairs(*rows: Row) -> TrainingSet:
    return made_set("facts", "retrieval", "find", 1.0, rows)


def test_one_label_alone_is_refused_and_named() -> None:
    with pytest.raises(TrainingError, match=r"nothing can be learned.*mail \(all have the label 'spam'\)"):
        refuse_nothing_to_learn([labelled(*["spam"] * 60)], CONFIG)


def test_one_label_beside_other_data_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    refuse_nothing_to_learn([labelled(*["spam"] * 60), labelled("a", "b")], CONFIG)
    assert (
        "60 of 60 rows of mail can have no negative and teach nothing (all have the label 'spam')"
        in caplog.text
    )


def test_a_label_that_nearly_all_rows_have_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    refuse_nothing_to_learn([labelled(*["0"] * 299, "7")], CONFIG)
    assert "299 of 300 rows of mail have the label '0'" in caplog.text
    caplog.clear()
    refuse_nothing_to_learn([labelled(*["0", "7"] * 150)], CONFIG)
    assert not caplog.text


def test_the_same_positive_everywhere_teaches_only_where_there_are_hard_negatives(
    caplog: pytest.LogCaptureFixture,
) -> None:
    same = [row(f"query {number}", "yes") for number in range(20)]
    with pytest.raises(TrainingError, match="nothing can be learned: no row of facts can have a negative"):
        refuse_nothing_to_learn([pairs(*same)], CONFIG)
    blank = [row("a", "yes", " "), row("b", "yes", "yes")]  # neither is a negative
    refuse_nothing_to_learn([pairs(*same, *blank, row("c", "yes", "no"))], CONFIG)
    assert "22 of 23 rows of facts" in caplog.text
    caplog.clear()
    refuse_nothing_to_learn([pairs(*same, row("c", "no"))], CONFIG)
    assert not caplog.text
    alone = TrainConfig.model_validate({"kinds": {"retrieval": {"in_batch_negatives": False}}})
    with pytest.raises(TrainingError, match="nothing can be learned"):
        refuse_nothing_to_learn([pairs(*same, row("c", "no"))], alone)


def line(step: int, loss: float, **more: float) -> dict[str, float]:
    return {"step": step, "loss": loss, "grad_norm": loss, "seconds": 1.0, **more}


def test_steps_without_loss_are_told_once_with_the_share_of_queries_without_negative(
    caplog: pytest.LogCaptureFixture,
) -> None:
    watch = LearningWatch()
    for step in range(1, IDLE_STEPS):
        watch.see(line(step, 0.0))
    watch.see(line(IDLE_STEPS, 0.3))
    assert not caplog.text, "one step that teaches begins the count again"
    for step in range(11, 11 + 2 * IDLE_STEPS):
        watch.see(line(step, 1e-6, without_negative_per_query=0.75))
    assert caplog.text.count("nothing was learned in steps 11 to 20") == 1
    assert "75% of the queries had no negative" in caplog.text
    assert len(caplog.records) == 1


def test_a_loss_that_stays_at_chance_is_told(caplog: pytest.LogCaptureFixture) -> None:
    watch = LearningWatch()
    for step in range(CHANCE_STEPS):
        watch.see(line(step, 4.0 + step, chance_loss_per_query=4.158))
    assert not caplog.text
    for step in range(CHANCE_STEPS):
        watch.see(line(step, 4.16, chance_loss_per_query=4.158))
    assert "the loss has been that of guessing (4.1600)" in caplog.text


def test_the_objective_counts_queries_without_negative(tiny_model: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / "train.parquet")
    objective = make_objective(make_job(tmp_path, tiny_model, tmp_path / "train.parquet"))
    _, sums = objective.loss(0, ALONE)
    assert sums["without_negative"] == 0 and sums["chance_loss"] > 0


def test_the_figures_of_a_run_count_what_taught_nothing() -> None:
    lines = [line(1, 0.5, without_negative_per_query=0.5), line(2, 0.0, without_negative_per_query=1.0)]
    counts = summarise(lines)
    assert counts["idle_steps"] == 1
    assert counts["queries_without_negative"] == 0.75


def test_a_job_of_one_label_ends_before_its_model_is_loaded(tmp_path: Path) -> None:
    """The model's folder does not even exist."""
    rows = write_rows(tmp_path / "train.parquet")
    table = pq.read_table(rows).to_pylist()
    one = [{**each, "label": "red", "positive": "red", "negatives": []} for each in table if each["label"]]
    pq.write_table(pa.Table.from_pylist(one), rows)
    with pytest.raises(TrainingError, match="nothing can be learned"):
        run_job(make_job(tmp_path, tmp_path / "nowhere", rows), tmp_path)
