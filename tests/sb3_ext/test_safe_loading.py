"""SB3's zips: what was learned comes back without a pickle being read; a damaged or malicious file is named."""

from __future__ import annotations

import base64
import collections
import copy
import io
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env

from sb3_ext.safe_loading import load_agent
from tests.memory import MEBIBYTE, largest_memory, little_memory

SMALL = {"policy_kwargs": {"net_arch": [8]}, "device": "cpu"}
OFF = {**SMALL, "learning_starts": 20, "buffer_size": 100, "batch_size": 8}


class Canary:
    """Pickled, it makes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def trained(cls: type[BaseAlgorithm], env_id: str, **arguments: Any) -> BaseAlgorithm:
    agent = cls("MlpPolicy", make_vec_env(env_id), seed=0, **copy.deepcopy(arguments))
    return agent.learn(60)


@pytest.fixture(scope="module")
def agent() -> BaseAlgorithm:
    """SAC after 40 updates, its entropy coefficient no longer 1."""
    return trained(SAC, "Pendulum-v1", **OFF)


@pytest.fixture
def path(agent: BaseAlgorithm, tmp_path: Path) -> Path:
    agent.save(tmp_path / "agent.zip")
    return tmp_path / "agent.zip"


def altered(path: Path, change: Callable[[str, bytes], Iterator[tuple[str, bytes]]], *, compress: bool = False) -> None:
    """Write the zip anew with what ``change`` makes of each member."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    kind = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, content in members.items():
            for new_name, new_content in change(name, content):
                archive.writestr(new_name, new_content)


def replaced(path: Path, member: str, content: bytes | None) -> None:
    """Give one member another content, or leave it out."""

    def change(name: str, old: bytes) -> Iterator[tuple[str, bytes]]:
        if name != member:
            yield name, old
        elif content is not None:
            yield name, content

    altered(path, change)


def as_torch_file(value: Any) -> bytes:
    buffer = io.BytesIO()
    th.save(value, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("cls", "env_id", "arguments"),
    [
        (SAC, "Pendulum-v1", OFF),
        (SAC, "Pendulum-v1", {**OFF, "ent_coef": 0.3}),
        (SAC, "Pendulum-v1", {**OFF, "use_sde": True}),
        (TD3, "Pendulum-v1", OFF),
        (DQN, "CartPole-v1", OFF),
        (PPO, "CartPole-v1", {**SMALL, "n_steps": 30, "batch_size": 30}),
    ],
)
def test_what_was_learned_comes_back_without_pickles(
    tmp_path: Path, cls: type[BaseAlgorithm], env_id: str, arguments: dict[str, Any]
) -> None:
    """Every tensor that ``SAC.load`` restores is restored: networks, targets, optimisers, entropy coefficient."""
    original = trained(cls, env_id, **arguments)
    original.save(tmp_path / "agent.zip")
    replaced(tmp_path / "agent.zip", "data", None)
    loaded = load_agent(tmp_path / "agent.zip", original.get_env(), cls, **arguments)  # type: ignore[arg-type]
    wanted, found = original.get_parameters(), loaded.get_parameters()
    assert wanted.keys() == found.keys()
    for part in wanted:
        assert as_torch_file(wanted[part]) == as_torch_file(found[part]), part
    for name in original._get_torch_save_params()[1]:
        assert th.equal(getattr(original, name).data, getattr(loaded, name).data)
    obs = original.observation_space.sample()
    np.testing.assert_array_equal(
        original.predict(obs, deterministic=True)[0], loaded.predict(obs, deterministic=True)[0]
    )
    loaded.learn(30)  # and it can be trained on


def test_the_entropy_coefficient_is_among_what_comes_back(path: Path, agent: SAC) -> None:
    loaded = load_agent(path, agent.get_env(), SAC, **OFF)  # type: ignore[arg-type]
    assert loaded.log_ent_coef is not None
    assert agent.log_ent_coef is not None
    assert loaded.log_ent_coef.item() == agent.log_ent_coef.item() != 0
    assert loaded.ent_coef_optimizer.param_groups[0]["params"][0] is loaded.log_ent_coef  # type: ignore[union-attr]


def test_a_pickle_is_run_only_with_trust(path: Path, agent: SAC, tmp_path: Path) -> None:
    song = tmp_path / "song"
    with zipfile.ZipFile(path) as archive:
        data = json.loads(archive.read("data"))
    pickled = base64.b64encode(cloudpickle.dumps(Canary(song))).decode()
    replaced(path, "data", json.dumps({**data, "song": {":type:": "x", ":serialized:": pickled}}).encode())
    load_agent(path, agent.get_env(), SAC, **OFF)  # type: ignore[arg-type]
    assert not song.exists()
    load_agent(path, agent.get_env(), SAC, trust=True)  # type: ignore[arg-type]
    assert song.exists(), "the canary itself works"


def refused(path: Path, agent: BaseAlgorithm, message: str, **arguments: Any) -> None:
    with pytest.raises(ValueError, match=message) as error:
        load_agent(path, agent.get_env(), type(agent), **{**OFF, **arguments})  # type: ignore[arg-type]
    assert str(path) in str(error.value)
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize("member", ["policy.pth", "pytorch_variables.pth", "critic.optimizer.pth"])
def test_canaries_among_the_tensors_are_not_run(path: Path, agent: SAC, tmp_path: Path, member: str) -> None:
    """As a torch file, as a bare pickle, and as a class that torch itself lets pass."""
    song = tmp_path / "song"
    for content in (as_torch_file({"song": Canary(song)}), cloudpickle.dumps(Canary(song))):
        replaced(path, member, content)
        refused(path, agent, "corrupt")
        assert not song.exists()
    replaced(path, member, as_torch_file({"counts": collections.Counter()}))
    refused(path, agent, "described with")


def test_nothing_asks_for_more_memory_than_the_file_has(path: Path, agent: SAC) -> None:
    """Compressed parts, and a few bytes that stand for terabytes by repeating one number."""
    original = path.read_bytes()
    huge = th.zeros(1).expand(10**6, 10**6)
    for change in (
        lambda: altered(path, lambda name, content: iter([(name, content)]), compress=True),
        lambda: replaced(path, "policy.pth", as_torch_file({**agent.policy.state_dict(), "huge": huge})),
        lambda: replaced(path, "pytorch_variables.pth", as_torch_file({"log_ent_coef": huge})),
        lambda: replaced(
            path,
            "actor.optimizer.pth",
            as_torch_file({"state": {0: {"exp_avg": huge.double()[:1]}}, "param_groups": []}),
        ),
    ):
        path.write_bytes(original)
        try:
            change()
        except RuntimeError:  # torch itself would write all of it out
            continue
        before = largest_memory()
        with little_memory():
            refused(path, agent, "compressed|shape|corrupt")
        assert largest_memory() - before < 64 * MEBIBYTE


def test_names_that_lead_elsewhere_are_refused(path: Path, agent: SAC, tmp_path: Path) -> None:
    original = path.read_bytes()
    for name in ("../escaped.pth", "/tmp/escaped.pth", "policy.pth/../../escaped.pth", "other.pth", "escaped.txt"):
        path.write_bytes(original)
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(name, b"x")
        refused(path, agent, "it has the parts")
    path.write_bytes(original)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("policy.pth", b"x")
    refused(path, agent, "two parts of one name")
    assert not list(tmp_path.parent.glob("escaped*"))


def test_a_truncated_or_flipped_zip_says_so(path: Path, agent: SAC) -> None:
    original = path.read_bytes()
    for length in (0, 10, len(original) // 2, len(original) - 1):
        path.write_bytes(original[:length])
        refused(path, agent, "truncated, corrupt or no agent file")
    with zipfile.ZipFile(io.BytesIO(original)) as archive:
        member = archive.getinfo("policy.pth")
        begin = member.header_offset + 30 + len(member.filename)
        end = begin + member.file_size
    rng = np.random.default_rng(0)
    for position in rng.integers(begin, end, 40):
        damaged = bytearray(original)
        damaged[position] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        refused(path, agent, "the checksum of policy.pth differs|truncated, corrupt")


@pytest.mark.parametrize(
    "arguments",
    [
        {"policy_kwargs": {"net_arch": [9]}},
        {"policy_kwargs": {"net_arch": [8, 8]}},
        {"ent_coef": 0.1},
        {"use_sde": True},
    ],
)
def test_another_agent_is_named(path: Path, agent: SAC, arguments: dict[str, Any]) -> None:
    refused(path, agent, "does not fit this SAC|it has the parts", **arguments)


def test_another_task_is_named(path: Path, agent: SAC) -> None:
    env = make_vec_env("MountainCarContinuous-v0")
    assert env.observation_space != agent.observation_space
    assert isinstance(env.action_space, spaces.Box)
    with pytest.raises(ValueError, match=r"does not fit this SAC: .* has the shape .* in the file and .* here"):
        load_agent(path, env, SAC, **OFF)


def test_what_is_not_there_is_said(agent: SAC, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="There is no agent file"):
        load_agent(tmp_path / "nothing.zip", agent.get_env(), SAC)  # type: ignore[arg-type]
