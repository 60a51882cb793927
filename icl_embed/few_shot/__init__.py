"""Which examples a task is shown: strategies, their search on a development split, and what each is worth."""
