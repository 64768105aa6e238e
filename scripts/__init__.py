"""What a person runs: train, enjoy, plot, table and demo."""
