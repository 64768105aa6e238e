"""Behind train.py: flags, hyperparameters, agents, evaluation."""
