"""Planners that grow trees."""
