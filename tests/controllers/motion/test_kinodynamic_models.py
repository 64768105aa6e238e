"""Planning through models that are not written by hand."""

from __future__ import annotations

import gymnasium
import numpy as np
import torch as th
from gymnasium import spaces

from controllers import KinodynamicProblem, KinodynamicRRT
from mbrl_wrappers import EnsembleDynamics, MujocoModel
from mbrl_wrappers.spaces import ActionCodec


def test_a_plan_through_mujoco_happens_on_the_real_environment() -> None:
    env = gymnasium.make("InvertedPendulum-v5")
    obs, _ = env.reset(seed=0)
    bounds = np.array([1, 0.2, 3, 3])  # the angle at which the episode ends is one of them
    problem = KinodynamicProblem(MujocoModel(env), obs, [0.3, 0, 0, 0], -bounds, bounds, weights=[1, 1, 0.2, 0.2])
    planner = KinodynamicRRT(sparsity=0.0, goal_tolerance=0.15, max_nodes=1000, hold=(1, 5))
    plan = planner.plan(problem, generator=th.Generator().manual_seed(0))
    assert plan.solved
    for action in ActionCodec(env.action_space).to_env(plan.actions):
        obs, _, terminated, _, _ = env.step(action)
        assert not terminated
    np.testing.assert_allclose(obs, plan.path[-1], atol=1e-9)
    env.close()


def test_a_learned_model_is_planned_through_with_its_members() -> None:
    space = spaces.Box(-1, 1, (2,), np.float32)
    model = EnsembleDynamics(space, space, num_members=3, num_elites=2, hidden=(8,), propagation="tsinf")
    problem = KinodynamicProblem(model, [0.0, 0.0], [0.9, 0.9], [-1, -1], [1, 1])
    plan = KinodynamicRRT(max_nodes=60, hold=(1, 3)).plan(problem, generator=th.Generator().manual_seed(0))
    assert len(plan.nodes) > 1
    assert np.isfinite(plan.path).all()
    assert plan.path.shape == (plan.cost + 1, 2)
