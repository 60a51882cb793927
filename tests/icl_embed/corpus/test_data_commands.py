import json

import pytest
from typer.testing import CliRunner

from icl_embed.cli.data import app
from icl_embed.errors import ConfigError
from icl_embed.sources.card import built_in_catalog
from tests.icl_embed.corpus.cards import write_card, write_jsonl

MAPPING = """
[tables.rows]
[rows]
query = "{text}"
label = "{label}"
"""


@pytest.fixture
def own_card(tmp_path):
    write_jsonl(
        tmp_path / "cards" / "data" / "a.jsonl",
        [{"text": f"text [{i}]", "label": f"l{i % 2}"} for i in range(200)],
    )
    write_card(tmp_path / "cards", "classification", MAPPING)
    return tmp_path / "cards" / "small.toml"


def run(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "120"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_the_list_names_every_card():
    result = run("ls")
    assert all(path.stem in result.output for path in built_in_catalog().glob("*.toml"))
    kinds = {card["kind"] for card in json.loads(run("ls", "--kind", "sts", "--json").output)}
    assert kinds == {"sts"}


def test_a_card_of_ones_own_is_listed_beside_the_others(own_card):
    names = [card["name"] for card in json.loads(run("ls", "--json", "--catalog", own_card.parent).output)]
    assert "small" in names and len(names) == len(list(built_in_catalog().glob("*.toml"))) + 1


def test_a_good_card_is_checked_from_end_to_end(own_card, tmp_path):
    output = run("check", own_card, "--downloads", tmp_path / "d").output
    assert "small is a valid classification card" in output
    assert "text [" in output  # brackets are data, not markup
    assert "only" in output and "test rows" in output
    counts = json.loads(run("check", own_card, "--downloads", tmp_path / "d", "--json").output)
    assert sum(counts["rows"].values()) == 200


def test_a_bad_card_is_refused(own_card):
    own_card.write_text(own_card.read_text().replace("[rows]", "[row]"))
    with pytest.raises(ConfigError, match=r"row: unknown key; did you mean rows\?"):
        run("check", own_card)


def test_show_prints_rows_of_each_split(own_card, tmp_path):
    output = run("show", "small", "--catalog", own_card.parent, "--downloads", tmp_path / "d").output
    for row_id in ("train-000000", "train-000002", "test-000000"):
        assert row_id in output
    assert "train-000003" not in output


def test_showing_no_rows_fetches_nothing(tmp_path):
    output = run("show", "icd10-terms", "--rows", "0", "--downloads", tmp_path / "d").output
    assert "ICD-10-CM" in output
    assert not (tmp_path / "d").exists()


def test_fetch_verifies_what_it_names(own_card, tmp_path):
    output = run("fetch", "small", "--catalog", own_card.parent, "--downloads", tmp_path / "d").output
    assert "small: 1 files" in output and "verified" in output


def test_an_unknown_data_set_is_told_with_those_there_are():
    with pytest.raises(ConfigError, match=r'no data set "icd11"; the catalog has: .*icd10-terms'):
        run("show", "icd11")


def test_fetching_nothing_is_a_mistake():
    with pytest.raises(ConfigError, match="or say --all"):
        run("fetch")


@pytest.mark.parametrize("command", ["ls", "show", "fetch", "check"])
def test_every_command_shows_an_example(command):
    assert f"icl-embed data {command}" in run(command, "--help").output
