"""Planners that use derivatives of the dynamics along a trajectory."""
