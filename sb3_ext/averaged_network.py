"""The average of one network of an agent, in torch (SB3, sb3-contrib) and in JAX (SBX)."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch as th
from numpy.typing import NDArray
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy

from mbrl_wrappers.optional import require
from mbrl_wrappers.seeding import fenced_global_streams

TORCH_NETWORKS = ("actor", "q_net", "quantile_net")
"""Names of the acting network in a torch policy: the actor, or the Q-network of a value agent (DQN, QR-DQN)."""
JAX_STATES = ("actor_state", "qf_state")
"""The same in an SBX policy. Every actor's policy has a ``qf_state`` too, so the order matters."""
JAX_FIELDS = ("params", "batch_stats")

Arrays = Mapping[str, NDArray[Any]]


class NetworkAverage(Protocol):
    """A second set of weights for the network that acts, with a policy that predicts with them.

    Attributes:
        policy: a policy of the agent's class whose acting network holds the average.
    """

    policy: BasePolicy

    def move(self, weight: float) -> None:
        """Set ``average <- average + weight * (agent - average)``; a weight of 1 copies, as do integer counters."""

    def apply(self) -> None:
        """Put the average in the agent's place until :meth:`withdraw`."""

    def withdraw(self) -> None:
        """Give the agent its own weights back, bit for bit."""

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Copies of the averaged weights by name."""

    def load(self, arrays: Arrays) -> None:
        """Take weights that :meth:`arrays` gave; ``ValueError`` if names or shapes differ."""


def network_average(agent: Any, seed: int) -> NetworkAverage:
    """A copy of the network with which ``agent`` acts, to be averaged.

    Args:
        agent: an off-policy agent of SB3, sb3-contrib or SBX.
        seed: of the draws of the averaged policy in JAX.

    Raises:
        TypeError: if the agent is on-policy, or its policy has no network that is known to act.
    """
    if not isinstance(agent, OffPolicyAlgorithm):
        raise TypeError(
            f"AveragedActor averages the actor of off-policy agents (SAC, TD3, TQC, CrossQ, DQN ...); "
            f"{type(agent).__name__} is none. Train it without AveragedActor."
        )
    policy: Any = agent.policy
    for name in JAX_STATES:
        if hasattr(policy, name):
            return JaxAverage(agent, name, seed)
    for name in TORCH_NETWORKS:
        if isinstance(getattr(policy, name, None), th.nn.Module):
            return TorchAverage(agent, name)
    raise TypeError(
        f"AveragedActor finds no network that acts in {type(policy).__name__} of {type(agent).__name__}: it looks for "
        f"policy.{', policy.'.join((*TORCH_NETWORKS, *JAX_STATES))}."
    )


def check_arrays(expected: Arrays, given: Arrays) -> None:
    """Compare names and shapes of weights.

    Raises:
        ValueError: if they differ; the sentence names the first difference.
    """
    for name in sorted({*expected, *given}):
        here, there = (tuple(arrays[name].shape) if name in arrays else "missing" for arrays in (expected, given))
        if here != there:
            raise ValueError(
                f"The saved average is of another network: {name} is {there} in it and {here} in the agent. "
                "Build the agent with the policy_kwargs and spaces that the average was made with."
            )


class TorchAverage:
    """The average of ``agent.policy.<name>``, parameters and buffers.

    Args:
        agent: the agent.
        name: of the network in the policy.
    """

    def __init__(self, agent: Any, name: str) -> None:
        self._agent = agent
        self._name = name
        self._own: list[th.Tensor] | None = None  # the agent's weights while the average is in their place
        with fenced_global_streams(0):  # the first weights are drawn, and replaced below
            self.policy = agent.policy_class(
                agent.observation_space, agent.action_space, agent.lr_schedule, **agent.policy_kwargs
            ).to(agent.device)
        self.policy.requires_grad_(False)
        self.policy.set_training_mode(False)
        self._average.load_state_dict(self._live.state_dict())

    @property
    def _average(self) -> th.nn.Module:
        network: th.nn.Module = getattr(self.policy, self._name)
        return network

    @property
    def _live(self) -> th.nn.Module:
        network: th.nn.Module = getattr(self._agent.policy, self._name)
        return network

    def move(self, weight: float) -> None:
        """Move the average towards the agent by ``weight``."""
        own = _tensors(self._live) if self._own is None else self._own
        with th.no_grad():
            for average, live in zip(_tensors(self._average), own, strict=True):
                if weight == 1.0 or not average.is_floating_point():
                    average.copy_(live)
                else:
                    average.lerp_(live, weight)

    def apply(self) -> None:
        """Put the average in the agent's place."""
        assert self._own is None
        live = _tensors(self._live)
        self._own = [tensor.data for tensor in live]
        for tensor, average in zip(live, _tensors(self._average), strict=True):
            tensor.data = average.data

    def withdraw(self) -> None:
        """Give the agent its own weights back."""
        assert self._own is not None
        for tensor, own in zip(_tensors(self._live), self._own, strict=True):
            tensor.data = own
        self._own = None

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Copies of the averaged weights by name."""
        return {name: value.cpu().numpy().copy() for name, value in self._average.state_dict().items()}

    def load(self, arrays: Arrays) -> None:
        """Take weights that :meth:`arrays` gave."""
        check_arrays(self.arrays(), arrays)
        self._average.load_state_dict({name: th.as_tensor(np.asarray(value)) for name, value in arrays.items()})


class JaxAverage:
    """The average of ``agent.policy.<name>``, a train state: its parameters and batch statistics.

    Train states are never changed in place, so the average is a second one; the compiled functions are shared.

    Args:
        agent: the agent.
        name: of the train state in the policy.
        seed: of the averaged policy's random key.
    """

    def __init__(self, agent: Any, name: str, seed: int) -> None:
        jax = require("jax", extra="sbx")
        self._agent = agent
        self._name = name
        self._tree = jax.tree_util
        self._numpy = jax.numpy
        self._own: Any = None  # the agent's train state while the average is in its place
        self.policy = copy.copy(agent.policy)
        policy: Any = self.policy
        policy.key = policy.noise_key = jax.random.PRNGKey(seed)

        def lerp(average: Any, live: Any, weight: Any) -> Any:
            if not jax.numpy.issubdtype(live.dtype, jax.numpy.floating):
                return live
            return average + weight.astype(live.dtype) * (live - average)

        self._lerp = jax.jit(lambda average, live, weight: jax.tree.map(lambda a, b: lerp(a, b, weight), average, live))
        self._values = self._fields(self._live)

    @property
    def _live(self) -> Any:
        return getattr(self._agent.policy, self._name) if self._own is None else self._own

    @staticmethod
    def _fields(state: Any) -> dict[str, Any]:
        return {field: getattr(state, field) for field in JAX_FIELDS if hasattr(state, field)}

    def _place(self) -> None:
        averaged = self._live.replace(**self._values)
        setattr(self.policy, self._name, averaged)
        if self._own is not None:
            setattr(self._agent.policy, self._name, averaged)

    def move(self, weight: float) -> None:
        """Move the average towards the agent by ``weight``."""
        live = self._fields(self._live)
        self._values = live if weight == 1.0 else self._lerp(self._values, live, self._numpy.asarray(weight))
        self._place()

    def apply(self) -> None:
        """Put the average in the agent's place."""
        assert self._own is None
        self._own = self._live
        self._place()

    def withdraw(self) -> None:
        """Give the agent its own weights back."""
        assert self._own is not None
        setattr(self._agent.policy, self._name, self._own)
        self._own = None

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Copies of the averaged weights by name."""
        leaves = self._tree.tree_flatten_with_path(self._values)[0]
        return {_path_name(path): np.array(leaf) for path, leaf in leaves}

    def load(self, arrays: Arrays) -> None:
        """Take weights that :meth:`arrays` gave."""
        check_arrays(self.arrays(), arrays)
        leaves, structure = self._tree.tree_flatten_with_path(self._values)
        # CrossQ's count of steps is a number until the first update.
        dtypes = [getattr(leaf, "dtype", None) for _, leaf in leaves]
        loaded = [
            self._numpy.asarray(arrays[_path_name(path)], dtype=dtype)
            for (path, _), dtype in zip(leaves, dtypes, strict=True)
        ]
        self._values = self._tree.tree_unflatten(structure, loaded)
        self._place()


def _tensors(module: th.nn.Module) -> list[th.Tensor]:
    """Parameters and buffers, in the order of the module."""
    return [*module.parameters(), *module.buffers()]


def _path_name(path: tuple[Any, ...]) -> str:
    """``params/Dense_0/kernel`` for a leaf of nested dictionaries."""
    return "/".join(str(getattr(key, "key", key)) for key in path)
