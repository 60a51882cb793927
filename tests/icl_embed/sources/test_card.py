import re
from pathlib import Path

import pytest

from icl_embed.errors import ConfigError, SourceError
from icl_embed.sources import Card, load_card, load_catalog, load_collections
from icl_embed.sources.card import built_in_catalog
from icl_embed.sources.fetch import fetch

GOOD = """
name = "mine"
kind = "classification"
title = "Mine"
instruction = "Classify the text"
licence = "CC0-1.0"
homepage = ""

[source]
kind = "local"
path = "rows.jsonl"

[tables.rows]

[rows]
query = "{text}"
label = "{label}"
"""


def write(folder: Path, text: str = GOOD, name: str = "mine.toml") -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "rows.jsonl").write_text('{"text": "a", "label": "b"}\n')
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def test_a_good_card_is_read(tmp_path):
    card = load_card(write(tmp_path))
    assert (card.name, card.kind, card.splits.test) == ("mine", "classification", 0.2)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("instruction =", "instruktion =", r"instruktion: unknown key; did you mean instruction\?"),
        ("path =", "pth =", r"source\.pth: unknown key; did you mean path\?"),
        ('label = "{label}"', 'lable = "{label}"', r"rows\.lable: unknown key; did you mean labels?\?"),
        (
            "[tables.rows]",
            '[tables.rows]\nformt = "csv"',
            r"tables\.rows\.formt: unknown key; did you mean format\?",
        ),
        ("[tables.rows]", '[tables.rows]\nformat = "cvs"', r"tables\.rows\.format: .*jsonl.*'cvs'"),
        (
            "[rows]",
            '[rows]\nwhere.label.amongst = ["x"]',
            r"rows\.where\.label\.amongst: .*did you mean among\?",
        ),
        ('kind = "classification"', 'kind = "classify"', r"kind: .*classification.*'classify'"),
        ('name = "mine"', 'name = "Mine!"', r"name: .*Mine!"),
        ('label = "{label}"', "", "classification card needs rows.label"),
        ("[rows]", '[corpus]\ntext = "{text}"\n[rows]', "classification card has no .corpus."),
        ("[rows]", '[rows]\ntable = "other"', r"no \[tables\.other\]"),
        ("[tables.rows]", "[splits]\ntrain = 0.9\n[tables.rows]", "train . dev . test must be 1"),
        ("[tables.rows]", '[tables.rows]\nremove.text = "("', "not a regular expression"),
        ('path = "rows.jsonl"', 'path = "rows.jsonl"\nfiles = ["../x"]', "plain relative name"),
        ('licence = "CC0-1.0"', "", "licence: Field required"),
    ],
)
def test_a_mistake_in_a_card_is_told_with_file_and_key(tmp_path, old, new, message):
    assert old in GOOD
    path = write(tmp_path, GOOD.replace(old, new, 1))
    with pytest.raises(ConfigError, match=message) as caught:
        load_card(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("text", ["name = ", "\udcff", 'folder = "/etc"\n' + GOOD])
def test_what_is_not_a_card_is_refused(tmp_path, text):
    path = tmp_path / "bad.toml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigError, match=r"bad\.toml"):
        load_card(path)


def test_a_branch_is_no_revision(tmp_path):
    hub = 'kind = "hub"\nrepository = "a/b"\nrevision = "main"\nfiles = ["*.jsonl"]'
    path = write(tmp_path, GOOD.replace('kind = "local"\npath = "rows.jsonl"', hub))
    with pytest.raises(ConfigError, match=r"source\.revision: .*main"):
        load_card(path)


def test_a_users_card_adds_and_overrides(tmp_path):
    name = next(iter(load_catalog()))
    write(tmp_path / "a")
    write(tmp_path / "b", GOOD.replace('"mine"', f'"{name}"').replace("Mine", "Ours"))
    catalog = load_catalog([tmp_path / "a", None, tmp_path / "b"])
    assert catalog["mine"].title == "Mine"
    assert catalog[name].title == "Ours"
    assert list(catalog) == sorted(catalog)


def test_one_name_twice_in_a_folder_is_refused(tmp_path):
    write(tmp_path, name="one.toml")
    write(tmp_path, name="two.toml")
    with pytest.raises(ConfigError, match=r'"mine".*one\.toml.*two\.toml'):
        load_catalog([tmp_path])


def test_a_missing_folder_is_told(tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        load_catalog([tmp_path / "none"])


def test_settings_hold_what_decides_the_rows_and_nothing_else(tmp_path):
    here, there = load_card(write(tmp_path / "here")), load_card(write(tmp_path / "there"))
    renamed = load_card(write(tmp_path / "other", GOOD.replace('title = "Mine"', 'title = "Other"')))
    assert here.settings() == there.settings() == renamed.settings()
    assert str(tmp_path) not in str(here.settings())
    (tmp_path / "there" / "rows.jsonl").write_text('{"text": "changed", "label": "b"}\n')
    assert here.settings() != there.settings()
    remapped = load_card(write(tmp_path / "remapped", GOOD.replace("{text}", "{text}!")))
    assert here.settings() != remapped.settings()


def test_a_missing_local_source_is_a_source_error(tmp_path):
    card = load_card(write(tmp_path))
    (tmp_path / "rows.jsonl").unlink()
    with pytest.raises(SourceError, match="does not exist"):
        fetch(card, tmp_path / "downloads")


def test_a_link_that_leads_out_of_a_local_folder_is_refused(tmp_path):
    (tmp_path / "secret.jsonl").write_text("{}")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "x.jsonl").symlink_to(tmp_path / "secret.jsonl")
    card = load_card(write(tmp_path, GOOD.replace("rows.jsonl", "data")))
    with pytest.raises(SourceError, match="leads out"):
        fetch(card, tmp_path / "downloads")


CARDS = [path for path in sorted(built_in_catalog().glob("*.toml")) if path.stem not in load_collections()]


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.stem)
def test_every_shipped_card_is_valid_pinned_and_complete(path):
    card = load_card(path)
    assert card.name == path.stem
    assert len(card.description.split()) >= 10
    assert card.homepage.startswith("https://")
    assert card.source.kind in ("pypi", "debian", "npm")
    assert re.fullmatch("[0-9a-f]{64}", card.source.sha256)
    assert card.instruction[0].isupper() and not card.instruction.endswith(".")


def test_the_catalog_covers_every_kind_twice():
    kinds = [card.kind for card in load_catalog().values()]
    assert len(kinds) >= 10
    assert kinds.count("retrieval") >= 4
    for kind in ("retrieval", "classification", "clustering", "sts", "pair_classification", "reranking"):
        assert kinds.count(kind) >= 2


def test_cards_cannot_be_changed():
    card = next(iter(load_catalog().values()))
    assert isinstance(card, Card)
    with pytest.raises(ValueError, match="frozen"):
        card.name = "other"
