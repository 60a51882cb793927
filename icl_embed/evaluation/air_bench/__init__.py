"""AIR-Bench 24.04 and 24.05: question answering and search inside long documents, scored or packed to submit.

The package ``air-benchmark`` keys results by a retriever's name alone, skips splits it finds, and fixes its
data to the hub; so its layout of data, its metrics and its submission archive are spoken here directly, and
the tests compare them with the package where it is installed.
"""
