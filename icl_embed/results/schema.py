"""The tables of ``results.duckdb``, each column with its meaning."""

from __future__ import annotations

import pyarrow as pa

VERSION = 1  # raise when a table changes: the file is then built again from the store

TEXT, NUMBER, WHOLE, FLAG = "VARCHAR", "DOUBLE", "BIGINT", "BOOLEAN"
ARROW_TYPES = {TEXT: pa.string(), NUMBER: pa.float64(), WHOLE: pa.int64(), FLAG: pa.bool_()}

TABLES: dict[str, dict[str, tuple[str, str]]] = {
    "artefacts": {
        "reference": (TEXT, "stage/fingerprint: the key of all tables; icl-embed store lineage opens it"),
        "stage": (TEXT, "score (icl-embed eval run) or evaluation (the pipeline)"),
        "label": (TEXT, "as icl-embed store ls shows it"),
        "created": (TEXT, "UTC"),
        "git_commit": (TEXT, "of the code that scored; +changes: the tree was dirty"),
        "libraries": (TEXT, "JSON: versions of torch, transformers, mteb, …"),
        "manifest": (TEXT, "sha256 of the manifest: another one means another artefact"),
    },
    "scores": {
        "reference": (TEXT, "of the artefact"),
        "task": (TEXT, "name, with its subset and split where they are not the usual ones"),
        "family": (TEXT, "mteb, air-bench or local"),
        "kind": (TEXT, "retrieval, sts, …"),
        "split": (TEXT, "what was evaluated"),
        "subset": (TEXT, "what was evaluated"),
        "metric": (TEXT, "main score of the task"),
        "aggregation": (TEXT, "how item values become the score"),
        "model": (TEXT, "name"),
        "model_fingerprint": (TEXT, "of the weights"),
        "setting": (TEXT, "zero-shot, 5-shot seed 1, …"),
        "shots": (WHOLE, "examples asked for"),
        "selection": (TEXT, "strategy that chose the examples"),
        "seed": (WHOLE, "of the draw of examples"),
        "quality": (TEXT, "clean, or how the examples were spoiled"),
        "mean": (NUMBER, "the score, a fraction of one"),
        "low": (NUMBER, "lower end of its interval"),
        "high": (NUMBER, "upper end of its interval"),
        "num_items": (WHOLE, "test items behind it"),
        "query_tokens_mean": (NUMBER, "tokens of a query with everything before it"),
        "seconds": (NUMBER, "of the whole run"),
        "query_seconds": (NUMBER, "of encoding queries"),
        "passage_seconds": (NUMBER, "of encoding passages"),
        "trained_on": (FLAG, "whether the task's training split was trained on"),
        "data_fingerprint": (TEXT, "of the data that were read"),
        "served_from": (TEXT, "hub or mirror"),
        "dtype": (TEXT, "number format of the weights"),
        "created": (TEXT, "UTC"),
        "git_commit": (TEXT, "of the code that scored"),
    },
    "item_values": {
        "reference": (TEXT, "of the artefact"),
        "setting": (TEXT, "as in scores"),
        "position": (WHOLE, "order within the setting"),
        "item_id": (TEXT, "query, pair or set of texts"),
        "value": (NUMBER, "its metric, or its predicted similarity"),
        "target": (NUMBER, "its gold score or label, where there is one"),
    },
    "examples": {
        "reference": (TEXT, "of the artefact"),
        "setting": (TEXT, "as in scores"),
        "set_number": (WHOLE, "0 unless examples are chosen per query"),
        "position": (WHOLE, "order in the prompt"),
        "query": (TEXT, "of the example"),
        "response": (TEXT, "of the example"),
    },
    "absences": {
        "reference": (TEXT, "of the artefact"),
        "task": (TEXT, "as in scores"),
        "model": (TEXT, "name"),
        "model_fingerprint": (TEXT, "of the weights"),
        "setting": (TEXT, "that was asked for and not measured"),
        "reason": (TEXT, "why"),
    },
}


def create_statements() -> list[str]:
    """The statements that make an empty database."""
    statements = [f"CREATE TABLE version AS SELECT {VERSION} AS version"]
    for table, columns in TABLES.items():
        body = ", ".join(f'"{name}" {kind}' for name, (kind, _) in columns.items())
        statements.append(f'CREATE TABLE "{table}" ({body})')
        for name, (_, meaning) in columns.items():
            text = meaning.replace("'", "''")
            statements.append(f"""COMMENT ON COLUMN "{table}"."{name}" IS '{text}'""")
    return statements


def arrow_schema(table: str) -> pa.Schema:
    """The Arrow schema of a table's rows."""
    return pa.schema([(name, ARROW_TYPES[kind]) for name, (kind, _) in TABLES[table].items()])
