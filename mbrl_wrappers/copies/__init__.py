"""Copies of environments that do what the environment does, and a trial that finds out whether they do."""
