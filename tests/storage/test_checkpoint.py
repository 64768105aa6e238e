"""Model files: exact round trips, what cannot be saved, and saves that are interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th

from mbrl_wrappers.models.ensemble import EnsembleDynamics
from mbrl_wrappers.seeding import torch_generator
from mbrl_wrappers.storage import checkpoint, file_format
from mbrl_wrappers.storage.checkpoint import load, load_starts, read_manifest, register_model, save
from mbrl_wrappers.tasks import task_functions
from mbrl_wrappers.types import Prediction
from tests.storage.stored_models import Affine, Weighted, affine_model


@pytest.fixture
def model() -> Affine:
    return affine_model()


@pytest.fixture
def path(model: Affine, tmp_path: Path) -> Path:
    return save(model, tmp_path / "affine")


def test_a_loaded_model_predicts_the_same_bits(model: Affine, path: Path) -> None:
    obs = th.linspace(-5, 5, 30).reshape(10, 3)
    restored = load(path, device="cpu")
    assert th.equal(restored.predict(obs), model.predict(obs))
    assert restored.reward_fn == Weighted(0.1)


@pytest.mark.parametrize("propagation", ["ts1", "tsinf", "mean", "infoprop"])
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
    file_format.write(tmp_path / "t", "kind", {}, {"a": tensor, "b": tensor})
    manifest, tensors = file_format.read(tmp_path / "t")
    assert tensors["a"].dtype == dtype
    assert th.equal(tensors["a"], tensor)
    assert manifest.tensors["a"].shape == shape


def test_strided_and_shared_tensors_are_stored(tmp_path: Path) -> None:
    base = th.arange(12.0).reshape(3, 4)
    file_format.write(tmp_path / "t", "kind", {}, {"whole": base, "transposed": base.T, "row": base[1]})
    tensors = file_format.read(tmp_path / "t")[1]
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


def test_a_model_that_says_why_cannot_be_saved(model: Affine, tmp_path: Path) -> None:
    model.not_storable = "it lives in a process"  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match=r"^Affine cannot be saved: it lives in a process\.$"):
        save(model, tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("available", [True, False])
def test_a_gpu_is_taken_where_there_is_one(monkeypatch: pytest.MonkeyPatch, available: bool) -> None:
    monkeypatch.setattr(th.cuda, "is_available", lambda: available)
    assert checkpoint.resolve_device("auto") == th.device("cuda" if available else "cpu")
    assert checkpoint.resolve_device("cuda:1") == th.device("cuda", 1)
    assert checkpoint.resolve_device(th.device("cpu")) == th.device("cpu")


def test_the_data_of_a_file_is_aligned(tmp_path: Path) -> None:
    for length in range(8):
        file_format.write(tmp_path / "t", "k" * length, {}, {"a": th.ones(2)})
        raw = (tmp_path / "t").read_bytes()
        assert int.from_bytes(raw[:8], "little") % 8 == 0
        assert raw[-8:] == np.ones(2, np.float32).tobytes()


def test_folders_are_made_and_names_need_not_be_strings(model: Affine, tmp_path: Path) -> None:
    path = save(model, str(tmp_path / "a" / "b" / "m"))
    assert path == tmp_path / "a" / "b" / "m.safetensors"
    assert load(path.with_suffix("")).layer.out_features == 2


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


_KILLED = """
import os, signal, sys
import torch as th
from mbrl_wrappers.storage import file_format

def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

if sys.argv[2] == "before the data is on the disk":
    file_format.os.fsync = die
elif sys.argv[2] == "before the rename":
    file_format.Path.replace = die
file_format.write(file_format.Path(sys.argv[1]), "test-affine", {}, {"model.weight": th.zeros(1000)})
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

    monkeypatch.setattr(file_format.os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save(model, path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]
