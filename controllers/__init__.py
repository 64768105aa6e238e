"""Planning with any model. Planners see protocols only: never a concrete model, an environment or an agent."""
