"""One file per stage: its version, its key, and how it is built."""
