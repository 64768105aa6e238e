"""SAC whose actor ascends a value expanded by a differentiable model: SVG(H)."""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.sac.policies import SACPolicy

from sb3_ext.agents.policy_gradient import ModelPolicyGradient


class SVG(ModelPolicyGradient):
    r"""Stochastic value gradients on soft actor-critic, SAC-SVG(H).

    The critics learn from real transitions as SAC's do. The actor's loss is the model-expanded one,

    .. math:: -E_{s_0 \sim D} \Big[\sum_{t<H} \gamma^t m_t (r_t - \alpha \ln \pi(a_t \mid s_t))
              + \gamma^H m_H \big(\min_i Q_i(s_H, a_H) - \alpha \ln \pi(a_H \mid s_H)\big)\Big],

    differentiated through actions, states and rewards of the model, where :math:`m_t` is 1 while the row has not
    terminated (Amos et al. 2021, "On the model-based stochastic value gradient for continuous reinforcement learning",
    equation 10). Here ``horizon`` counts steps of the model: their H = 3 is ``horizon=2``, and ``horizon=0`` is SAC to
    the last bit. Differences: the model is an ensemble fitted by :class:`~sb3_ext.DynaCallback` and not a recurrent
    network, the entropy of steps after a termination is masked as their reward is, and the loss is not divided by H.

    Args:
        policy: as in SAC.
        env: a task with a Box of actions.
        horizon: steps of the model ``H``. Short ones are best: see ``docs/gradients.md``.
        max_grad_norm: length at which the actor's gradient is clipped; None for no clipping.
        probe_freq: updates between looks at the variance of the gradient, logged under ``gradient/``; 0 for none.
        **kwargs: every other argument of SAC, by name.

    Raises:
        ValueError: for numbers out of range.
        TypeError: when training starts, for a model that is not differentiable.
    """

    def __init__(
        self,
        policy: str | type[SACPolicy],
        env: GymEnv | str | None,
        *,
        horizon: int = 2,
        max_grad_norm: float | None = None,
        probe_freq: int = 1000,
        **kwargs: Any,
    ) -> None:
        given = sorted({"estimator", "terminal_value", "lam"} & set(kwargs))
        if given:
            raise ValueError(
                f"SVG is pathwise with a critic at the end: for another {given[0]} take ModelPolicyGradient."
            )
        super().__init__(policy, env, horizon=horizon, max_grad_norm=max_grad_norm, probe_freq=probe_freq, **kwargs)
