"""What leaves the house: model folders that other libraries load, their cards, FlagEmbedding's data files."""
