"""Run folders, their summaries, and intervals over them."""
