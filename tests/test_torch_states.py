"""States of modules and optimisers: what comes next is what would have come."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch as th
from torch import nn

from mbrl_wrappers.storage.state_file import read_state, write_state
from mbrl_wrappers.torch_states import load_module_state, load_optimizer_state, module_state, optimizer_state


def net(width: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width), nn.Linear(width, 1))


def adam(module: nn.Sequential, **kwargs: bool) -> th.optim.Adam:
    groups = [{"params": module[0].parameters(), "weight_decay": 0.1}, {"params": module[2].parameters()}]
    return th.optim.Adam(groups, lr=0.02, betas=(0.8, 0.9), **kwargs)


def train(module: nn.Sequential, optimizer: th.optim.Optimizer, seed: int) -> None:
    data = th.randn(3, 8, 2, generator=th.Generator().manual_seed(seed))
    for batch in data:
        optimizer.zero_grad()
        module(batch).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize("kwargs", [{}, {"fused": True}, {"amsgrad": True}], ids=str)
def test_training_goes_on_from_a_file(tmp_path: Path, kwargs: dict[str, bool]) -> None:
    module = net()
    optimizer = adam(module, **kwargs)
    train(module, optimizer, 1)
    write_state(tmp_path / "s", {"module": module_state(module), "optimizer": optimizer_state(optimizer)})
    train(module, optimizer, 2)
    other = net()
    fresh = adam(other, **kwargs)
    state, _, _ = read_state(tmp_path / "s")
    load_module_state(other, state["module"])
    load_optimizer_state(fresh, state["optimizer"])
    assert fresh.param_groups[0]["betas"] == (0.8, 0.9)
    train(other, fresh, 2)
    for name, value in module.state_dict().items():
        assert value.equal(other.state_dict()[name]), name


def test_a_state_is_a_copy() -> None:
    module = net()
    optimizer = adam(module)
    train(module, optimizer, 1)
    states = [module_state(module)["0.weight"], optimizer_state(optimizer)["parameters"]["0"]["exp_avg"]]
    before = [value.clone() for value in states]
    train(module, optimizer, 2)
    assert all(one.equal(other) for one, other in zip(before, states, strict=True))


def test_states_of_others_are_refused_and_change_nothing() -> None:
    module, wide = net(), net(4)
    optimizer, other = adam(module), adam(wide)
    train(module, optimizer, 1)
    train(wide, other, 1)
    before = module_state(module)
    with pytest.raises(ValueError, match=r"0.weight in the state of Sequential is torch.float32 of shape \(4, 2\)"):
        load_module_state(module, module_state(wide))
    with pytest.raises(ValueError, match=r"lacks 0.bias"):
        load_module_state(module, {name: value for name, value in before.items() if name != "0.bias"})
    with pytest.raises(ValueError, match=r"exp_avg of parameter 0 in the state of the optimiser has shape \(4, 2\)"):
        load_optimizer_state(optimizer, optimizer_state(other))
    with pytest.raises(ValueError, match=r"of groups of \[2, 2\] parameters, and this one has \[6\]"):
        load_optimizer_state(th.optim.Adam(module.parameters()), optimizer_state(optimizer))
    assert all(value.equal(module_state(module)[name]) for name, value in before.items())
