"""Training: batches, loss, one step, the loop around it, and checkpoints that survive anything."""
