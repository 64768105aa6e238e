"""What rewards charge for the action."""

from __future__ import annotations

import torch as th
from torch import Tensor

from mbrl_wrappers.tasks.rules import check_width


class ChargesControl:
    r"""Base of the rewards with a control cost :math:`w_c \sum u^2`, where ``ctrl_weight`` is :math:`w_c`.

    The environments charge for the action as given, also outside its bounds.
    """

    ctrl_weight: float

    @property
    def uses_action(self) -> bool:
        """Whether the reward depends on the action."""
        return self.ctrl_weight != 0

    def control_cost(self, action: Tensor, action_size: int, dtype: th.dtype) -> Tensor:
        """``(B,)`` in ``dtype`` from ``action (B, action_size)``.

        Raises:
            ValueError: if the action has another width.
        """
        check_width(action, action_size, "actions", self)
        return self.ctrl_weight * action.to(dtype).square().sum(1)
