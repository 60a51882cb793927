"""Evaluation through mteb: zero-shot and few-shot, with baselines and intervals."""
