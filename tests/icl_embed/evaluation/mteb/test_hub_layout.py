"""Data as the hub has it, and that our path scores what mteb scores by its own."""

import math

import mteb
import pytest

from icl_embed.errors import DataError, EvaluationError, MissingTaskError
from icl_embed.evaluation.mteb.opening import open_mteb_task
from icl_embed.evaluation.mteb.run import encoder_for_mteb
from icl_embed.model.cached_encoding import CachingEncoder, Setting
from tests.bench.hub_layout import read_rows, write_hub_copy
from tests.icl_embed.evaluation.mteb import mirrors
from tests.icl_embed.evaluation.mteb.mirrors import SIZE, TASKS, write_set
from tests.icl_embed.evaluation.mteb.test_open import run

KINDS = ("retrieval", "classification", "sts")  # whose rows the hub has under the same names


def official(name):
    return mteb.get_task(name).metadata.dataset


def hub_copy(tmp_path, kind, *, revision=None, task=None, subset="", **more):
    """The same set twice: in our format below ``ours``, as a hub cache below ``hub``."""
    name = task or TASKS[kind]
    remark = f" (subset {subset})" if subset else ""
    folder = write_set(tmp_path / "ours", kind, task=name + remark, **more)
    source = official(name)
    revision = revision or source["revision"]
    return write_hub_copy(folder, tmp_path / "hub", source["path"], revision, subset=subset)


def scored_by_mteb(folder, name, encoder, subset="default", split="test"):
    """Mteb's own loader, class and evaluation; only the path is another."""
    task = mteb.get_task(name, hf_subsets=[subset], eval_splits=[split])
    task.metadata = task.metadata.model_copy(update={"dataset": {"path": str(folder), "revision": "x"}})
    setting = Setting("zero-shot", "")
    model = encoder_for_mteb(CachingEncoder(encoder), setting, model_name="m", model_fingerprint="f")
    outcome = mteb.evaluate(model, task, cache=None, co2_tracker=False, show_progress_bar=False)
    return outcome.task_results[0].scores[split][0]


@pytest.mark.parametrize("kind", KINDS)
def test_both_layouts_give_the_same_data_and_mtebs_own_score(kind, tmp_path, encoder):
    folder = hub_copy(tmp_path, kind)
    ours = open_mteb_task(TASKS[kind], mirror=tmp_path / "ours")
    hub = open_mteb_task(TASKS[kind], mirror=tmp_path / "hub")
    theirs = scored_by_mteb(folder, TASKS[kind], encoder)
    assert ours.facts.data_fingerprint == hub.facts.data_fingerprint
    for task in (ours, hub):
        outcome = run(task, encoder)
        assert outcome.main_score == theirs["main_score"]
        scores = outcome.result["scores"]["test"][0]
        for name, value in theirs.items():
            if isinstance(value, float) and not math.isnan(value):  # mteb has no abstention score here
                assert scores[name] == pytest.approx(value), name
    assert hub.facts.served_from == "mirror (hub snapshot of the official revision)"
    assert outcome.result["dataset_revision"] == official(TASKS[kind])["revision"]


def test_a_subset_of_a_retrieval_task_is_read_by_its_configs(tmp_path, encoder):
    folder = hub_copy(tmp_path, "retrieval", task="XQuADRetrieval", subset="en", splits=("train",))
    task = open_mteb_task("XQuADRetrieval", mirror=tmp_path / "hub", split="train")
    assert task.facts.subset == "en"
    theirs = scored_by_mteb(folder, "XQuADRetrieval", encoder, "en", "train")
    assert run(task, encoder).main_score == theirs["main_score"]


def test_examples_of_the_hubs_layout_come_from_the_training_judgements(tmp_path):
    hub_copy(tmp_path, "retrieval")
    task = open_mteb_task("SciFact", mirror=tmp_path / "hub")
    shown = task.training_examples()
    assert shown == open_mteb_task("SciFact", mirror=tmp_path / "ours").training_examples()
    assert len(shown) == SIZE


def test_without_training_judgements_the_test_split_is_never_taken_for_them(tmp_path):
    # mteb's loader answers a split that is not there with the only one that is.
    hub_copy(tmp_path, "retrieval", splits=("test",))
    assert open_mteb_task("SciFact", mirror=tmp_path / "hub").training_examples() == ()


@pytest.mark.parametrize("kind", ["retrieval", "sts"])
def test_a_wrong_split_is_refused_and_never_scored_on_the_only_one(kind, tmp_path):
    hub_copy(tmp_path, kind, splits=("test",))
    with pytest.raises(EvaluationError, match="no split 'validation' where its data are; found test"):
        open_mteb_task(TASKS[kind], mirror=tmp_path / "hub", split="validation")


def test_queries_of_other_splits_are_left_out_and_counted_nowhere(tmp_path):
    hub_copy(tmp_path, "retrieval")
    task = open_mteb_task("SciFact", mirror=tmp_path / "hub")
    assert len(task.query_texts()) == SIZE
    assert task.content.notes == {}


def test_another_revision_is_named(tmp_path, encoder):
    hub_copy(tmp_path, "sts", revision="0123456789abcdef")
    task = open_mteb_task("STSBenchmark", mirror=tmp_path / "hub")
    assert task.facts.served_from == "mirror (hub snapshot 0123456789ab)"
    assert run(task, encoder).result["dataset_revision"] == "0123456789abcdef"


def test_of_several_snapshots_the_asked_revision_is_taken_or_none(tmp_path):
    hub_copy(tmp_path, "sts", revision="one")
    home = tmp_path / "hub" / "datasets--mteb--stsbenchmark-sts"
    (home / "snapshots" / "two").mkdir()
    with pytest.raises(DataError, match="holds 2 snapshots, none of them the revision"):
        open_mteb_task("STSBenchmark", mirror=tmp_path / "hub")
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("one\n")
    assert open_mteb_task("STSBenchmark", mirror=tmp_path / "hub").facts.split == "test"


@pytest.mark.parametrize("place", ["mteb/stsbenchmark-sts", "stsbenchmark-sts"])
def test_a_plain_folder_named_like_the_data_set_is_found(place, tmp_path, encoder):
    snapshot = hub_copy(tmp_path, "sts")
    plain = tmp_path / "plain" / place
    plain.parent.mkdir(parents=True)
    snapshot.rename(plain)
    task = open_mteb_task("STSBenchmark", mirror=tmp_path / "plain")
    assert task.facts.served_from == "mirror (hub layout)"
    assert run(task, encoder).result["dataset_revision"] == f"local-{task.facts.data_fingerprint}"


def test_a_link_that_leaves_the_mirror_is_refused(tmp_path):
    folder = hub_copy(tmp_path, "sts")
    outside = tmp_path / "outside.parquet"
    (folder / "test.parquet").rename(outside)
    (folder / "test.parquet").symlink_to(outside)
    with pytest.raises(DataError, match="is a link that leaves the mirror"):
        open_mteb_task("STSBenchmark", mirror=tmp_path / "hub")


def test_links_to_blobs_as_a_hub_cache_has_them_are_followed(tmp_path):
    folder = hub_copy(tmp_path, "sts")
    blobs = folder.parents[1] / "blobs"
    blobs.mkdir()
    (folder / "test.parquet").rename(blobs / "0a1b")
    (folder / "test.parquet").symlink_to("../../blobs/0a1b")
    assert len(open_mteb_task("STSBenchmark", mirror=tmp_path / "hub").query_texts()) == 2 * SIZE


def test_a_folder_that_mteb_cannot_load_is_told(tmp_path):
    folder = hub_copy(tmp_path, "retrieval")
    (folder / "corpus.parquet").unlink()
    with pytest.raises(EvaluationError, match="mteb cannot load") as caught:
        open_mteb_task("SciFact", mirror=tmp_path / "hub")
    assert not isinstance(caught.value, MissingTaskError)


def test_duplicate_identities_are_refused_in_this_layout_too(tmp_path):
    folder = hub_copy(tmp_path, "retrieval")
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(folder / "corpus.parquet")
    pq.write_table(pa.concat_tables([table, table.slice(0, 1)]), folder / "corpus.parquet")
    with pytest.raises(DataError, match="corpus: the identity 'p1000' appears twice"):
        open_mteb_task("SciFact", mirror=tmp_path / "hub")


@pytest.mark.parametrize("name", ["TwentyNewsgroupsClustering", "TwentyNewsgroupsClustering.v2"])
def test_clustering_draws_the_sets_that_mteb_draws(name, tmp_path, encoder, monkeypatch):
    import pyarrow as pa
    import pyarrow.parquet as pq

    monkeypatch.setattr(mirrors, "SIZE", 240)  # the newer task looks at 4 % of its texts
    ours = write_set(tmp_path / "ours", "clustering", task=name, zipped=False)
    source = official(name)
    rows = read_rows(ours / "test.jsonl")
    nested = {"sentences": [[row["text"] for row in rows]], "labels": [[row["label"] for row in rows]]}
    folder = tmp_path / "hub" / source["path"]
    folder.mkdir(parents=True)
    pq.write_table(pa.table(nested), folder / "test.parquet")
    theirs = scored_by_mteb(folder, name, encoder)
    for mirror in ("ours", "hub"):
        task = open_mteb_task(name, mirror=tmp_path / mirror)
        assert [run(task, encoder).main_score for _ in range(2)] == [theirs["main_score"]] * 2
