"""What plan.py and train_planner.py do: settings, episodes of a planner, learning a model on the way."""
