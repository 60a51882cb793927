"""What the build did to each data set, counted from the pool's own tables, and the limits it must keep."""

from __future__ import annotations

import logging
from typing import Any

from icl_embed.config import PoolConfig
from icl_embed.errors import PoolError
from icl_embed.pool.database import Connection, fetch_all, fetch_count

logger = logging.getLogger(__name__)

REASONS = {
    "empty_query": "the query has no visible character",
    "label_missing": "a label kind without label text",
    "positive_missing": "no positive, or one without a visible character",
    "score_missing": "an sts or pair_classification row without a finite score",
    "too_short": "the query is shorter than pool.min_characters (Han, kana and Hangul count as two)",
    "too_long": "query or positive is longer than pool.max_characters (see pool.long_texts)",
    "positive_equals_query": "both sides are the same text",
    "evaluated_exact": "a side equals a dev or test text of any data set",
    "evaluated_ngram": "a side shares a long word run with a dev or test text of any data set",
    "label_conflict": "the same text has two labels; none of its rows is kept",
    "exact_duplicate": "the same pair came before",
    "near_duplicate": "a nearly equal query (sts: pair) came before",
}

SETTINGS = {
    "too_short": "pool.min_characters",
    "too_long": "pool.max_characters or pool.long_texts",
    "evaluated_ngram": "pool.decontamination_ngram",
    "near_duplicate": "pool.near_duplicate_threshold",
}
"""Which setting a rejection comes from, where it comes from one."""


def collect(connection: Connection, config: PoolConfig) -> dict[str, Any]:
    """The content of ``statistics.json``, JSON types only, per data set in order of name."""
    columns = "dataset, kind, trained, num_pairs, weight"
    sources = fetch_all(connection, f"SELECT {columns} FROM sources ORDER BY dataset")  # noqa: S608
    datasets = {}
    for name, kind, trained, num_pairs, weight in sources:
        datasets[name] = {
            "kind": kind,
            "trained": trained,
            "weight": weight,
            "rows": _counts(connection, "splits", "split", name),
            "rows_out": _kept_rows(connection, name),
            "pairs_in": sum(_counts(connection, "pairs", "is_positive", name).values()),
            "pairs_out": num_pairs,
            "pairs_not_positive": _not_positive(connection, name),
            "rejected": _counts(connection, "pairs", "reason", name),
            "long_texts": _long_texts(connection, name, config.max_characters),
            "decontamination": _decontamination(connection, name),
            "negatives_given": _outcomes(connection, "negatives", name),
            "passages": _outcomes(connection, "passages", name),
            "examples": _outcomes(connection, "examples", name),
        }
    return {
        "datasets": datasets,
        "reasons": REASONS,
        "notes": {
            "decontamination": (
                "exact: a side of the pair equals an evaluated text up to case and white space; "
                f"ngram: it shares {config.decontamination_ngram} words in a row with one (both may hold). "
                "exact_only: pairs whose sides are all shorter than that run, which only the exact "
                "comparison can catch"
            ),
        },
    }


def tell_long_texts(statistics: dict[str, Any], config: PoolConfig) -> None:
    """Say in the log how many texts are above ``pool.max_characters``, and what happened to them."""
    outcome = (
        "are cut there"
        if config.long_texts == "cut"
        else ('are left out; pool.long_texts = "cut" keeps their beginning')
    )
    for name, found in statistics["datasets"].items():
        counted = [f"{count} {what}" for what, count in found["long_texts"].items() if count]
        if counted:
            logger.warning(
                "data set %s: %s with more than pool.max_characters = %d characters %s",
                name,
                ", ".join(counted),
                config.max_characters,
                outcome,
            )


def check_limits(statistics: dict[str, Any], config: PoolConfig) -> None:
    """Refuse a pool that lost too much, or holds nothing to train on.

    Raises
        PoolError: names the data set, the reasons and the settings that they come from.
    """
    kept = 0
    for name, found in statistics["datasets"].items():
        lost = sum(found["rejected"].values())
        share = lost / max(1, found["pairs_in"])
        reasons = ", ".join(f"{reason} {count}" for reason, count in found["rejected"].items())
        message = f"data set {name}: {lost} of {found['pairs_in']} training pairs rejected ({reasons})"
        if share > config.max_dropped_fraction:
            if found["trained"]:
                limit = config.max_dropped_fraction
                raise PoolError(f"{message}; allowed is {limit:.0%}: {_advice(found)}")
            logger.warning("%s; it is evaluated only, and has fewer examples to choose from", message)
        if found["trained"]:
            kept += found["pairs_out"]
            if not found["pairs_out"]:
                why = f" ({reasons}): {_advice(found)}, or" if lost else ";"
                raise PoolError(f"data set {name} has no training pair left{why} take it out of data.train")
    if not kept:
        raise PoolError("the pool is empty: name at least one data set with training rows in data.train")


def _advice(found: dict[str, Any]) -> str:
    """What to do about rejected pairs: the setting behind the commonest reasons first."""
    ordered = sorted(found["rejected"], key=lambda reason: -found["rejected"][reason])
    settings = [SETTINGS[reason] for reason in ordered if reason in SETTINGS]
    advice = ["mend the data", *(f"change {name}" for name in settings)]
    if found["pairs_out"]:  # else nothing would be left, however many may go
        advice.append("raise pool.max_dropped_fraction")
    return ", or ".join(advice)


def _long_texts(connection: Connection, dataset: str, longest: int) -> dict[str, int]:
    """Training pairs, given negatives and candidate passages with a text above the limit."""
    queries = {
        "pairs": """
            SELECT count(*) FROM pairs AS p JOIN texts AS q ON q.text_id = p.query_id
            LEFT JOIN texts AS a ON a.text_id = p.positive_id
            WHERE p.dataset = ? AND greatest(q.num_characters, coalesce(a.num_characters, 0)) > ?
        """,
        "negatives": "SELECT count(*) FROM negatives JOIN texts USING (text_id) "
        "WHERE dataset = ? AND num_characters > ?",
        "passages": "SELECT count(*) FROM passages JOIN texts USING (text_id) "
        "WHERE dataset = ? AND num_characters > ?",
    }
    return {what: fetch_count(connection, query, [dataset, longest]) for what, query in queries.items()}


def _counts(connection: Connection, table: str, column: str, dataset: str) -> dict[str, int]:
    rows = fetch_all(
        connection,
        f"SELECT {column}, count(*) FROM {table} "  # noqa: S608 (names come from this module)
        f"WHERE dataset = ? AND {column} IS NOT NULL GROUP BY ALL ORDER BY ALL",
        [dataset],
    )
    return {str(value): count for value, count in rows}


def _outcomes(connection: Connection, table: str, dataset: str) -> dict[str, int]:
    rows = fetch_all(
        connection,
        f"SELECT coalesce(reason, ' kept'), count(*) FROM {table} "  # noqa: S608 (as above)
        "WHERE dataset = ? GROUP BY ALL ORDER BY ALL",
        [dataset],
    )
    return {"kept": 0} | {reason.strip(): count for reason, count in rows}


def _kept_rows(connection: Connection, dataset: str) -> int:
    query = "SELECT count(DISTINCT row_id) FROM pairs WHERE dataset = ? AND reason IS NULL AND is_positive"
    return fetch_count(connection, query, [dataset])


def _not_positive(connection: Connection, dataset: str) -> int:
    query = "SELECT count(*) FROM pairs WHERE dataset = ? AND reason IS NULL AND NOT is_positive"
    return fetch_count(connection, query, [dataset])


def _decontamination(connection: Connection, dataset: str) -> dict[str, Any]:
    """Counted over all training pairs, whatever else they were rejected for."""
    counted = fetch_all(
        connection,
        """
        SELECT count_if(evaluated_exact), count_if(evaluated_ngram),
               count_if(evaluated_ngram AND NOT evaluated_exact), count_if(exact_only)
        FROM judged WHERE dataset = ?
        """,
        [dataset],
    )
    matches = fetch_all(
        connection,
        """
        WITH matched AS (FROM judged WHERE dataset = ? AND evaluated_exact),
        sides AS (
            SELECT pair_id, query_match AS match_id FROM matched
            UNION ALL SELECT pair_id, positive_match FROM matched WHERE NOT has_labels(kind)
        )
        SELECT e.dataset, count(DISTINCT pair_id)
        FROM sides JOIN texts USING (match_id) JOIN evaluation_texts AS e USING (text_id)
        GROUP BY ALL ORDER BY ALL
        """,
        [dataset],
    )
    exact, ngram, ngram_only, exact_only = counted[0]
    return {
        "exact": exact,
        "ngram": ngram,
        "ngram_without_exact": ngram_only,
        "exact_only": exact_only,
        "exact_by_evaluated_dataset": dict(matches),
    }
