"""Worker processes: none is forked from a process whose threads hold locks, and environments in workers can be used."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch as th
from stable_baselines3 import SAC
from stable_baselines3.common.vec_env import SubprocVecEnv

from tests.sb3_ext.dyna_agents import make_agent, oracle_env, small_callback
from tests.test_house import LIBRARY, ROOT, library_files, used_names

FORKS = {
    "os.fork",
    "os.forkpty",
    "pty.fork",
    "multiprocessing.Process",
    "multiprocessing.Pool",
    "multiprocessing.set_start_method",
    "torch.multiprocessing.Process",
    "torch.multiprocessing.Pool",
    "gymnasium.vector.AsyncVectorEnv",
}


def forks(source: str) -> list[str]:
    """What in ``source`` starts processes the way the system likes, which on Linux may be a fork."""
    found = [f"line {line}: {name}" for line, name in used_names(source) if name in FORKS]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("get_context"):
            method = ast.unparse(node.args[0]) if node.args else "the default"
            if method not in ("'spawn'", "'forkserver'"):
                found.append(f"line {node.lineno}: {method}")
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("ProcessPoolExecutor"):
            found += [] if "get_context" in ast.unparse(node) else [f"line {node.lineno}: no context"]
    return found


@pytest.mark.parametrize("path", library_files(*LIBRARY, "scripts"), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_process_is_forked(path: Path) -> None:
    assert forks(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "import os\nos.fork()",
        "from concurrent.futures import ProcessPoolExecutor\nProcessPoolExecutor(3)",
        "import multiprocessing as mp\nmp.Process()",
        "from multiprocessing import Pool\nPool()",
        "import multiprocessing\nmultiprocessing.get_context('fork')",
        "import multiprocessing\nmultiprocessing.get_context()",
    ],
)
def test_a_fork_is_caught(source: str) -> None:
    assert forks(source) != []
    assert forks("import multiprocessing\nmultiprocessing.get_context('spawn').Process()") == []


@pytest.mark.slow
def test_dyna_learns_with_environments_in_workers_after_torch_has_used_threads() -> None:
    """SB3 starts its workers from a clean process by itself."""
    before = th.get_num_threads()
    th.set_num_threads(2)
    try:
        th.randn(500, 500) @ th.randn(500, 500)
        env = SubprocVecEnv([oracle_env] * 2)
        agent = make_agent(SAC, env)
        agent.learn(40, callback=small_callback(oracle_env()))
        env.close()
    finally:
        th.set_num_threads(before)
    assert len(agent.replay_buffer.synthetic) > 0
