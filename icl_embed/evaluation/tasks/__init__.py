"""Tasks: data sets of the project, MTEB's and AIR-Bench's behind one protocol."""
