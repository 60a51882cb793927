import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from icl_embed.errors import ConfigError, SourceError
from icl_embed.pipeline.run import open_run
from icl_embed.sources.card_source import HubSource
from icl_embed.sources.collection import Collection, by_split, chosen, load_collection, load_collections
from icl_embed.sources.collection_index import cards_of
from icl_embed.sources.shards import refuse_full_disk, shards_of
from tests.icl_embed.corpus.published import FULL_DATA, PROMPTS, full_data, row, write_examples
from tests.icl_embed.sources.hub_site import REVISION, parquet, part_of, publish, running_hub, shards
from tests.icl_embed.sources.web import status

REPOSITORY = "someone/full-data"


@pytest.fixture
def hub(monkeypatch):
    with running_hub(monkeypatch) as site:
        yield site


def collection(**more):
    source = {"kind": "hub", "repository": REPOSITORY, "revision": REVISION, "files": ["data/*.parquet"]}
    said = {"name": "full", "layout": "collection", "title": "Full", "licence": "CC0-1.0", "homepage": ""}
    return Collection.model_validate({**said, "source": source, **more})


def path_of(name):
    return f"/datasets/{REPOSITORY}/resolve/{REVISION}/{name}"


def test_34_splits_are_34_data_sets_and_nothing_but_footers_and_first_rows_is_fetched(hub, tmp_path):
    files = full_data(rows=2_000)
    publish(hub, REPOSITORY, files)
    cards = cards_of(collection(kinds={"scidocsrr*": "reranking", "*dup*": "reranking"}), tmp_path)
    assert len(cards) == 34
    assert set(cards) == {f"full/{split}" for splits in FULL_DATA.values() for split in splits}
    assert cards["full/SciDocsRR"].kind == cards["full/StackOverflowDupQuestions"].kind == "reranking"
    assert cards["full/fever"].kind == "retrieval"
    assert cards["full/nli"].kind == "pair_classification"
    assert cards["full/sts12"].kind == "sts"
    assert cards["full/banking_classification"].kind == "classification"
    assert cards["full/arXiv_abstract"].kind == "clustering"
    assert cards["full/arXiv_abstract"].instruction == PROMPTS["symmetric_clustering"]
    documents = cards["full/msmarco_document"]
    assert [shard.name for shard in documents.shards] == [
        f"data/msmarco_document-0000{n}-of-00003.parquet" for n in range(3)
    ]
    assert documents.num_rows == 2_000
    assert documents.num_bytes == sum(len(files[shard.name]) for shard in documents.shards)
    assert documents.splits.train == 1.0
    assert not (tmp_path / "hub").exists()


def test_a_commit_that_was_read_once_needs_no_network(hub, tmp_path):
    publish(hub, REPOSITORY, full_data())
    first = cards_of(collection(), tmp_path)
    hub.answers.clear()
    again = cards_of(collection(), tmp_path)
    assert {name: card.settings() for name, card in again.items()} == {
        name: card.settings() for name, card in first.items()
    }


def test_a_kept_index_that_was_damaged_is_read_anew(hub, tmp_path):
    publish(hub, REPOSITORY, shards("a", [row("normal", 1)]))
    cards_of(collection(), tmp_path)
    (kept,) = (tmp_path / "collections").glob("*.json")
    kept.write_text('{"a": {"shards": []}}')
    assert list(cards_of(collection(), tmp_path)) == ["full/a"]


def test_keys_hold_the_commit_the_shards_and_what_the_rows_are(hub, tmp_path):
    publish(hub, REPOSITORY, shards("a", [row("normal", 1)]))
    settings = cards_of(collection(), tmp_path)["full/a"].settings()
    assert settings["source"] == {
        "kind": "hub",
        "repository": REPOSITORY,
        "revision": REVISION,
        "files": ["data/a-00000-of-00001.parquet"],
    }
    assert (settings["type"], settings["prompt"]) == ("normal", PROMPTS["normal"])
    assert "shards" not in settings
    said = cards_of(collection(instructions={"a": "Ours"}), tmp_path)["full/a"].settings()
    assert (said["instruction"], said["prompt"]) == ("Ours", None)


def test_shards_are_fetched_once_and_verified(hub, tmp_path):
    publish(hub, REPOSITORY, full_data())
    card = cards_of(collection(), tmp_path)["full/msmarco_document"]
    told = []
    found = list(shards_of(card, tmp_path, lambda *what: told.append(what)))
    assert [file.name for file in found] == [shard.name for shard in card.shards]
    assert told == [(shard.name, shard.num_bytes, shard.num_bytes) for shard in card.shards]
    hub.answers.clear()
    assert list(shards_of(card, tmp_path)) == found


def test_a_fetch_that_breaks_off_goes_on_with_the_shards_that_are_there(hub, tmp_path):
    publish(hub, REPOSITORY, full_data())
    card = cards_of(collection(), tmp_path)["full/msmarco_document"]
    last = path_of(card.shards[2].name)
    kept = hub.answers[last]
    hub.on(last, status(404))
    with pytest.raises(SourceError, match=r"msmarco_document-00002-of-00003\.parquet of someone/full-data"):
        list(shards_of(card, tmp_path))
    hub.answers[last] = kept
    hub.requests.clear()
    assert len(list(shards_of(card, tmp_path))) == 3
    assert {path for path, _ in hub.requests} == {last}


def test_a_shard_that_is_cut_short_is_fetched_again_and_else_refused(hub, tmp_path):
    data = parquet([row("normal", number) for number in range(50)])
    name = "data/a-00000-of-00001.parquet"
    publish(hub, REPOSITORY, {name: data})
    card = cards_of(collection(), tmp_path)["full/a"]
    cut = part_of(data[:-40], promised=data)
    hub.on(path_of(name), cut, cut, part_of(data))  # asked for its head, then fetched
    (file,) = shards_of(card, tmp_path)
    assert file.path.read_bytes() == data
    hub.on(path_of(name), cut)
    with pytest.raises(
        SourceError, match=rf"is not what the hub says: {len(data) - 40} bytes, expected {len(data)}"
    ):
        list(shards_of(card, tmp_path / "other"))


def test_a_shard_with_other_bytes_of_the_same_length_is_refused(hub, tmp_path):
    name, data = "data/a-00000-of-00001.parquet", parquet([row("normal", 1)])
    publish(hub, REPOSITORY, {name: data})
    card = cards_of(collection(), tmp_path)["full/a"]
    hub.on(path_of(name), part_of(data[:100] + b"X" + data[101:], promised=data))
    with pytest.raises(SourceError, match="its sha256 is not"):
        list(shards_of(card, tmp_path))


def test_only_the_first_shards_are_taken_if_the_card_says_so(hub, tmp_path):
    publish(hub, REPOSITORY, full_data())
    card = cards_of(collection(max_shards=2), tmp_path)["full/msmarco_document"]
    assert len(card.shards) == len(card.source.files) == 2


def thousand_rows(card):
    return tuple(shard.model_copy(update={"num_rows": 1_000}) for shard in card.shards)


def test_a_disk_that_is_too_small_is_told_before_the_first_byte(hub, tmp_path, small_disk):
    noise = os.urandom(5 << 20).hex()
    publish(hub, REPOSITORY, shards("a", [row("normal", 1, query=noise)]))
    card = cards_of(collection(), tmp_path)["full/a"]
    hub.requests.clear()
    with pytest.raises(
        SourceError, match=r"full/a needs about .* MB of shards in .* free there.*Nothing was fetched"
    ):
        refuse_full_disk(card, small_disk, tmp_path / "out")
    with pytest.raises(SourceError, match="MB of rows in"):
        refuse_full_disk(card, tmp_path, small_disk / "out")
    assert not hub.requests
    refuse_full_disk(
        card.model_copy(update={"shards": thousand_rows(card)}), tmp_path, small_disk / "out", max_rows=10
    )
    refuse_full_disk(card, tmp_path, tmp_path)


def test_a_repository_that_wants_a_token_says_which_and_where_to_get_it(hub, tmp_path):
    hub.on(f"/api/datasets/{REPOSITORY}/revision/{REVISION}", status(401, X_Error_Code="GatedRepo"))
    with pytest.raises(
        SourceError, match=r"datasets/someone/full-data.*huggingface.co/settings/tokens.*HF_TOKEN"
    ):
        cards_of(collection(), tmp_path)


def test_a_commit_that_is_not_there_is_told(hub, tmp_path):
    hub.on(f"/api/datasets/{REPOSITORY}/revision/{REVISION}", status(404, X_Error_Code="RevisionNotFound"))
    with pytest.raises(SourceError, match=f"cannot get {REPOSITORY} at {REVISION}"):
        cards_of(collection(), tmp_path)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"data/a-00000-of-00003.parquet": b"", "data/a-00002-of-00003.parquet": b""},
            "of the 3 shards of a.*00001",
        ),
        ({"x/train.jsonl": b"{}", "y/train.jsonl": b"{}"}, "2 files for the split 'train'"),
        ({"README.md": b""}, "has no .parquet or .jsonl file"),
    ],
)
def test_what_cannot_be_splits_is_refused(files, message):
    with pytest.raises(SourceError, match=message):
        by_split(files, "somewhere")


def test_an_unknown_type_is_named_with_those_that_are_known(hub, tmp_path):
    publish(hub, REPOSITORY, shards("a", [row("normal", 1, type="symmetric_magic")]))
    with pytest.raises(ConfigError, match=r"full/a: .*'symmetric_magic'.*normal \(retrieval\), only_1neg"):
        cards_of(collection(), tmp_path)
    assert cards_of(collection(kinds={"a": "sts"}), tmp_path)["full/a"].kind == "sts"


def test_rows_without_a_prompt_need_an_instruction_in_the_card(hub, tmp_path):
    publish(hub, REPOSITORY, shards("a", [row("normal", 1, prompt=None)]))
    with pytest.raises(ConfigError, match=r'full/a have no prompt.*instructions = \{ "a"'):
        cards_of(collection(), tmp_path)
    assert cards_of(collection(instructions={"*": "Find it"}), tmp_path)["full/a"].instruction == "Find it"


def test_a_setting_for_a_split_that_is_not_there_is_a_mistake(hub, tmp_path):
    publish(hub, REPOSITORY, shards("fever", [row("normal", 1)]))
    with pytest.raises(ConfigError, match=r"kinds names 'fevr'.*did you mean fever\?"):
        cards_of(collection(kinds={"fevr": "reranking"}), tmp_path)


def test_a_split_that_is_no_Parquet_is_told(hub, tmp_path):  # noqa: N802
    publish(hub, REPOSITORY, {"data/a-00000-of-00001.parquet": b"no parquet at all"})
    with pytest.raises(SourceError, match=r"a-00000-of-00001.parquet is no whole Parquet file"):
        cards_of(collection(), tmp_path)


def test_names_mean_all_splits_some_or_one(hub, tmp_path):
    publish(hub, REPOSITORY, full_data())
    cards = cards_of(collection(), tmp_path)
    assert chosen("full", "*", cards) == sorted(cards)
    assert chosen("full", "*_title", cards) == [
        "full/arxiv_title",
        "full/biorxiv_title",
        "full/medrxiv_title",
    ]
    with pytest.raises(ConfigError, match=r"full/feverr: there is no such split; did you mean fever\?"):
        chosen("full", "feverr", cards)


def test_the_shipped_collections_are_pinned_or_say_that_they_are_not(tmp_path):
    found = load_collections()
    assert set(found) == {"bge-full-data", "bge-e5data", "bge-reranker-data"}
    pins = {name: one.source.revision for name, one in found.items() if isinstance(one.source, HubSource)}
    assert pins == {
        "bge-full-data": "b1dc23df7dfe3af6e811dc2c4e90d907984b8c6f",
        "bge-e5data": "7a949e8f7db86ef52ce4b2d65cfde1a633f4ca75",
    }
    with pytest.raises(ConfigError, match=r"bge-reranker-data names no commit.*commits/main.*revision"):
        cards_of(found["bge-reranker-data"], tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('kind = "hub"', 'kind = "http"', "source: .*hub"),
        (REVISION, "main", r"source\.revision"),
        ("licence =", "license =", r"license: unknown key; did you mean licence\?"),
        ("[kinds]", '[kinds]\na = "chat"', r"kinds\.a: .*'chat'"),
    ],
)
def test_a_mistake_in_a_collections_card_is_told(tmp_path, old, new, message):
    text = (
        (Path(__file__).parents[3] / "data" / "catalog" / "bge-full-data.toml")
        .read_text()
        .replace(old, new, 1)
    )
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_collection(tmp_path / "mine.toml")


def test_a_run_takes_what_names_and_patterns_mean(tmp_path):
    write_examples(tmp_path / "rows")
    (tmp_path / "ours.toml").write_text(
        'name = "ours"\nlayout = "collection"\ntitle = "Ours"\nlicence = "x"\nhomepage = ""\n'
        'source = { kind = "local", path = "rows" }\n'
    )
    paths = [f"paths.catalog={tmp_path}", f"paths.downloads={tmp_path / 'd'}"]
    names = '["cwe-examples", "ours/*Classification", "ours/nli"]'
    run = open_run("demo", [*paths, f"data.train={names}", 'data.evaluate=["sms-spam"]'])
    classes = ("ours/AmazonClassification", "ours/Banking77Classification")
    assert run.config.data.train == ("cwe-examples", *classes, "ours/nli")
    assert run.keys.pool.settings["trained"] == sorted(run.config.data.train)
    assert run.card("ours/nli").kind == "pair_classification"
    with pytest.raises(ConfigError, match=r"ours/nlj: there is no such split; did you mean nli\?"):
        open_run("demo", [*paths, 'data.train=["ours/nlj"]'])
    with pytest.raises(ConfigError, match=r"no data card 'our'; did you mean ours\?"):
        open_run("demo", [*paths, 'data.train=["our"]'])
    with pytest.raises(
        ConfigError, match="data.evaluate names ours/nli: the rows of a collection are all for training"
    ):
        open_run("demo", [*paths, 'data.evaluate=["ours/nli"]'])


FETCH = """
import json, sys
from pathlib import Path
from icl_embed.pipeline.run import open_run
run = open_run("demo", [f"paths.downloads={sys.argv[1]}", f"paths.catalog={sys.argv[2]}", 'data.train=["full"]',
                        'data.evaluate=["cwe-examples"]'])
from icl_embed.corpus.dataset import build_dataset
for name in run.config.data.train:
    counts = build_dataset(run.card(name), run.config.paths.downloads, Path(sys.argv[1]) / "out" / name,
                           max_train_rows=100, max_test_queries=1, max_test_passages=1)
    print(json.dumps([name, run.keys.datasets[name].label, counts["rows"]["train"]]))
"""


def test_a_run_takes_a_whole_collection_from_whatever_hub_HF_ENDPOINT_names(hub, tmp_path):  # noqa: N802
    publish(hub, REPOSITORY, full_data())
    (tmp_path / "full.toml").write_text(
        'name = "full"\nlayout = "collection"\ntitle = "Full"\nlicence = "x"\nhomepage = ""\n[source]\nkind = "hub"\n'
        f'repository = "{REPOSITORY}"\nrevision = "{REVISION}"\nfiles = ["data/*.parquet"]\n'
    )
    settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-c", FETCH, str(tmp_path / "d"), str(tmp_path)]
    done = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 34
    assert all(name == label and count == 12 for name, label, count in rows)
