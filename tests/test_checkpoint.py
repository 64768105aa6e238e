"""Model files: exact round trips, and every way in which a file can be wrong."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from torch import Tensor, nn

from mbrl_wrappers import checkpoint, checkpoint_file
from mbrl_wrappers.checkpoint import CheckpointError, load, load_starts, read_manifest, register_model, save
from mbrl_wrappers.models.ensemble import EnsembleDynamics
from mbrl_wrappers.seeding import torch_generator
from mbrl_wrappers.tasks import task_functions
from mbrl_wrappers.types import Prediction


@register_model("test-affine")
class Affine:
    """The smallest model with weights, a configuration and a function."""

    def __init__(self, layer: nn.Linear, reward_fn: Any = None) -> None:
        self.layer = layer
        self.reward_fn = reward_fn
        self.observation_space = spaces.Box(-np.inf, np.inf, (layer.in_features,), np.float32)

    def predict(self, obs: Tensor) -> Tensor:
        return self.layer(obs)

    def to_checkpoint(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        reward_fn = checkpoint.describe_function(self.reward_fn)
        return {"in": self.layer.in_features, "out": self.layer.out_features, "reward_fn": reward_fn}, dict(
            self.layer.state_dict()
        )

    @classmethod
    def from_checkpoint(
        cls, config: dict[str, Any], tensors: dict[str, Tensor], *, device: th.device, reward_fn: Any = None
    ) -> Affine:
        layer = nn.Linear(config["in"], config["out"])
        layer.load_state_dict(tensors)
        return cls(layer.to(device), reward_fn or checkpoint.restore_function(config["reward_fn"]))


@checkpoint.register_function
@dataclass(frozen=True)
class Weighted:
    """A reward with constants of every plain kind."""

    weight: float = 1.0
    bounds: tuple[float, float] = (0.0, float("inf"))
    label: str | None = None

    def __call__(self, obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        return self.weight * next_obs.sum(-1)


@pytest.fixture
def model() -> Affine:
    with th.random.fork_rng():
        th.manual_seed(0)
        return Affine(nn.Linear(3, 2), Weighted(0.1))


@pytest.fixture
def path(model: Affine, tmp_path: Path) -> Path:
    return save(model, tmp_path / "affine")


def test_a_loaded_model_predicts_the_same_bits(model: Affine, path: Path) -> None:
    obs = th.linspace(-5, 5, 30).reshape(10, 3)
    restored = load(path, device="cpu")
    assert th.equal(restored.predict(obs), model.predict(obs))
    assert restored.reward_fn == Weighted(0.1)


@pytest.mark.parametrize("propagation", ["ts1", "tsinf", "mean"])
def test_a_loaded_ensemble_predicts_the_same_bits(tmp_path: Path, propagation: Any) -> None:
    env = gym.make("InvertedPendulum-v5")
    known = task_functions(env)
    options: dict[str, Any] = {"num_members": 3, "num_elites": 2, "hidden": (8, 8), "propagation": propagation}
    ensemble = EnsembleDynamics(
        env.observation_space, env.action_space, termination_fn=known.termination_fn, seed=1, device="cpu", **options
    )
    obs, action = th.linspace(-0.3, 0.3, 80).reshape(20, 4), th.linspace(-1, 1, 20).reshape(20, 1)

    def predictions(model: EnsembleDynamics) -> list[Prediction]:
        generator = torch_generator(7)
        state, steps = model.reset(obs, generator=generator), []
        for _ in range(3):
            state, prediction = model.step(state, action, generator=generator)
            steps.append(prediction)
        return steps

    restored = load(save(ensemble, tmp_path / "m", starts=obs), device="cpu")
    assert restored.termination_fn == known.termination_fn
    for one, other in zip(predictions(ensemble), predictions(restored), strict=True):
        assert all(th.equal(a, b) for a, b in zip(one, other, strict=True))


def test_the_suffix_is_appended_once(model: Affine, tmp_path: Path) -> None:
    assert save(model, tmp_path / "v1.5").name == "v1.5.safetensors"
    assert save(model, tmp_path / "v2.safetensors").name == "v2.safetensors"
    assert load(str(tmp_path / "v1.5")).layer.in_features == 3
    assert sorted(file.name for file in tmp_path.iterdir()) == ["v1.5.safetensors", "v2.safetensors"]


@pytest.mark.parametrize("dtype", [th.float32, th.float64, th.bfloat16, th.int64, th.uint8, th.bool])
@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (2, 3, 4)])
def test_tensors_of_any_dtype_and_shape_round_trip(dtype: th.dtype, shape: tuple[int, ...], tmp_path: Path) -> None:
    tensor = (th.arange(max(1, int(np.prod(shape)))) % 2).to(dtype)[: int(np.prod(shape))].reshape(shape)
    checkpoint_file.write(tmp_path / "t", "kind", {}, {"a": tensor, "b": tensor})
    manifest, tensors = checkpoint_file.read(tmp_path / "t")
    assert tensors["a"].dtype == dtype
    assert th.equal(tensors["a"], tensor)
    assert manifest.tensors["a"].shape == shape


def test_strided_and_shared_tensors_are_stored(tmp_path: Path) -> None:
    base = th.arange(12.0).reshape(3, 4)
    checkpoint_file.write(tmp_path / "t", "kind", {}, {"whole": base, "transposed": base.T, "row": base[1]})
    tensors = checkpoint_file.read(tmp_path / "t")[1]
    assert th.equal(tensors["transposed"], base.T)
    assert th.equal(tensors["row"], base[1])


def test_manifest_says_what_the_file_holds(path: Path) -> None:
    manifest = read_manifest(path)
    assert manifest.kind == "test-affine"
    assert manifest.format_version == checkpoint.FORMAT_VERSION
    assert manifest.config["in"] == 3
    assert manifest.tensors["model.weight"].shape == (2, 3)
    assert manifest.versions.keys() == {"gymnasium", "mujoco", "torch", "numpy"}
    assert manifest.created.endswith("+00:00")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_starts_round_trip(model: Affine, tmp_path: Path, dtype: Any) -> None:
    starts = np.linspace(0, 1, 12, dtype=dtype).reshape(4, 3)
    for given in (starts, th.as_tensor(starts)):
        restored = load_starts(save(model, tmp_path / "m", starts=given))
        assert restored is not None
        assert restored.dtype == dtype
        np.testing.assert_array_equal(restored, starts)
    assert load(tmp_path / "m").layer.in_features == 3


def test_no_starts_is_none(path: Path) -> None:
    assert load_starts(path) is None


@pytest.mark.parametrize(
    ("starts", "message"),
    [
        (np.zeros((4, 2)), r"shape \(n, 3\)"),
        (np.zeros(3), r"shape \(n, 3\)"),
        (np.zeros((0, 3)), r"shape \(n, 3\)"),
        (np.full((1, 3), np.nan), "finite"),
        (np.zeros((4, 3), dtype=np.int64), "floating-point"),
    ],
)
def test_starts_that_do_not_fit_are_refused(model: Affine, tmp_path: Path, starts: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        save(model, tmp_path / "m", starts=starts)
    assert list(tmp_path.iterdir()) == []


def test_overrides_replace_stored_functions(path: Path) -> None:
    assert load(path, reward_fn=Weighted(2.0)).reward_fn == Weighted(2.0)


def test_an_override_nobody_takes_is_named(path: Path) -> None:
    with pytest.raises(TypeError, match=r"does not take \['colour'\]; it takes \['reward_fn'\]"):
        load(path, colour="red")


def test_a_function_that_cannot_be_stored_must_be_given_again(model: Affine, tmp_path: Path) -> None:
    model.reward_fn = lambda obs, action, next_obs: next_obs.sum(-1)
    path = save(model, tmp_path / "m")
    with pytest.raises(ValueError, match=r"lambda.*pass it again"):
        load(path)
    assert load(path, reward_fn=model.reward_fn).reward_fn is model.reward_fn


# ------------------------------------------------------------------------------------------------ wrong files


def test_any_flipped_bit_is_noticed(path: Path) -> None:
    original = path.read_bytes()
    for position in range(len(original)):
        damaged = bytearray(original)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError):
            load(path)
    path.write_bytes(original)
    load(path)


def test_a_flipped_weight_is_a_sha_mismatch(path: Path) -> None:
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(CheckpointError, match=r"SHA-256 of tensor 'model\.\w+' differs"):
        load(path)


def test_any_truncation_is_noticed(path: Path) -> None:
    original = path.read_bytes()
    for length in (0, 3, 8, 9, len(original) // 2, len(original) - 1):
        path.write_bytes(original[:length])
        with pytest.raises(CheckpointError, match="truncated"):
            load(path)
        with pytest.raises(CheckpointError, match="truncated"):
            read_manifest(path)


def test_trailing_bytes_are_noticed(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")
    for reader in (load, read_manifest):
        with pytest.raises(CheckpointError, match="corrupt"):
            reader(path)


def test_a_newer_format_asks_for_an_upgrade(model: Affine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_file, "FORMAT_VERSION", 99)
    path = save(model, tmp_path / "m")
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="format version 99.*reads up to version 1.*[Uu]pgrade"):
        load(path)


def test_an_unknown_kind_is_named(tmp_path: Path) -> None:
    checkpoint_file.write(tmp_path / "m.safetensors", "from-elsewhere", {}, {})
    with pytest.raises(CheckpointError, match="'from-elsewhere', which is not registered here.*test-affine"):
        load(tmp_path / "m")


def test_a_folder_or_nothing_is_not_a_model(model: Affine, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    for action in (lambda path: save(model, path), load, load_starts, read_manifest):
        with pytest.raises(IsADirectoryError, match="is a folder"):
            action(tmp_path / "runs")
    with pytest.raises(FileNotFoundError, match="There is no model file"):
        load(tmp_path / "absent")


def test_other_simulator_versions_are_reported(model: Affine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = checkpoint_file.read_versions
    monkeypatch.setattr(checkpoint_file, "read_versions", lambda *names: {**real(*names), "mujoco": "1.50.1"})
    path = save(model, tmp_path / "m")
    monkeypatch.undo()
    with pytest.warns(UserWarning, match=r"saved with mujoco 1\.50\.1"):
        load(path)


def _file(header: dict[str, Any], data: bytes = b"") -> bytes:
    """A safetensors file made by hand, with an honest manifest of whatever ``header`` claims."""
    records = {name: {**entry, "sha256": "0" * 64} for name, entry in header.items()}
    for entry in records.values():
        entry.pop("data_offsets", None)
    fields = {"format_version": 1, "library_version": "0", "kind": "test-affine", "config": {}, "versions": {}}
    text = json.dumps({**fields, "created": "", "tensors": records})
    digest = checkpoint_file._sha256(text.encode())
    metadata = {"format": checkpoint_file.FORMAT, "manifest": text, "sha256": digest}
    head = json.dumps({**header, "__metadata__": metadata}).encode()
    return len(head).to_bytes(8, "little") + head + data


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [1 << 60, 1 << 60], "data_offsets": [0, 4]},  # exabytes in four bytes
        {"dtype": "F32", "shape": [2**31], "data_offsets": [0, 2**33]},  # beyond the end of the file
        {"dtype": "F32", "shape": [-1, -1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]},
        {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]},
        {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1]},
    ],
)
def test_sizes_are_checked_before_memory_is_taken(tmp_path: Path, entry: dict[str, Any]) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(_file({"model.weight": entry}, bytes(4)))
    with pytest.raises(CheckpointError, match="size of tensor|truncated"):
        load(path)


def test_a_huge_header_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes((1 << 62).to_bytes(8, "little") + b"{}")
    with pytest.raises(CheckpointError, match="cannot hold its header"):
        load(path)


def test_deeply_nested_headers_are_refused(tmp_path: Path) -> None:
    head = b"[" * 1_000_000
    path = tmp_path / "m.safetensors"
    path.write_bytes(len(head).to_bytes(8, "little") + head)
    with pytest.raises(CheckpointError):
        load(path)


def test_a_configuration_cannot_ask_for_terabytes(tmp_path: Path) -> None:
    config = {"in": 10**6, "out": 10**6, "reward_fn": None}
    checkpoint_file.write(tmp_path / "m.safetensors", "test-affine", config, {"model.weight": th.zeros(2)})
    with pytest.raises(ValueError, match="far beyond what the file holds"):
        load(tmp_path / "m")


@pytest.fixture
def ensemble_path(tmp_path: Path) -> Path:
    box = spaces.Box(-1, 1, (3,))
    return save(EnsembleDynamics(box, spaces.Box(-1, 1, (1,)), hidden=(4,), device="cpu"), tmp_path / "ensemble")


def _alter(path: Path, config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Write the file anew, as an honest writer of other contents would."""
    manifest, stored = checkpoint_file.read(path)
    checkpoint_file.write(path, manifest.kind, {**manifest.config, **config}, {**stored, **tensors})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"hidden": [5]}, "size mismatch"),
        ({"hidden": [4, 4]}, "Missing key"),
        ({"hidden": "wide"}, ""),
        ({"hidden": None}, ""),
        ({"num_members": 10**9}, "far beyond what the file holds"),
        ({"num_elites": 9}, "num_elites"),
        ({"propagation": "guess"}, "propagation must be one of"),
        ({"options": {"colour": 1}}, "colour"),
        ({"reward": 5}, ""),
        ({"reward": {"name": []}}, "'constants' is missing"),
        ({"observation_space": {}}, "not the description of a space"),
        ({"action_space": {"type": "Discrete", "n": 0, "start": 0, "dtype": "int64"}}, "positive"),
    ],
)
def test_a_configuration_that_describes_no_model_is_refused(
    ensemble_path: Path, config: dict[str, Any], message: str
) -> None:
    _alter(ensemble_path, config, {})
    with pytest.raises(CheckpointError, match=rf"ensemble\S* cannot be rebuilt: .*{message}"):
        load(ensemble_path)


def test_a_configuration_cannot_take_hours(ensemble_path: Path) -> None:
    _alter(ensemble_path, {"hidden": [1] * 200_000}, {})
    started = time.perf_counter()
    with pytest.raises(CheckpointError, match="tensors, far beyond what the file holds"):
        load(ensemble_path)
    assert time.perf_counter() - started < 5  # without the limit half a minute, and longer with a longer list


@pytest.mark.parametrize("elites", [[0, 1, 2, 3, 7], [0, 1, 2, 3, -1]])
def test_elites_that_do_not_exist_are_refused(ensemble_path: Path, elites: list[int]) -> None:
    _alter(ensemble_path, {}, {"model.elites": th.tensor(elites)})
    with pytest.raises(CheckpointError, match="names members"):
        load(ensemble_path)


def test_only_what_the_file_says_is_its_fault(ensemble_path: Path, model: Affine, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="Expected one of") as wrong_device:
        load(ensemble_path, device="abacus")
    assert not isinstance(wrong_device.value, CheckpointError)
    with pytest.raises(CheckpointError, match="saved with a learned head in place of reward_fn"):
        load(ensemble_path, reward_fn=Weighted())
    model.reward_fn = lambda obs, action, next_obs: next_obs.sum(-1)
    with pytest.raises(checkpoint.FunctionNeeded, match=r"^The model was saved with the function .*pass it again"):
        load(save(model, tmp_path / "m"))


@pytest.mark.parametrize(
    "fields",
    [{"kind": []}, {"config": [1]}, {"versions": {"mujoco": 3}}, {"versions": []}, {"format_version": "1"}],
)
def test_a_manifest_of_other_types_is_refused(path: Path, fields: dict[str, Any]) -> None:
    manifest, tensors = checkpoint_file.read(path)
    with pytest.MonkeyPatch.context() as patch:
        honest = checkpoint_file.asdict
        patch.setattr(checkpoint_file, "asdict", lambda written: {**honest(written), **fields})
        checkpoint_file.write(path, manifest.kind, manifest.config, tensors)
    for reader in (load, read_manifest):
        with pytest.raises(CheckpointError, match="its manifest is not one of format 1"):
            reader(path)


class _Canary:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


def test_pickles_and_torch_files_are_never_executed(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    plain, archive = tmp_path / "plain.safetensors", tmp_path / "archive.safetensors"
    plain.write_bytes(pickle.dumps(_Canary(canary)))
    th.save(_Canary(canary), archive)
    for path in (plain, archive):
        for reader in (load, load_starts, read_manifest):
            with pytest.raises(CheckpointError):
                reader(path)
    assert not canary.exists()
    pickle.loads(plain.read_bytes())  # the canary does sing
    assert canary.exists()


# ------------------------------------------------------------------------------------------------- wrong models


def test_an_unregistered_class_cannot_be_saved(model: Affine, tmp_path: Path) -> None:
    class Unknown(Affine):
        pass

    with pytest.raises(TypeError, match="Unknown cannot be saved.*register_model"):
        save(Unknown(model.layer), tmp_path / "m")


def test_a_kind_belongs_to_one_class() -> None:
    class Other(Affine):
        pass

    with pytest.raises(ValueError, match="'test-affine' is taken"):
        register_model("test-affine")(Other)
    assert register_model("test-affine")(Affine) is Affine


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), np.float32(1), {1, 2}])
def test_a_configuration_must_be_strict_json(
    model: Affine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: Any
) -> None:
    monkeypatch.setattr(Affine, "to_checkpoint", lambda self: ({"bad": bad}, {}))
    with pytest.raises(TypeError, match="configuration of Affine is not strict JSON"):
        save(model, tmp_path / "m")


# ------------------------------------------------------------------------------------------------- interruptions

_KILLED = """
import os, signal, sys
import torch as th
from mbrl_wrappers import checkpoint_file

def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

if sys.argv[2] == "before the data is on the disk":
    checkpoint_file.os.fsync = die
elif sys.argv[2] == "before the rename":
    checkpoint_file.Path.replace = die
checkpoint_file.write(checkpoint_file.Path(sys.argv[1]), "test-affine", {}, {"model.weight": th.zeros(1000)})
"""


@pytest.mark.parametrize("moment", ["before the data is on the disk", "before the rename"])
def test_a_kill_while_saving_leaves_the_previous_file(path: Path, moment: str) -> None:
    before = path.read_bytes()
    killed = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(_KILLED), str(path), moment],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert path.read_bytes() == before
    load(path)


def test_a_failed_save_leaves_the_previous_file_and_no_rest(
    model: Affine, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = path.read_bytes()

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint_file.os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save(model, path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]
