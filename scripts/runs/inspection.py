"""What is in a run folder, told from names, headers and checksums: nothing in it is executed or built."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mbrl_wrappers.storage.file_format import SUFFIX, CheckpointError, Manifest, read, read_header
from mbrl_wrappers.storage.ring_shards import RingRecord
from mbrl_wrappers.storage.run_checkpoint import check_checkpoint, checkpoint_folders
from mbrl_wrappers.storage.run_manifest import MANIFEST_FILE, STATE_FILE, other_versions, read_run_manifest
from scripts.runs.run_folder import SUMMARY_FILE

_SHOWN = ("task", "algorithm", "backend", "arm", "seeds", "total_timesteps", "real_steps", "finished", "stopped_by")
_SUMMARY_BYTES = 64 * 2**20


def inspect_folder(folder: Path) -> dict[str, Any]:
    """The run, its checkpoints, model files and agents, as plain values.

    Args:
        folder: a run's folder, one of checkpoints, or a single checkpoint.

    Raises:
        ValueError: if there is nothing of ours in it.
    """
    if not folder.is_dir():
        raise ValueError(f"There is no folder {folder}.")
    single = (folder / MANIFEST_FILE).is_file()
    below = [folder, *sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink())]
    paths = [folder] if single else [path for parent in below for path in checkpoint_folders(parent)]
    files = [] if single else sorted(path for path in folder.iterdir() if path.is_file())
    found = {
        "folder": str(folder),
        "run": _summary(folder / SUMMARY_FILE),
        "checkpoints": [describe_checkpoint(path) for path in paths],
        "files": [_safetensors(path) for path in files if path.name.endswith(SUFFIX)],
        "agents": [_agent(path) for path in files if path.suffix == ".zip"],
    }
    if not any(found[key] for key in ("run", "checkpoints", "files", "agents")):
        raise ValueError(f"{folder} holds no run, checkpoint, model or agent.")
    return found


def describe_checkpoint(path: Path) -> dict[str, Any]:
    """One checkpoint: whole or what is wrong with it, and as much of its content as can still be told."""
    found: dict[str, Any] = {"path": str(path), "whole": True, "fault": None}
    try:
        manifest = read_run_manifest(path)
    except CheckpointError as error:
        return {**found, "whole": False, "fault": str(error)}
    found |= {
        "step": manifest.step,
        "created": manifest.created,
        "bytes": manifest.state.bytes + sum(shard.bytes for shard in manifest.shards),
        "about": manifest.about,
        "versions": manifest.versions,
        "other_versions": other_versions(manifest),
        "rings": [_ring(ring) for ring in manifest.rings],
    }
    try:
        check_checkpoint(path)
        found["tensors"] = _tensors(read_header(path / STATE_FILE))
    except CheckpointError as error:
        found |= {"whole": False, "fault": str(error)}
    return found


def as_text(found: dict[str, Any]) -> Iterator[str]:
    """The lines that a person reads."""
    yield found["folder"]
    if found["run"]:
        yield "  run: " + ", ".join(f"{key} {value}" for key, value in found["run"].items())
    for checkpoint in found["checkpoints"]:
        yield f"  checkpoint {Path(checkpoint['path']).name}: {_state_of(checkpoint)}"
        if "step" in checkpoint:
            yield f"    {checkpoint['bytes']:,} bytes, written {checkpoint['created']}"
            yield "    versions: " + ", ".join(f"{name} {version}" for name, version in checkpoint["versions"].items())
            if checkpoint["other_versions"]:
                yield f"    installed in another version: {', '.join(checkpoint['other_versions'])}"
            if checkpoint["about"]:
                yield f"    about: {json.dumps(checkpoint['about'])[:500]}"
        for ring in checkpoint.get("rings", ()):
            columns = ", ".join(f"{name} {kind}" for name, kind in ring["columns"].items())
            yield f"    ring {ring['place']}: {ring['filled']:,} of {ring['capacity']:,} slots, {columns}"
        for name, kind in checkpoint.get("tensors", {}).items():
            yield f"    {name}: {kind}"
    for file in found["files"]:
        yield f"  {Path(file['path']).name}: {_state_of(file)}" + (f", {file['kind']}" if file["kind"] else "")
    for agent in found["agents"]:
        yield f"  {Path(agent['path']).name}: {_state_of(agent)}, parts {', '.join(agent['parts'])}"


def _state_of(found: dict[str, Any]) -> str:
    return "whole" if found["whole"] else f"DAMAGED: {found['fault']}"


def _summary(path: Path) -> dict[str, Any] | None:
    if not path.is_file() or path.stat().st_size > _SUMMARY_BYTES:
        return None
    try:
        summary = json.loads(path.read_text())
        return {key: summary[key] for key in _SHOWN if key in summary}
    except (ValueError, TypeError, RecursionError) as error:
        return {"fault": f"{path} is no summary: {error}"}


def _ring(ring: RingRecord) -> dict[str, Any]:
    columns = {name: f"{column.dtype} {column.shape}" for name, column in ring.columns.items()}
    place = "/".join(str(part) for part in ring.place)
    return {
        "place": place,
        "filled": ring.filled,
        "capacity": ring.capacity,
        "written": ring.written,
        "columns": columns,
    }


def _tensors(manifest: Manifest) -> dict[str, str]:
    return {name: f"{record.dtype} {record.shape}" for name, record in sorted(manifest.tensors.items())}


def _safetensors(path: Path) -> dict[str, Any]:
    found = {"path": str(path), "whole": True, "fault": None, "kind": None, "bytes": path.stat().st_size}
    try:
        manifest, _ = read(path)
    except CheckpointError as error:
        return {**found, "whole": False, "fault": str(error)}
    return {**found, "kind": manifest.kind, "versions": manifest.versions, "tensors": _tensors(manifest)}


def _agent(path: Path) -> dict[str, Any]:
    """An agent's zip: its parts by name and their checksums. The pickle among them is not read."""
    found = {"path": str(path), "whole": True, "fault": None, "bytes": path.stat().st_size, "parts": []}
    try:
        with zipfile.ZipFile(path) as archive:
            found["parts"] = sorted(archive.namelist())[:50]
            if any(member.file_size != member.compress_size for member in archive.infolist()):
                raise zipfile.BadZipFile("it has compressed parts, which SB3's files do not have")
            if damaged := archive.testzip():
                raise zipfile.BadZipFile(f"the checksum of {damaged} differs")
    except (zipfile.BadZipFile, ValueError, RuntimeError, NotImplementedError, EOFError) as error:
        return {**found, "whole": False, "fault": f"{path} is truncated, corrupt or no agent ({error})."}
    return found
