"""A table of action values as a Stable-Baselines3 policy."""

from __future__ import annotations

from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule

from mbrl_wrappers.checks import within
from mbrl_wrappers.tabular_data import check_tabular_spaces, table_rows


class TabularPolicy(BasePolicy):
    """Greedy on a table of action values ``q_table (S, A)`` float64; of equal values the first wins.

    Args:
        observation_space: Discrete.
        action_space: Discrete.
        lr_schedule: unused, SB3 passes it to every policy.
        initial_value: of every entry; above what can be earned it makes the agent try everything (Sutton and Barto
            2018, section 2.6).

    Raises:
        TypeError: for other spaces.
    """

    q_table: th.Tensor

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule | None = None,
        initial_value: float = 0.0,
    ) -> None:
        super().__init__(observation_space, action_space)
        states, actions = check_tabular_spaces(observation_space, action_space, "TabularPolicy")
        self.first_state, self.first_action = int(states.start), int(actions.start)
        self.initial_value = within("initial_value", initial_value, -float("inf"))
        shape = (int(states.n), int(actions.n))
        self.register_buffer("q_table", th.full(shape, self.initial_value, dtype=th.float64))

    def _predict(self, observation: PyTorchObs, deterministic: bool = True) -> th.Tensor:
        assert isinstance(observation, th.Tensor)
        assert isinstance(self.observation_space, spaces.Discrete)
        rows = th.as_tensor(table_rows(observation.numpy(), self.observation_space, "Observation"))
        return self.q_table[rows].argmax(-1) + self.first_action

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {
            "observation_space": self.observation_space,
            "action_space": self.action_space,
            "initial_value": self.initial_value,
        }
