"""Tree search with Discrete actions in any model."""
