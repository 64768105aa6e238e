"""Planners that only need scores: sample sequences, score them in the model, improve."""
