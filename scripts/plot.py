"""Pictures from run folders.

python scripts/plot.py returns logs/sac --marks published.csv -o returns.png
python scripts/plot.py model logs/sac/Hopper-v5_1
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # run as a file: imports start at the checkout
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from scripts.runs.reading import POLICIES, find_runs, group_runs
from scripts.runs.run_folder import MODEL_FILE


def returns(args: argparse.Namespace) -> list[Path]:
    """Draw return against real steps of all runs given."""
    from scripts.pictures.learning_curves import plot_returns, read_marks

    groups = group_runs(find_runs(args.runs, POLICIES[args.policy]))
    marks = read_marks(args.marks) if args.marks else []
    args.output.parent.mkdir(parents=True, exist_ok=True)
    plot_returns(groups, args.output, marks, args.max_step)
    return [args.output]


def model(args: argparse.Namespace) -> list[Path]:
    """Draw the model's error against the horizon, a real stretch beside imagined ones, and a learned termination."""
    import mbrl_wrappers
    from scripts.pictures.model_pictures import plot_comparison, plot_horizon_errors
    from scripts.pictures.observation_names import observation_names
    from scripts.pictures.open_loop import collect_episodes, compare, horizon_errors
    from scripts.pictures.termination_picture import plot_termination, termination_scores
    from scripts.training.agent_files import find_agent

    if args.horizon < 1 or args.steps < 1:
        raise ValueError(f"--horizon and --steps must be at least 1, got {args.horizon} and {args.steps}.")
    agent_file = find_agent(args.run)
    if not (args.run / MODEL_FILE).is_file():
        raise ValueError(f"{args.run} holds no {MODEL_FILE}: it was trained with --no-model, or is not finished.")
    env = agent_file.make_env(args.seed)
    agent = agent_file.load(env, trust=args.trust)
    episodes = collect_episodes(env, agent, args.steps)
    names = observation_names(env.envs[0])
    env.close()
    dynamics = mbrl_wrappers.load(args.run / MODEL_FILE)
    output = args.output or args.run
    output.mkdir(parents=True, exist_ok=True)
    title = f"{agent_file.run.task}, {agent_file.run.arm}, {agent_file.run.summary['real_steps']:,} real steps"
    errors = horizon_errors(dynamics, episodes, args.horizon, seed=args.seed)
    plot_horizon_errors(errors, names, output / "model_error.png", title)
    longest = max(episodes, key=lambda episode: len(episode.reward))
    start = min(args.start, max(len(longest.reward) - args.horizon, 0))
    comparison = compare(dynamics, longest, start, args.horizon)
    plot_comparison(comparison, names, output / "model_trajectories.png", title)
    made = [output / "model_error.png", output / "model_trajectories.png"]
    if isinstance(dynamics, mbrl_wrappers.EnsembleDynamics) and dynamics.learn_termination:
        made.append(output / "model_termination.png")
        plot_termination(termination_scores(dynamics, episodes), made[-1], title)
    return made


def build_parser() -> argparse.ArgumentParser:
    """The parser of ``plot.py``."""
    parser = argparse.ArgumentParser(prog="plot.py", description=(__doc__ or "").split("\n")[0])
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("returns", help="return against real environment steps, with 95 %% bands over seeds")
    command.add_argument("runs", nargs="+", type=Path, help="run folders, or folders above them")
    command.add_argument("-o", "--output", type=Path, default=Path("returns.png"), help="PNG file")
    command.add_argument("--marks", type=Path, help="CSV with published scores: task,label,step,value[,error]")
    command.add_argument("--max-step", type=float, default=None, help="where the horizontal axis ends")
    policy = "whose evaluations: the agent's own (raw), those of the average of its actors, or both as two arms"
    command.add_argument("--policy", choices=POLICIES, default="raw", help=policy)
    command.set_defaults(run_command=returns)
    command = commands.add_parser("model", help="errors, imagined trajectories, learned terminations")
    command.add_argument("run", type=Path, help="run folder of an agent trained with a model")
    command.add_argument("-o", "--output", type=Path, help="folder for the PNG files (default: the run folder)")
    command.add_argument("--horizon", type=int, default=30, help="steps ahead")
    command.add_argument("--start", type=int, default=0, help="first step of the stretch that is drawn")
    command.add_argument("--steps", type=int, default=1000, help="real steps to collect")
    command.add_argument("--seed", type=int, default=20_000, help="of the real environment and the model's noise")
    command.add_argument("--trust", action="store_true", help="read the agent's pickle (SBX agents need it)")
    command.set_defaults(run_command=model)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Draw what the command line asks for and print the files made."""
    args = build_parser().parse_args(argv)
    try:
        made = args.run_command(args)
    except (ValueError, ImportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for path in made:
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
