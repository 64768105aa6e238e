"""The JAX parts of an SBX agent: train states and random keys, as the leaves of their trees."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm

from mbrl_wrappers.states import StateDict, require_keys

_HOLDERS = ("agent", "policy")


def jax_state(agent: BaseAlgorithm) -> StateDict:
    """Every train state and random key of the agent and its policy; empty for an agent in torch.

    Leaves are listed in the order of their tree. Unsigned ones, such as keys, are kept as int64, which holds them.
    """
    return {name: [_stored(leaf) for leaf in _tree().leaves(tree)] for name, _, _, tree in _trees(agent)}


def load_jax_state(agent: BaseAlgorithm, state: Mapping[str, Any]) -> None:
    """Put a freshly built agent into a state that :func:`jax_state` gave; the trees' structure is its own.

    Raises:
        ValueError: if the trees or the shapes of their leaves differ; nothing is changed then.
    """
    trees = list(_trees(agent))
    require_keys(state, [name for name, *_ in trees], f"this {type(agent).__name__}")
    loaded = []
    for name, holder, attribute, tree in trees:
        own, stored = _tree().leaves(tree), state[name]
        shapes = [np.shape(leaf) for leaf in own], [np.shape(leaf) for leaf in stored]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"{name} of the run that was saved has leaves of the shapes {shapes[1]}, and this agent's has "
                f"{shapes[0]}: build it as it was when the run was saved."
            )
        leaves = [_rebuilt(leaf, value) for leaf, value in zip(own, stored, strict=True)]
        loaded.append((holder, attribute, _tree().unflatten(_tree().structure(tree), leaves)))
    for holder, attribute, value in loaded:
        setattr(holder, attribute, value)


def _tree() -> Any:
    return sys.modules["jax"].tree


def _trees(agent: BaseAlgorithm) -> Iterator[tuple[str, Any, str, Any]]:
    """Name, holder, attribute and value of each tree."""
    if "jax" not in sys.modules or not hasattr(agent, "key"):
        return
    for name, holder in zip(_HOLDERS, (agent, agent.policy), strict=True):
        for attribute in sorted(vars(holder)):
            if attribute.endswith(("_state", "key")) and not attribute.startswith("_"):
                yield f"{name}.{attribute}", holder, attribute, getattr(holder, attribute)


def _stored(leaf: Any) -> NDArray[Any] | int | float:
    if isinstance(leaf, int | float):
        return leaf
    array = np.array(leaf)
    return array.astype(np.int64) if array.dtype.kind == "u" and array.dtype.itemsize < 8 else array


def _rebuilt(own: Any, stored: Any) -> Any:
    """A stored leaf in the dtype of one's own; a count that has become an array since stays one."""
    if isinstance(stored, int | float):
        return stored
    dtype = stored.dtype if isinstance(own, int | float) else own.dtype
    return sys.modules["jax"].numpy.asarray(stored, dtype=dtype)
