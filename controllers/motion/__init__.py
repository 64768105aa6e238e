"""Motion planning: trees around obstacles and through models, and following the path."""
