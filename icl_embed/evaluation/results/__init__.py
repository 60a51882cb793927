"""Scores of many models side by side: one DuckDB table, comparisons, leaderboard, regressions."""
