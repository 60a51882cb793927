"""What the paper left open: how many examples, how good they must be, what they cost, what was seen."""
