import hashlib
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from icl_embed.config import NegativesConfig, PoolConfig
from icl_embed.errors import ConfigError, ModelError, PoolError
from icl_embed.pool.candidates import Bm25Scorer
from icl_embed.pool.mining import Miner, mine_negatives
from icl_embed.texts import compared_form
from tests.icl_embed.pool.datasets import (
    build,
    labelled_rows,
    passage,
    read,
    retrieval_row,
    row,
    write_dataset,
)

SHORT = PoolConfig(min_characters=1, max_dropped_fraction=1.0)
WIDE = {"rank_from": 0, "rank_to": 100, "max_positive_ratio": 100.0}


def mine(pool, seed=7, embed=None, **settings):
    out = pool.parent / f"negatives-{len(list(pool.parent.glob('negatives-*')))}"
    out.mkdir()
    counts = mine_negatives(pool, out, Miner(NegativesConfig(**settings), seed, embed))
    assert json.loads((out / "mining.json").read_text()) == counts
    return {item["query"]: item for item in read(out, "train")}, counts, out


def embed_by_table(vectors):
    """An embedder that knows the vectors of some texts; others point away from everything."""

    def embed(texts, instruction):
        return np.array([vectors.get(text, [0.0, 0.0, 1.0]) for text in texts], np.float32)

    return embed


@pytest.fixture
def boats(tmp_path):
    rows = [
        retrieval_row(1, query="red boat", positives=["the red boat is fast", "a red boat won"]),
        retrieval_row(2, query="blue boat", positives=["the blue boat is slow"]),
        retrieval_row(3, query="green tree", positives=["a green tree grows"]),
    ]
    others = ["the red boat is fast!", "boat boat boat harbour", "red carpet", "nothing at all", "red boat"]
    return build(
        tmp_path, write_dataset(tmp_path / "boats", rows, passages=[("train", text) for text in others])
    )


def test_hardest_first_and_never_what_answers_the_query(boats):
    rows, counts, _ = mine(boats, per_query=3, **WIDE)
    negatives = rows["red boat"]["negatives"]
    assert set(negatives) <= {"boat boat boat harbour", "red carpet", "the blue boat is slow"}
    assert len(negatives) == 3
    dropped = counts["boats"]["dropped"]
    assert dropped["same_as_query"] == 2, "the query itself is a passage, met once per positive"
    assert dropped["same_as_positive"] >= 2
    assert dropped["other_positive"] == 2
    assert dropped["near_duplicate_of_positive"] == 2


@pytest.mark.parametrize(("text", "what"), [("red carpet", "passage"), ("blue boat", "query")])
def test_a_vector_that_is_not_finite_is_refused(boats, text, what):
    def poisoned(texts, instruction):
        vectors = np.ones((len(texts), 3), np.float32)
        vectors[[found == text for found in texts]] = np.nan
        return vectors

    with pytest.raises(ModelError, match=f"the vector of {what} . is not finite \\(1 of"):
        mine(boats, embed=poisoned, methods=("dense",), per_query=2, **WIDE)


def test_vectors_of_two_widths_are_refused(boats):
    with pytest.raises(PoolError, match="one width"):
        mine(
            boats,
            embed=lambda texts, instruction: np.ones((len(texts), 3 if instruction else 4)),
            methods=("dense",),
        )


def test_candidates_above_the_ceiling_are_left_out(tmp_path):
    rows = [row(1, query="q", positives=["pos"]), row(2, query="other", positives=["far"])]
    extra = [("train", "too good"), ("train", "just right"), ("train", "weak")]
    pool = build(tmp_path, write_dataset(tmp_path / "data", rows, passages=extra), config=SHORT)
    vectors = {"q": [1, 0, 0], "pos": [0.8, 0, 0], "too good": [0.79, 0, 0], "just right": [0.7, 0, 0],
               "weak": [0.1, 0, 0], "far": [0.05, 0, 0], "other": [0, 1, 0]}  # fmt: skip
    settings = {"methods": ("dense",), "per_query": 1, "rank_from": 0, "rank_to": 100}
    found, counts, _ = mine(pool, embed=embed_by_table(vectors), max_positive_ratio=0.95, **settings)
    assert found["q"]["negatives"] == ["just right"]
    assert counts["data"]["dropped"]["above_ceiling"] == 1
    # the other query's positive scores 0: no measure, so no ceiling, and it is counted
    assert counts["data"]["ceiling_skipped"] == 1
    open_, _, _ = mine(pool, embed=embed_by_table(vectors), max_positive_ratio=1.0, **settings)
    assert open_["q"]["negatives"] == ["too good"]


def test_the_rank_window_is_respected(tmp_path):
    rows = [row(1, query="apple", positives=["apple zero"])]
    extra = [("train", " ".join(["apple"] * 9 + ["pad"] * count)) for count in range(1, 8)]
    pool = build(tmp_path, write_dataset(tmp_path / "data", rows, passages=extra))
    scores = Bm25Scorer(["apple"], [text for _, text in extra]).score(0, 1)[0]
    by_rank = [extra[index][1] for index in np.argsort(-scores, kind="stable")]
    found, _, _ = mine(pool, per_query=3, rank_from=2, rank_to=5, max_positive_ratio=100.0)
    taken = found["apple"]["negatives"]
    assert by_rank[0] not in taken[:2] and by_rank[1] not in taken[:2]
    with pytest.raises(ConfigError, match="rank_from"):
        mine(pool, rank_from=5, rank_to=5)


def test_methods_take_turns(boats):
    vectors = {"red boat": [1, 0, 0], "nothing at all": [0.9, 0, 0], "a green tree grows": [0.8, 0, 0]}
    rows, counts, _ = mine(
        boats, embed=embed_by_table(vectors), methods=("bm25", "dense"), per_query=3, **WIDE
    )
    negatives = rows["red boat"]["negatives"]
    assert negatives[1] == "nothing at all" or negatives[0] == "nothing at all"
    assert {"bm25", "dense"} <= set(counts["boats"]["kept"])


def test_dense_without_an_embedder_is_a_config_error(boats):
    with pytest.raises(ConfigError, match="needs an embedder"):
        mine(boats, methods=("dense",))


def test_given_negatives_come_first_and_scores_stay_aligned(tmp_path):
    rows = [retrieval_row(n) for n in range(10)]
    rows[0] |= {
        "negatives": [passage(50), passage(51)],
        "negative_scores": [0.3, 0.2],
        "positive_scores": [0.9],
    }
    pool = build(tmp_path, write_dataset(tmp_path / "data", rows))
    found, counts, _ = mine(pool, per_query=5)
    first = found[rows[0]["query"]]
    assert first["negatives"][:2] == [passage(50), passage(51)]
    assert len(set(first["negatives"])) == 5
    assert first["negative_scores"] == [0.3, 0.2, None, None, None]
    assert counts["data"]["kept"]["given"] == 2
    without, _, _ = mine(pool, per_query=0)
    assert without[rows[0]["query"]]["negatives"] == [passage(50), passage(51)]


def test_label_tasks_get_the_labels_they_are_confused_with_first(tmp_path):
    texts = {
        "card": ["my card was lost in town", "card lost yesterday", "lost my card abroad"],
        "phone": ["my phone was lost in town", "phone lost yesterday", "lost phone abroad"],
        "rate": ["what is the exchange rate", "rate of exchange for euros", "exchange rate please"],
    }
    rows = [
        row(10 * index + number, query=text, label=label)
        for index, (label, group) in enumerate(texts.items())
        for number, text in enumerate(group)
    ]
    pool = build(tmp_path, write_dataset(tmp_path / "intents", rows, kind="classification"))
    found, counts, _ = mine(pool, per_query=7)
    assert found["my card was lost in town"]["negatives"] == ["phone", "rate"]
    assert found["card lost yesterday"]["negatives"][0] == "phone"
    for item in found.values():
        assert sorted([*item["negatives"], item["label"]]) == sorted(texts), (
            "every other label, never its own"
        )
    assert counts["intents"]["rows_with_fewer"] == len(rows), "three labels cannot give seven negatives"


@pytest.mark.parametrize("kind", ["retrieval", "classification"])
def test_a_data_set_with_one_passage_is_counted_not_invented(tmp_path, kind):
    fields = {"positives": ["the only passage"]} if kind == "retrieval" else {"label": "only"}
    pool = build(tmp_path, write_dataset(tmp_path / "data", [row(n, **fields) for n in range(3)], kind=kind))
    found, counts, _ = mine(pool)
    assert all(item["negatives"] == [] for item in found.values())
    assert counts["data"]["rows_with_fewer"] == 3


def test_texts_without_a_single_word_do_not_stop_the_miner(tmp_path):
    rows = [row(n, query="?" * (n + 3), positives=["!" * (n + 3)]) for n in range(4)]
    pool = build(tmp_path, write_dataset(tmp_path / "data", rows))
    found, counts, _ = mine(pool, per_query=2)
    assert all(len(item["negatives"]) == 2 for item in found.values())
    assert counts["data"]["kept"]["random"] == 2 * len(found)


def test_the_positive_of_a_repeated_query_is_never_mined(tmp_path):
    rows = [
        retrieval_row(1, query="old stone bridge over the quiet river", positives=["first answer"]),
        retrieval_row(
            2, query="old stone bridge over the quiet river!", positives=["bridge river stone answer"]
        ),
        retrieval_row(3),
    ]
    pool = build(tmp_path, write_dataset(tmp_path / "data", rows))
    found, _, _ = mine(pool, per_query=3, **WIDE)
    assert "bridge river stone answer" not in found[rows[0]["query"]]["negatives"]


def test_mining_is_deterministic_and_padding_depends_on_the_seed(tmp_path):
    sources = [
        write_dataset(tmp_path / "a", [row(n, query=f"alpha{n}", positives=[f"beta{n}"]) for n in range(30)]),
        write_dataset(
            tmp_path / "b", labelled_rows(30, [f"label {n}" for n in range(12)]), kind="clustering"
        ),
    ]
    pool = build(tmp_path, *sources)
    files = [mine(pool, seed=seed, per_query=9)[2] / "train.parquet" for seed in (1, 1, 2)]
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
    assert digests[0] == digests[1] != digests[2]


WORDS = st.lists(st.sampled_from("ash bay cod dew elm fig".split()), min_size=1, max_size=4).map(" ".join)
ROWS = st.lists(
    st.tuples(WORDS, st.lists(WORDS, min_size=1, max_size=3), st.lists(WORDS, max_size=2)),
    min_size=2,
    max_size=8,
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ROWS, st.sampled_from(["retrieval", "reranking", "sts", "classification"]), st.booleans())
def test_a_mined_negative_is_never_a_positive_the_query_or_given_twice(tmp_path_factory, texts, kind, dense):
    home = tmp_path_factory.mktemp("property")
    rows = []
    for number, (query, positives, negatives) in enumerate(texts):
        fields = (
            {"label": positives[0]} if kind == "classification" else {"positives": positives, "score": 1.0}
        )
        rows.append(row(number, query=query, negatives=negatives, **fields))
    rows.append(retrieval_row(99, label="apart", score=1.0))  # so that the pool is never empty
    pool = build(home, write_dataset(home / "data", rows, kind=kind))
    related = {}
    for item in rows:
        targets = [item["label"]] if kind == "classification" else item["positives"]
        related.setdefault(compared_form(item["query"]), set()).update(map(compared_form, targets))
    methods = ("bm25", "dense") if dense else ("bm25",)
    embed = lambda texts, _: np.array([[len(text), text.count("a"), 1.0] for text in texts], np.float32)  # noqa: E731
    _, _, out = mine(pool, embed=embed, methods=methods, per_query=4, rank_from=0)
    for item in read(out, "train"):
        query, negatives = compared_form(item["query"]), [compared_form(text) for text in item["negatives"]]
        assert compared_form(item["positive"]) not in negatives
        assert not related[query] & set(negatives)
        assert query not in negatives
        assert len(set(negatives)) == len(negatives)


CITIES = "北京 上海 广州 深圳 杭州 成都 武汉 西安 南京 重庆 天津 苏州".split()
FRUIT = "苹果 香蕉 橙子 葡萄".split()


def chinese_rows():
    pairs = [(city, fruit) for fruit in FRUIT for city in CITIES]
    return [
        retrieval_row(
            number,
            query=f"请问{city}的{fruit}价格是多少？",
            positives=[f"{city}市场上{fruit}的价格为每公斤{number + 5}元，{fruit}产自{city}郊区。"],
        )
        for number, (city, fruit) in enumerate(pairs)
    ]


def test_words_are_found_in_scripts_without_spaces(tmp_path, caplog):
    pool = build(tmp_path, write_dataset(tmp_path / "zh", chinese_rows()), config=SHORT)
    rows, counts, _ = mine(pool, per_query=4, **WIDE)
    assert counts["zh"]["kept"] == {"bm25": 4 * len(rows), "given": 0}, (
        "no negative had to be drawn at random"
    )
    hard = [
        any(name in negative for name in (*CITIES, *FRUIT) if name in query)
        for query, row in rows.items()
        for negative in row["negatives"]
    ]
    assert all(hard)
    assert not caplog.records


def test_queries_that_share_no_word_with_any_passage_are_told(tmp_path, caplog):
    foreign = [
        retrieval_row(n, query=f"вопрос {n} тема{n}", positives=[f"answer {n} subject{n}"]) for n in range(20)
    ]
    for one in foreign:
        one["query"] = one["query"].replace(f" {one['row_id'][-1]}", "")
    pool = build(tmp_path, write_dataset(tmp_path / "mixed", foreign), config=SHORT)
    _, counts, _ = mine(pool, per_query=2, **WIDE)
    assert counts["mixed"]["kept"]["random"]
    assert "data set mixed: bm25 has no candidate for " in caplog.text
    assert f"{counts['mixed']['kept']['random']} of 40 mined negatives are drawn at random" in caplog.text


def test_a_near_duplicate_of_the_positive_is_known_in_scripts_without_spaces(tmp_path):
    long = "，".join(f"{city}市场上的水果价格每天都在变化" for city in CITIES)
    rows = [
        retrieval_row(1, query="水果价格变化吗？", positives=[long + "。"]),
        retrieval_row(2, query="哪里的电影好看？", positives=["电影院在市中心，票价每天都在变化。"]),
    ]
    near = long.replace("苏州", "扬州") + "！"
    pool = build(tmp_path, write_dataset(tmp_path / "zh", rows, passages=[("train", near)]), config=SHORT)
    found, counts, _ = mine(pool, per_query=1, **WIDE)
    assert found["水果价格变化吗？"]["negatives"] == ["电影院在市中心，票价每天都在变化。"]
    assert counts["zh"]["dropped"]["near_duplicate_of_positive"] == 1
