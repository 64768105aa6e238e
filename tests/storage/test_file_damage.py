"""Every way in which a model file can be wrong."""

from __future__ import annotations

import json
import pickle
import time
from pathlib import Path
from typing import Any

import pytest
import torch as th
from gymnasium import spaces
from torch import Tensor

from mbrl_wrappers.models.ensemble import EnsembleDynamics
from mbrl_wrappers.storage import checkpoint
from mbrl_wrappers.storage import file_format as checkpoint_file
from mbrl_wrappers.storage.checkpoint import CheckpointError, load, load_starts, read_manifest, save
from tests.storage.stored_models import Affine, Weighted, affine_model


@pytest.fixture
def model() -> Affine:
    return affine_model()


@pytest.fixture
def path(model: Affine, tmp_path: Path) -> Path:
    return save(model, tmp_path / "affine")


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
