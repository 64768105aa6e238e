"""Watch a trained agent, on the real environment or inside its learned model.

    python scripts/enjoy.py logs/sac/Hopper-v5_1 --n-episodes 3 --video hopper.mp4
    python scripts/enjoy.py logs/sac/Hopper-v5_1 --model --horizon 200

An agent's zip holds a pickle, which could run any code when read. So only its weights are read and the agent is built
anew from summary.json; --trust reads everything, as ``SAC.load`` does: use it for files that you made yourself.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: imports start at the checkout
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from scripts.pictures.renderer import choose_renderer
from scripts.runs.run_folder import BEST_AGENT_FILE, MODEL_FILE


def build_parser() -> argparse.ArgumentParser:
    """The parser of ``enjoy.py``."""
    parser = argparse.ArgumentParser(prog="enjoy.py", description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("run", type=Path, help="run folder that train.py made, or a zip inside one")
    add("--load-best", action="store_true", help=f"take the best agent of the folder ({BEST_AGENT_FILE}), not the last")
    add("--averaged", action="store_true", help="take the average of the run's actors, not the last (or best) actor")
    add("--n-episodes", type=int, default=5, help="episodes to play (default 5)")
    add("--seed", type=int, default=30_000, help="of the starts (default 30000: none of train.py's)")
    add("--device", default="auto", help="torch device")
    add("--stochastic", action="store_true", help="draw the actions, as in training; without it the mean is taken")
    add("--video", type=Path, help="film the episodes: .mp4 or .gif (needs off-screen rendering)")
    add("--model", action="store_true", help="play inside the learned model: everything shown is imagined")
    add("--horizon", type=int, default=1000, help="length of imagined episodes (default 1000)")
    add("--trust", action="store_true", help="read the agent's pickle, which can run code; SBX agents need it")
    return parser


def imagined_env(folder: Path, horizon: int, device: str) -> Any:
    """The run's learned model as an environment, starting where real episodes started.

    Raises:
        ValueError: if the run has no model.
    """
    import mbrl_wrappers
    from mbrl_wrappers.storage.checkpoint import load_starts

    path = folder / MODEL_FILE
    if not path.is_file():
        raise ValueError(f"{folder} holds no {MODEL_FILE}: it was trained with --no-model, or is not finished.")
    starts = load_starts(path)
    if starts is None:
        raise ValueError(f"{path} was saved without start observations.")
    return mbrl_wrappers.ModelEnv(mbrl_wrappers.load(path, device=device), starts, horizon)


def enjoy(args: argparse.Namespace) -> None:
    """Play the episodes and print what they returned."""
    from scripts.pictures.episodes import play_episode
    from scripts.pictures.video import Film, check_rendering, frames_per_second
    from scripts.training.agent_files import find_agent
    from scripts.training.environments import make_env

    if args.n_episodes < 1:
        raise ValueError(f"--n-episodes must be at least 1, got {args.n_episodes}.")
    if args.video and args.model:
        raise ValueError("A model has no picture: give --video or --model, not both.")
    found = find_agent(args.run, best=args.load_best, averaged=args.averaged)
    summary = found.run.summary
    vec_env = found.make_env(args.seed)
    agent = found.load(vec_env, trust=args.trust, device=args.device)
    vec_env.close()
    if args.model:
        env = imagined_env(found.path.parent, args.horizon, args.device)
    else:
        kwargs = {**summary["env_kwargs"], **({"render_mode": "rgb_array"} if args.video else {})}
        env = make_env(found.run.task, kwargs, summary["hyperparameters"].get("env_wrapper"))
    if args.video:
        env.reset(seed=args.seed)
        check_rendering(env)
    where = "IMAGINED, inside the learned model" if args.model else "real environment"
    print(f"{found.path} on {found.run.task} ({where})")
    label = "IMAGINED return" if args.model else "return"
    totals = []
    with Film(args.video, frames_per_second(env)) if args.video else nullcontext() as film:
        for number in range(args.n_episodes):
            result = play_episode(env, agent, args.seed + number, deterministic=not args.stochastic, film=film)
            totals.append(result.total)
            print(f"  episode {number + 1}: {label} {result.total:.1f}, {result.length} steps, {result.ended_by}")
    print(f"mean {label} {sum(totals) / len(totals):.1f}")
    if args.video:
        print(f"film: {args.video}")
    env.close()


def main(argv: Sequence[str] | None = None) -> int:
    """Play what the command line asks for."""
    args = build_parser().parse_args(argv)
    choose_renderer()
    try:
        enjoy(args)
    except (ValueError, ImportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
