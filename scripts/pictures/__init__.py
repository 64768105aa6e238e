"""Curves, trees, plans and films."""
