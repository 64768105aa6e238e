"""Scripts for the files in docs/results that the other commands do not write."""
