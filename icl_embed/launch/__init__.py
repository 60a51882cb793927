"""Distributed jobs as subprocesses: killing a rank cannot take the caller down, and no rank outlives it."""
