"""The report says what the folders say, escapes what they hold, and survives what they lack."""

import dataclasses
import json
import re
from html.parser import HTMLParser

import pytest

from icl_embed.config import RunConfig
from icl_embed.errors import DataError, EvaluationError
from icl_embed.evaluation.measurement import Bootstrap, Interval, compare
from icl_embed.evaluation.scores import Absence, read_measurements, read_scores, write_scores, write_values
from icl_embed.report.facts import ReportInputs, signed
from icl_embed.report.page import build_report, duration
from icl_embed.report.score_table import Systems, build_score_table
from icl_embed.report.view import change_of_quality, config_changes, gather
from tests.icl_embed.report.run_folders import DATASETS, FEW_SHOT


class Page(HTMLParser):
    """Collects elements, the cells of tables by id, and checks that tags are balanced."""

    VOID = ("meta", "link", "br", "circle", "line", "path")

    def __init__(self, text):
        super().__init__()
        self.stack, self.elements, self.rows, self.table = [], [], {}, None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.elements.append((tag, attributes))
        if tag == "table":
            self.table = attributes.get("id", "")
        if tag == "tr" and self.table is not None:
            self.rows.setdefault(self.table, []).append([])
        if tag in ("td", "th") and self.table is not None:
            self.rows[self.table][-1].append("")
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag
        if tag == "table":
            self.table = None

    def handle_data(self, data):
        if self.table is not None and self.rows.get(self.table) and {"td", "th"} & set(self.stack):
            self.rows[self.table][-1][-1] += data


@pytest.fixture(scope="module")
def html(report):
    return (report / "index.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


@pytest.fixture(scope="module")
def markdown(report):
    return (report / "report.md").read_text(encoding="utf-8")


def test_every_tag_is_closed_and_every_section_is_there(page):
    assert page.stack == []
    ids = {attributes.get("id") for _, attributes in page.elements}
    assert {"scores", "training", "reranker", "data", "examples", "run", "lineage", "limitations"} <= ids


def test_the_page_holds_no_script_and_asks_for_nothing(html, page):
    assert not any(tag in ("script", "img", "iframe", "object", "embed") for tag, _ in page.elements)
    assert "@import" not in html
    assert "url(" not in html
    for tag, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes)
        if tag == "link":
            assert attributes["href"] == "data:,"
        if tag == "a":
            assert attributes["href"].startswith(("#", "https://example.org"))
    policies = [a["content"] for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]


def test_hostile_text_is_shown_and_not_run(html, markdown):
    assert "<script>" not in html
    assert "&lt;script&gt;alert" in html
    assert "javascript:" not in html
    assert "<script>" not in markdown
    assert "&lt;script&gt;alert('x')&lt;/script&gt; \\| a" in markdown


def test_links_inside_the_page_lead_somewhere(page):
    ids = {attributes.get("id") for _, attributes in page.elements}
    targets = {a["href"][1:] for tag, a in page.elements if tag == "a" and a["href"].startswith("#")}
    assert targets
    assert targets <= ids


def test_the_score_table_shows_every_score_of_the_folders(page, run_inputs):
    cells = {row[0].split()[0]: row for row in page.rows["score-table"]}
    trained = {row[0] for row in DATASETS if row[4]}
    for folder in run_inputs.scores:
        scores = read_scores(folder)
        for result in scores.results:
            shown = f"{100 * result.mean:.1f} {100 * result.low:.1f} \N{EN DASH} {100 * result.high:.1f}"
            assert any(" ".join(cell.split()) == shown for cell in cells[scores.card])
        mark = "trained on" if scores.card in trained else "unseen"
        assert mark in cells[scores.card][0]


def test_differences_are_coloured_only_when_their_interval_excludes_zero(html, run_inputs):
    table = table_of(run_inputs)
    gaps = [gap for row in (*table.averages, *table.rows) for gap in row.differences.values()]
    expected = {
        "up": sum(gap.low > 0 for gap in gaps),
        "down": sum(gap.high < 0 for gap in gaps),
        "even": sum(gap.low <= 0 <= gap.high for gap in gaps),
    }
    assert expected["up"] > 3
    assert expected["even"] > 2
    assert {name: html.count(f'<span class="{name}">') for name in expected} == expected


def table_of(inputs):
    how = Bootstrap(inputs.config["evaluate"]["bootstrap_resamples"], 0.95, inputs.config["seed"])
    return build_score_table(inputs.scores, how, systems=Systems(), few_shot=FEW_SHOT)


def test_the_differences_are_paired(run_inputs):
    row = next(row for row in table_of(run_inputs).rows if row.label == "medical-qa")
    measured = {}
    for folder in run_inputs.scores:
        scores = read_scores(folder)
        if (scores.card, scores.model) == (row.label, "trained"):
            measured |= read_measurements(folder, scores)
    expected = compare(measured[FEW_SHOT], measured["zero-shot"], Bootstrap(2000, 0.95, 13))
    assert row.differences["few-zero"] == expected


def test_averages_leave_out_what_was_trained_on_and_what_lacks_a_setting(run_inputs):
    table = table_of(run_inputs)
    everything, search = table.averages
    members = [row for row in table.rows if not row.trained_on and row.label != "trivia-facts"]
    assert everything.label == f"Average of {len(members)} unseen sets"
    mean = sum(row.cells["trained-few"].mean for row in members) / len(members)
    assert everything.cells["trained-few"].mean == pytest.approx(mean)
    assert "bm25" not in everything.cells  # BM25 cannot do all of them
    assert {"bm25", "trained-few"} <= set(search.cells)


def test_an_absent_setting_is_explained(markdown):
    assert "trivia-facts: no few-shot score, because the pool holds no eligible examples" in markdown


def test_a_baseline_that_says_nothing_is_no_score_and_is_explained(run_inputs, tmp_path):
    given = [(folder, read_scores(folder)) for folder in run_inputs.scores]
    place = next(place for place, (_, scores) in enumerate(given) if scores.model == "bm25")
    silent = dataclasses.replace(given[place][1], results=(), absent=(Absence("bm25", "no word in common"),))
    write_scores(tmp_path, silent)
    write_values(tmp_path, {})
    folders = [folder for folder, _ in given]
    folders[place] = tmp_path
    view = gather(dataclasses.replace(run_inputs, scores=tuple(folders)))
    assert f"{silent.card}: no BM25 score, because no word in common." in view.limitations
    (row,) = [row for row in view.table.rows if row.label == silent.card]
    assert "bm25" not in row.cells and "trained-few" in row.cells


def test_the_exact_examples_are_shown(html):
    assert html.count("<details>") == 8 + 1  # one more for the ways to rerank
    assert "question 3 of medical-qa?" in html


def test_statistics_are_tables_whatever_was_counted(page, html):
    assert "decontamination: ngram" in html
    assert "dropped: above ceiling" in html
    assert "label conflict" not in html  # nothing was rejected for it


def test_training_facts_come_from_the_log(html, markdown):
    assert "examples per query, really used" in html
    assert "- steps: 120" in markdown


def test_without_measurements_on_the_way_there_is_no_dev_curve(page, markdown):
    assert "chart-dev" not in {attributes.get("id") for _, attributes in page.elements}
    assert "weights of step" not in markdown and "few-shot on dev" not in markdown


def test_the_dev_curve_shows_every_measurement_and_which_weights_are_published(run_inputs, tmp_path):
    log = run_inputs.embedder / "metrics.jsonl"
    folder = tmp_path / "embedder"
    folder.mkdir()
    dev = [
        {"step": step, "dev_zero_shot": 0.2, "dev_few_shot": few, "dev_seconds": 1.5}
        for step, few in ((40, 0.31), (80, 0.456), (120, 0.42))
    ]
    again = dev[1:2]  # of a run that was stopped before its checkpoint
    lines = log.read_text().splitlines() + [json.dumps(line) for line in [*dev[:2], *again, dev[2]]]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    told = {"published_step": 80, "stopped_early": True, "dev_zero_shot": 0.2, "dev_few_shot": 0.456}
    (folder / "published.json").write_text(json.dumps(told))
    build_report(dataclasses.replace(run_inputs, embedder=folder), tmp_path / "out")
    html = (tmp_path / "out" / "index.html").read_text()
    markdown = (tmp_path / "out" / "report.md").read_text()
    assert html.count('id="chart-dev"') == 1
    assert html.count("few-shot, 80: 45.6 (45.6 to 45.6)") == 2  # for a desk and for a phone
    assert "- steps: 120" in markdown and "| 80 | 20.0 | 45.6 |" in markdown
    assert markdown.count("| 80 |") == 1
    assert "- weights of step: 80, training ended early" in markdown
    assert "- dev average, few-shot and zero-shot: 45.6 and 20.0" in markdown


def test_the_reranker_table_and_curve_are_there(page, html, markdown):
    assert [row[0] for row in page.rows["reranker-table"][1:]] == [
        "medical-qa",
        "trivia-facts",
        "icd10-codes",
        "Average",
    ]
    assert "layer 6, compression 2: nDCG@10 55.8, 156.0 GFLOPs, chosen" in html
    assert html.count('class="ring"') == 4  # two charts, each for a desk and for a phone
    assert "+1.0 % (−0.4 to +2.5)" in html
    assert len(page.rows["way-table"]) == 1 + 9
    assert [row[0] for row in page.rows["way-table"][1:3]] == [
        "layer 4, compression 4",
        "layer 4, compression 2",
    ]
    assert "**58%** of the reranker's FLOPs saved" in markdown
    assert "no certain change of nDCG@10 against full depth (−2.5 to +0.4 %)" in html


def test_a_loss_is_a_headline_only_where_it_is_certain():
    assert "no certain" in change_of_quality(Interval(0.04, -0.04, 0.12))
    assert change_of_quality(Interval(0.11, 0.04, 0.17)) == (
        "nDCG@10 −11.0 % against full depth (−17.0 to −4.0 %)"
    )


def test_how_the_lightweight_way_was_chosen_is_shown_with_its_limit(html, markdown):
    chart = html[html.index('id="chart-tuning"') :]
    chart = chart[: chart.index("</figure>")]
    assert chart.count('class="dot"') == 2 * 6  # everything that was tried, for a desk and for a phone
    assert chart.count("chosen</title>") == 2
    assert "0.5 points of nDCG@10, held by the loss&#39;s mean" in html
    assert "120 of icd10-codes" in markdown


def test_a_run_without_tuning_says_nothing_of_it(run_inputs, tmp_path):
    build_report(dataclasses.replace(run_inputs, reranker_choice=None), tmp_path)
    assert "How the lightweight way was chosen" not in (tmp_path / "index.html").read_text()


def test_lineage_names_every_artefact(page, run_inputs):
    assert len(page.rows["lineage-table"][1:]) == len(run_inputs.artefacts)


def test_markdown_tables_are_whole(markdown):
    tables = re.findall(r"(?:^\|.*\n)+", markdown, re.MULTILINE)
    assert len(tables) == 8
    for table in tables:
        lines = table.splitlines()
        assert re.fullmatch(r"\|( -+:? \|)+", lines[1])
        assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {lines[1].count("|")}


def test_only_settings_that_differ_are_listed():
    config = RunConfig.model_validate({"train": {"temperature": 0.05}, "preset": "mine"}).model_dump(
        mode="json"
    )
    assert config_changes(config) == (("train.temperature", "0.05", "0.02"),)
    assert config_changes(RunConfig().model_dump(mode="json")) == ()


def test_limitations_follow_from_the_facts(run_inputs):
    told = " ".join(gather(run_inputs).limitations)
    assert "Only the first 8 layers" in told
    assert "Training saw 1,920 queries" in told
    assert "capped at 300 per data set" in told
    assert "icd10-codes and tweet-mood: the train split was trained on" in told
    whole = run_inputs.config | {"model": run_inputs.config["model"] | {"num_layers": 0}}
    assert "layers" not in " ".join(gather(dataclasses.replace(run_inputs, config=whole)).limitations)


def test_an_empty_run_still_gives_a_page(tmp_path):
    counts = build_report(ReportInputs(RunConfig().model_dump(mode="json")), tmp_path)
    assert counts["datasets"] == 0
    text = (tmp_path / "index.html").read_text()
    assert "This run has no evaluation." in text
    assert Page(text).stack == []
    assert "nan" not in text.lower().replace("nano", "")


@pytest.mark.parametrize(
    "missing",
    [
        "pool",
        "negatives",
        "embedder",
        "reranker",
        "reranker_choice",
        "reranker_evaluation",
        "datasets",
        "artefacts",
        "scores",
    ],
)
def test_a_missing_part_is_left_out(run_inputs, tmp_path, missing):
    empty = () if isinstance(getattr(run_inputs, missing), tuple) else None
    build_report(dataclasses.replace(run_inputs, **{missing: empty}), tmp_path)
    assert Page((tmp_path / "index.html").read_text()).stack == []


def test_folders_without_their_files_are_left_out(run_inputs, tmp_path):
    names = ("pool", "negatives", "embedder", "reranker", "reranker_choice", "reranker_evaluation")
    build_report(dataclasses.replace(run_inputs, **dict.fromkeys(names, tmp_path)), tmp_path / "out")
    assert 'id="reranker"' not in (tmp_path / "out" / "index.html").read_text()


@pytest.mark.parametrize(
    ("part", "name", "text", "error"),
    [
        ("pool", "statistics.json", "{", DataError),
        ("embedder", "metrics.jsonl", '{"step": 1, "loss": 2}\nbroken\n', DataError),
        (
            "reranker_evaluation",
            "scores.json",
            '{"datasets": [{"dataset": "a", "full_depth": {"mean": 1}}]}',
            DataError,
        ),
        ("reranker_evaluation", "scores.json", "[1]", DataError),
        ("reranker_choice", "choice.json", '{"chosen": {}, "tried": []}', DataError),
        ("reranker_choice", "choice.json", "[1]", DataError),
    ],
)
def test_a_broken_file_is_an_error_that_names_it(run_inputs, tmp_path, part, name, text, error):
    (tmp_path / name).write_text(text)
    with pytest.raises(error, match=re.escape(str(tmp_path))):
        build_report(dataclasses.replace(run_inputs, **{part: tmp_path}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_no_evaluation_is_refused(run_inputs, tmp_path):
    with pytest.raises(EvaluationError, match="is not an evaluation's scores"):
        build_report(dataclasses.replace(run_inputs, scores=(tmp_path,)), tmp_path / "out")


def test_small_words_for_durations_and_differences():
    assert [duration(s) for s in (0.04, 59.4, 200, 3900)] == ["0.0 s", "59 s", "3 min 20 s", "1 h 05 min"]
    assert [signed(v) for v in (0.0312, -0.5, 0.0)] == ["+3.1", "\N{MINUS SIGN}50.0", "+0.0"]
