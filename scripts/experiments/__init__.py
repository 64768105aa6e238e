"""What makes the files of docs/results that no command makes."""
