"""What the paper left open: shot curves, the examples' quality, what examples cost, unseen domains."""
