"""Any SB3 or SBX agent as the policy of a model rollout."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch as th
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Generator, Tensor

from mbrl_wrappers.seeding import draw_seed, fenced_global_streams
from mbrl_wrappers.spaces import ActionCodec, check_action_space

# Rows per call of the agent: activations stay in cache, and an agent that compiles for each batch shape (SBX) meets
# few of them, since smaller batches are padded to a power of two.
CHUNK_ROWS = 4096
MIN_CHUNK_ROWS = 64


class AgentPolicy:
    """Draws model actions from an agent's own exploration policy, row by row.

    Stochastic actors (SAC, TQC, CrossQ, PPO ...) are sampled. Deterministic ones (TD3, DDPG, NAF without noise of its
    own) get Gaussian noise per row; the agent's ``action_noise`` is left alone, since it is stateful and sized for the
    real environments. Value agents (DQN, QR-DQN) act greedily and explore per row at their present
    ``exploration_rate``. ``VecNormalize`` statistics are applied and never updated. The agent's random streams are as
    they were before each call.

    Args:
        agent: the SB3 or SBX agent; looked at anew in every call.
        noise_std: standard deviation of the noise of deterministic actors, in model-action units.
        deterministic: act greedily, without any noise.
    """

    def __init__(self, agent: BaseAlgorithm, *, noise_std: float = 0.1, deterministic: bool = False) -> None:
        self.agent = agent
        self.noise_std = noise_std
        self.deterministic = deterministic
        self.codec = ActionCodec(check_action_space(agent.action_space))

    def __call__(self, obs: Tensor, *, generator: Generator) -> Tensor:
        """Model actions ``(B, A)`` for raw observations ``(B, O)``."""
        with fenced_global_streams(draw_seed(generator)), _fenced_jax_keys(self.agent, generator):
            actions = self._predict(obs.detach().cpu().numpy())
        return self._explore(self.codec.from_env(actions).to(obs.device), generator)

    def _predict(self, obs: NDArray[Any]) -> NDArray[Any]:
        normalizer = self.agent.get_vec_normalize_env()
        if normalizer is not None:
            obs = np.asarray(normalizer.normalize_obs(obs))
        # DQN's own exploration decides once for the whole batch, so it is off here and applied per row elsewhere.
        greedy = self.deterministic or hasattr(self.agent, "exploration_rate")
        chunks = []
        for start in range(0, len(obs), CHUNK_ROWS):
            chunk = obs[start : start + CHUNK_ROWS]
            action, _ = self.agent.predict(padded(chunk), deterministic=greedy)
            chunks.append(action[: len(chunk)])
        return np.concatenate(chunks)

    def _explore(self, action: Tensor, generator: Generator) -> Tensor:
        if self.deterministic:
            return action
        device = action.device
        if hasattr(self.agent, "exploration_rate"):
            explore = th.rand(len(action), generator=generator, device=device) < float(self.agent.exploration_rate)
            drawn = th.randint(self.codec.size, (len(action),), generator=generator, device=device)
            random = th.nn.functional.one_hot(drawn, self.codec.size).to(action.dtype)
            return th.where(explore[:, None], random, action)
        if _acts_deterministically(self.agent):
            noise = th.randn(action.shape, generator=generator, device=device)
            return (action + self.noise_std * noise).clamp(-1.0, 1.0)
        return action


def padded(obs: NDArray[Any]) -> NDArray[Any]:
    """Pad to the next power of two with copies of the last row."""
    rows = max(MIN_CHUNK_ROWS, 1 << (len(obs) - 1).bit_length())
    return obs if rows == len(obs) else np.concatenate([obs, np.repeat(obs[-1:], rows - len(obs), axis=0)])


def _acts_deterministically(agent: BaseAlgorithm) -> bool:
    """TD3 and its child DDPG, of SB3 and of SBX (recognised by name, so that SBX need not be installed), and NAF.

    NAF with noise of its own explores by it.
    """
    named = {base.__name__ for base in type(agent).__mro__}
    return bool(named & {"TD3", "DDPG"}) or ("NAF" in named and not getattr(agent, "covariance_noise", 0.0))


@contextmanager
def _fenced_jax_keys(agent: BaseAlgorithm, generator: Generator) -> Iterator[None]:
    """Replace the random key of an SBX policy by one from ``generator`` inside the block, and restore it afterwards."""
    policy: Any = agent.policy
    names = [name for name in ("key", "noise_key") if hasattr(policy, name)]
    jax = sys.modules.get("jax")
    if not names or jax is None:
        yield
        return
    saved = {name: getattr(policy, name) for name in names}
    policy.key = jax.random.PRNGKey(draw_seed(generator))
    try:
        yield
    finally:
        for name, value in saved.items():
            setattr(policy, name, value)
