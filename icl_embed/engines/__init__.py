"""One way to run a model over many inputs: a worker per device, here or on the nodes of a Ray cluster."""
