"""A small file cannot ask for much memory or time: sizes are compared with the file before anything is built."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from mbrl_wrappers import TabularModel, TransitionStore
from mbrl_wrappers.storage import file_format
from mbrl_wrappers.storage.allocation import COPIES, SLACK_ELEMENTS, SLACK_TENSORS, allocation_limit
from mbrl_wrappers.storage.checkpoint import CheckpointError, load, read_manifest, register_model, save
from mbrl_wrappers.storage.space_json import space_to_json
from tests.memory import MEBIBYTE, little_memory
from tests.storage.stored_models import affine_model, alter, small_ensemble


@pytest.fixture
def ensemble_path(tmp_path: Path) -> Path:
    return save(small_ensemble(), tmp_path / "ensemble")


def _file(header: dict[str, Any], data: bytes = b"", config: Any = None) -> bytes:
    """A safetensors file made by hand, with an honest manifest of whatever ``header`` claims."""
    records = {name: {**entry, "sha256": "0" * 64} for name, entry in header.items()}
    for entry in records.values():
        entry.pop("data_offsets", None)
    fields = {
        "format_version": 2,
        "library_version": "0",
        "kind": "test-affine",
        "config": config or {},
        "versions": {},
    }
    text = json.dumps({**fields, "created": "", "tensors": records})
    digest = file_format.sha256_of(text.encode())
    metadata = {"format": file_format.FORMAT, "manifest": text, "sha256": digest}
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
        {"dtype": "F32", "shape": [1] * 65, "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [10**400, 0], "data_offsets": [0, 0]},
        {"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]},
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
    file_format.write(tmp_path / "m.safetensors", "test-affine", config, {"model.weight": th.zeros(2)})
    with pytest.raises(ValueError, match="far beyond what the file holds"):
        load(tmp_path / "m")


def test_tensors_must_not_share_bytes_nor_leave_some_out(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"

    def entry(begin: int, end: int) -> dict[str, Any]:
        return {"dtype": "U8", "shape": [end - begin], "data_offsets": [begin, end]}

    for parts in (
        {"a": entry(0, 4), "b": entry(0, 4)},
        {"a": entry(0, 3), "b": entry(2, 4)},
        {"a": entry(0, 1), "b": entry(2, 4)},
        {"a": entry(1, 4)},
    ):
        path.write_bytes(_file(parts, bytes(4)))
        for reader in (load, read_manifest):
            with pytest.raises(CheckpointError, match="overlap, or leave bytes between them"):
                reader(path)
    path.write_bytes(_file({"b": entry(2, 4), "a": entry(0, 2), "none": entry(2, 2)}, bytes(4)))
    assert sorted(read_manifest(path).tensors) == ["a", "b", "none"]


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_what_strict_json_does_not_know_is_refused(tmp_path: Path, constant: str) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(_file({}, config={"a": float(constant)}))
    with pytest.raises(CheckpointError, match="its manifest is not one of format 2"):
        read_manifest(path)


BOX = space_to_json(spaces.Box(-np.inf, np.inf, (3,), np.float32))
DISCRETE = space_to_json(spaces.Discrete(2))
HUGE: list[dict[str, Any]] = [
    {"observation_space": {**BOX, "shape": [10_000_000]}},
    {"observation_space": {**BOX, "shape": [1_000_001], "low": 0.0, "high": 1.0}},
    {"observation_space": {**BOX, "shape": [1000, 1000, 1000], "dtype": "int64"}},
    {"observation_space": {**BOX, "shape": [10**4000] * 1000}},
    {"observation_space": {**BOX, "shape": [1] * 70}},
    {"observation_space": {**BOX, "dtype": "<U100000000"}},
    {"observation_space": {**BOX, "dtype": "f4," * 1_000}},
    {"action_space": {**BOX, "shape": [10_000_000]}},
    {"action_space": {**DISCRETE, "n": 10_000_001}},
    {"action_space": {**DISCRETE, "n": 10**400}},
    {"action_space": {**DISCRETE, "type": "MultiDiscrete", "nvec": [10**12] * 10}},
    {"action_space": {**DISCRETE, "n": 10_000_000}},
    {"hidden": [10**9]},
    {"hidden": [10**400]},
    {"hidden": [2_000, 2_000]},
    {"hidden": [1] * 50_000},
    {"num_members": 10**9},
    {"num_members": 10**400},
    {"num_members": 200_000},
]


@pytest.mark.parametrize("config", HUGE, ids=lambda config: json.dumps(config)[:60])
def test_a_small_file_cannot_ask_for_much(ensemble_path: Path, config: dict[str, Any]) -> None:
    alter(ensemble_path, config)
    with pytest.raises(CheckpointError, match="cannot be rebuilt") as refused, little_memory():
        load(ensemble_path, device="cpu")
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize("depth", [50, 200, 100_000])
def test_deeply_nested_functions_are_refused(ensemble_path: Path, depth: int) -> None:
    """Where Python's recursion ends, in parsing or in rebuilding, is not for the file to say."""
    before, inner, after = (
        '{"name": "Unhealthy", "constants": {"healthy": ',
        '{"name": "Nobody", "constants": {}}',
        "}}",
    )
    manifest, tensors = file_format.read(ensemble_path)
    text = json.dumps({**manifest.config, "termination": "NESTED"})
    nested = text.replace('"NESTED"', before * depth + inner + after * depth)
    with pytest.MonkeyPatch.context() as patch:
        dumps = json.dumps
        patch.setattr(json, "dumps", lambda value, **options: dumps(value, **options).replace('{"a": 1}', nested))
        file_format.write(ensemble_path, manifest.kind, {"a": 1}, tensors)
    with pytest.raises(ValueError, match="cannot be rebuilt|is corrupt|'Nobody', which is not registered"):
        load(ensemble_path)


@pytest.mark.parametrize(
    "config",
    [
        {"propagation": "p" * MEBIBYTE},
        {"propagation": "p " * MEBIBYTE},
        {"observation_space": {**BOX, "type": "t" * MEBIBYTE}},
        {"observation_space": {**BOX, "dtype": "d" * MEBIBYTE}},
        {"observation_space": {**BOX, "low": "l" * MEBIBYTE}},
        {"termination": {"name": "n" * MEBIBYTE, "constants": {}}},
        {"termination": {"name": "n" * MEBIBYTE, "constants": None}},
    ],
    ids=lambda config: next(iter(config)),
)
def test_long_texts_make_short_messages(ensemble_path: Path, config: dict[str, Any]) -> None:
    alter(ensemble_path, config)
    with pytest.raises(ValueError, match=r"\w") as refused:
        load(ensemble_path)
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize("space", ["state_space", "action_space"])
def test_a_table_of_huge_spaces_is_refused(tmp_path: Path, space: str) -> None:
    model = TabularModel(spaces.Discrete(2), spaces.Discrete(2))
    model.add(0, 0, 0.0, 1, False)
    path = save(model, tmp_path / "table")
    alter(path, {space: {**DISCRETE, "n": 6_000_000}})
    with pytest.raises(CheckpointError, match="more than 10,000,000 entries"), little_memory():
        load(path)
    alter(path, {space: {**DISCRETE, "n": 2**40}})
    with pytest.raises(CheckpointError, match="up to 10,000,000"), little_memory():
        load(path)


@pytest.mark.parametrize("space", ["observation_space", "action_space"])
def test_a_store_of_huge_spaces_is_refused(tmp_path: Path, space: str) -> None:
    path = TransitionStore(4, spaces.Box(-1, 1, (3,)), spaces.Box(-1, 1, (1,))).save(tmp_path / "store")
    alter(path, {space: {**BOX, "shape": [10_000_000]}})
    with pytest.raises(CheckpointError, match="shape of an observation or action"), little_memory():
        TransitionStore.load(path)


def test_what_load_refuses_is_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for space in (spaces.Box(-1, 1, (1_000_001,)), spaces.Box(-1, 1, (1,) * 33), spaces.Discrete(10_000_001)):
        with pytest.raises(ValueError, match="A stored (Box|Discrete)"):
            space_to_json(space)
    assert space_to_json(spaces.Box(-1, 1, (1_000_000,)))["shape"] == [1_000_000]
    assert space_to_json(spaces.Discrete(10_000_000))["n"] == 10_000_000
    path = save(affine_model(), tmp_path / "m")
    before = path.read_bytes()
    header = int.from_bytes(before[:8], "little")
    for name, size in (("MAX_HEADER_BYTES", header), ("MAX_FILE_BYTES", len(before))):
        monkeypatch.setattr(file_format, name, size)
        save(affine_model(), path)
        load(path)
        monkeypatch.setattr(file_format, name, size - 1)
        with pytest.raises(ValueError, match=r"would have a header of [\d,]+ and tensors of 32 bytes"):
            save(affine_model(), path)
        with pytest.raises(CheckpointError, match="cannot hold its header"):
            load(path)
        monkeypatch.undo()
    assert list(tmp_path.iterdir()) == [path]


FACTORIES: list[Callable[[int], Any]] = [
    lambda size: th.empty(size),
    lambda size: th.zeros((size,)),
    lambda size: th.ones(size, 1),
    lambda size: th.full((1, size), 3.0),
    lambda size: th.rand(size),
    lambda size: th.randn(size, generator=th.Generator()),
    lambda size: th.randint(5, (size,)),
    lambda size: th.randperm(size),
    lambda size: th.arange(size),
    lambda size: th.linspace(0, 1, size),
    lambda size: th.logspace(0, 1, size),
    lambda size: th.eye(size, 1),
    lambda size: th.eye(1, size),
    lambda size: th.zeros(1).new_zeros(size),
    lambda size: th.zeros(1).new_empty((size,)),
    lambda size: th.zeros(1).new_ones(size, 1),
    lambda size: th.zeros(1).new_full((size,), 2.0),
]


@pytest.mark.parametrize("make", FACTORIES)
def test_every_way_to_make_a_tensor_counts(make: Callable[[int], Any]) -> None:
    with allocation_limit(10, 1):
        assert make(7).numel() == 7
        th.empty(COPIES * 10 + SLACK_ELEMENTS - 8)
        with pytest.raises(ValueError, match="far beyond what the file holds"):
            make(2)
    assert make(2).numel() == 2


def test_a_square_counts_all_its_elements() -> None:
    assert SLACK_ELEMENTS == 2**22
    with allocation_limit(0, 1):
        assert th.eye(2**11).shape == (2**11, 2**11)
        with pytest.raises(ValueError, match="far beyond what the file holds"):
            th.eye(1)


def test_the_number_of_tensors_is_limited_too() -> None:
    with allocation_limit(0, 2):
        for _ in range(COPIES * 2 + SLACK_TENSORS):
            th.zeros(0)
        with pytest.raises(ValueError, match=f"{COPIES * 2 + SLACK_TENSORS} tensors, far beyond"):
            th.zeros(0)


@register_model("test-padded")
class Padded:
    """A model that allocates more than it stores, as one with a scratch buffer does."""

    def __init__(self, size: int) -> None:
        self.scratch = th.zeros(size)

    def to_checkpoint(self) -> tuple[dict[str, Any], dict[str, th.Tensor]]:
        return {"size": len(self.scratch)}, {"one": th.zeros(1)}

    @classmethod
    def from_checkpoint(cls, config: dict[str, Any], tensors: dict[str, th.Tensor], *, device: th.device) -> Padded:
        return cls(config["size"])


def test_a_model_may_have_a_scratch_buffer(tmp_path: Path) -> None:
    size = SLACK_ELEMENTS + COPIES
    assert len(load(save(Padded(size), tmp_path / "m")).scratch) == size
    with pytest.raises(CheckpointError, match="far beyond what the file holds"):
        load(save(Padded(size + 1), tmp_path / "m"))
