"""Public benchmarks, MTEB and AIR-Bench, in any few-shot setting: ``icl-embed eval run``."""
