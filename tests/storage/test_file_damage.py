"""Every way in which a model file can be wrong."""

from __future__ import annotations

import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch as th

from mbrl_wrappers.storage import checkpoint, file_format
from mbrl_wrappers.storage.checkpoint import CheckpointError, load, load_starts, read_manifest, save
from tests.storage.stored_models import Affine, Weighted, affine_model, alter, small_ensemble


@pytest.fixture
def model() -> Affine:
    return affine_model()


@pytest.fixture
def path(model: Affine, tmp_path: Path) -> Path:
    return save(model, tmp_path / "affine")


@pytest.fixture
def ensemble_path(tmp_path: Path) -> Path:
    return save(small_ensemble(), tmp_path / "ensemble")


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


@pytest.mark.parametrize("version", [3, 4, 99])
def test_a_newer_format_asks_for_an_upgrade(
    model: Affine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    assert file_format.FORMAT_VERSION == 2
    monkeypatch.setattr(file_format, "FORMAT_VERSION", version)
    path = save(model, tmp_path / "m")
    assert read_manifest(path).format_version == version
    monkeypatch.undo()
    for reader in (load, load_starts, read_manifest):
        with pytest.raises(CheckpointError, match=f"format version {version},.*reads version 2.*[Uu]pgrade"):
            reader(path)


def test_an_older_format_asks_for_another_fit(model: Affine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_format, "FORMAT_VERSION", 1)
    path = save(model, tmp_path / "m")
    monkeypatch.undo()
    for reader in (load, load_starts, read_manifest):
        with pytest.raises(CheckpointError, match=r"format version 1, .* reads 2: fit the model anew"):
            reader(path)


def test_an_unknown_kind_is_named(tmp_path: Path) -> None:
    file_format.write(tmp_path / "m.safetensors", "from-elsewhere", {}, {})
    with pytest.raises(CheckpointError, match="'from-elsewhere', which is not registered here.*test-affine"):
        load(tmp_path / "m")


def test_a_folder_or_nothing_is_not_a_model(model: Affine, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    for action in (lambda path: save(model, path), load, load_starts, read_manifest):
        with pytest.raises(IsADirectoryError, match="is a folder"):
            action(tmp_path / "runs")
    with pytest.raises(FileNotFoundError, match="There is no model file"):
        load(tmp_path / "absent")


@pytest.mark.parametrize("name", ["gymnasium", "mujoco"])
@pytest.mark.parametrize("part", [0, 1])
def test_other_simulator_versions_are_reported(
    model: Affine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, part: int
) -> None:
    real = file_format.read_versions
    numbers = real(name)[name].split(".")
    numbers[part] += "0"
    other = ".".join(numbers)
    monkeypatch.setattr(file_format, "read_versions", lambda *names: {**real(*names), name: other})
    path = save(model, tmp_path / "m")
    monkeypatch.undo()
    with pytest.warns(UserWarning, match=rf"saved with {name} {re.escape(other)} and") as warned:
        load(path)
    assert [warning.filename for warning in warned] == [__file__]


def test_a_patch_of_the_simulator_or_one_that_is_not_named_is_no_news(
    model: Affine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = file_format.read_versions
    monkeypatch.setattr(file_format, "read_versions", lambda *names: {"mujoco": real("mujoco")["mujoco"] + ".99"})
    path = save(model, tmp_path / "m")
    monkeypatch.undo()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(path)


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
    alter(ensemble_path, config, {})
    with pytest.raises(CheckpointError, match=rf"ensemble\S* cannot be rebuilt: .*{message}"):
        load(ensemble_path)


@pytest.mark.parametrize("elites", [[0, 1, 2, 3, 7], [0, 1, 2, 3, -1]])
def test_elites_that_do_not_exist_are_refused(ensemble_path: Path, elites: list[int]) -> None:
    alter(ensemble_path, {}, {"model.elites": th.tensor(elites)})
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
    [
        {"kind": []},
        {"kind": "k" * 1001},
        {"config": [1]},
        {"versions": {"mujoco": 3}},
        {"versions": {"mujoco": "3" * 1001}},
        {"versions": []},
        {"created": None},
        {"library_version": 1},
        {"colour": "red"},
        *({"format_version": version} for version in ("1", True, 1.0, 0, -1, None)),
    ],
)
def test_a_manifest_of_other_types_is_refused(path: Path, fields: dict[str, Any]) -> None:
    manifest, tensors = file_format.read(path)
    with pytest.MonkeyPatch.context() as patch:
        honest = file_format.asdict
        patch.setattr(file_format, "asdict", lambda written: {**honest(written), **fields})
        file_format.write(path, manifest.kind, manifest.config, tensors)
    for reader in (load, read_manifest):
        with pytest.raises(CheckpointError, match="its manifest is not one of format 2"):
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
