"""The pipeline as a graph of artefacts: what each stage depends on, and how it is built.

``keys`` computes the name of every artefact from the config alone, ``plan`` compares those names with the
store, and ``build`` makes one artefact. Nothing here knows a workflow engine; flows decide the order.
"""
