"""The pool: every candidate training pair and example, in one DuckDB file with Parquet beside it.

``build`` makes it, ``choose`` picks few-shot examples from it, ``negatives`` mines hard negatives, and
``database`` is the only door to DuckDB. Nothing is imported here, so that the command line starts fast.
"""
