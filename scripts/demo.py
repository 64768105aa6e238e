"""A demonstration: the same agent with a learned model and without, at the same real steps and the same updates.

    python scripts/demo.py

Trains two agents side by side on a MuJoCo task, one process each, judges both on the real environment, and leaves
pictures, a film, the agent and its model in ``demo/``.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

if not __package__:  # run as a file: imports start at the checkout
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from scripts.runs.run_folder import MODEL_FILE, agent_file_name, next_folder, run_name, write_json_atomically

SCRIPTS = Path(__file__).resolve().parent
ARMS = {"with_model": "SAC with a learned model", "without_model": "the same SAC without it"}
HORIZON = 20  # of the model pictures
FILES = ("returns.png", "model_error.png", "model_trajectories.png", "film.mp4", "agent.zip", MODEL_FILE)
SUMMARIES = "demo.json"


@dataclass(frozen=True)
class DemoArguments:
    """What to demonstrate, with the words of ``--help``; the defaults take about ten minutes on two idle cores."""

    output: str = field(default="demo", metadata={"help": "folder for everything the demonstration makes"})
    env: str = field(default="Hopper-v5", metadata={"help": "the task: a Gymnasium environment id"})
    n_timesteps: int = field(default=5000, metadata={"help": "real steps of each agent"})
    updates_per_step: float = field(default=20.0, metadata={"help": "agent updates per real step, the same for both"})
    eval_episodes: int = field(default=5, metadata={"help": "episodes per evaluation"})
    seed: int = field(default=0, metadata={"help": "of everything"})
    hyperparams: str = field(
        default="learning_starts:1000 policy_kwargs.net_arch:[128,128]",
        metadata={"help": "further settings of both agents, as one word: train.py --hyperparams, separated by spaces"},
    )


def train_command(args: DemoArguments, arm: str, runs: Path) -> list[str]:
    """The command line that trains one arm."""
    command = [
        *(sys.executable, str(SCRIPTS / "train.py"), "--algo", "sac", "--env", args.env, "-n", str(args.n_timesteps)),
        *("--seed", str(args.seed), "--updates-per-step", str(args.updates_per_step)),
        *("--eval-episodes", str(args.eval_episodes), "-f", str(runs), "--tag", arm),
        *(["-P"] if arm == "with_model" else ["--no-model"]),
    ]
    return [*command, "--hyperparams", *args.hyperparams.split()]


def run_folder(args: DemoArguments, arm: str, runs: Path) -> Path:
    """Where ``train.py`` puts an arm's only run."""
    return runs / "sac" / f"{run_name(args.env, arm)}_1"


def train_both(args: DemoArguments, runs: Path) -> None:
    """Train both arms at the same time; the one with the model shows its progress.

    Raises:
        RuntimeError: if one of them fails.
    """
    log = runs / "without_model.log"
    with log.open("w") as output:
        other = subprocess.Popen(train_command(args, "without_model", runs), stdout=output, stderr=subprocess.STDOUT)
        try:
            code = subprocess.run(train_command(args, "with_model", runs), check=False).returncode
            if code:
                raise RuntimeError(f"Training with the model ended with exit code {code}; see above.")
            say("With the model: done. Waiting for the agent without it ...")
            if other.wait():
                raise RuntimeError(f"Training without the model ended with exit code {other.returncode}; see {log}.")
        finally:
            if other.poll() is None:
                other.terminate()
                other.wait()


def make_film(folder: Path, path: Path) -> bool:
    """Film the agent in a subprocess, so that a crash of the graphics driver does not end the demonstration."""
    command = [sys.executable, str(SCRIPTS / "enjoy.py"), str(folder), "--n-episodes", "1", "--video", str(path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        path.unlink(missing_ok=True)
        lines = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
        say(f"No film: {lines[-1]}. Going on without.")
    return done.returncode == 0


def make_pictures(args: DemoArguments, runs: Path, output: Path) -> None:
    """Draw the learning curves and the model's prediction errors."""
    from scripts import plot

    run = run_folder(args, "with_model", runs)
    if not (run / MODEL_FILE).exists():
        raise RuntimeError("No model was fitted: raise --n-timesteps, or lower learning_starts in --hyperparams.")
    plot.main(["returns", str(runs), "-o", str(output / "returns.png")])
    if plot.main(["model", str(run), "-o", str(output), "--horizon", str(HORIZON)]):
        say("No pictures of the model, see above. Going on without.")


def collect(args: DemoArguments, runs: Path, output: Path) -> None:
    """Copy agent and model next to the pictures and put both summaries into one file."""
    from scripts.runs.reading import read_run

    folder = run_folder(args, "with_model", runs)
    shutil.copyfile(folder / agent_file_name(args.env), output / "agent.zip")
    shutil.copyfile(folder / MODEL_FILE, output / MODEL_FILE)
    summaries = {arm: read_run(run_folder(args, arm, runs)).summary for arm in ARMS}
    write_json_atomically(output / SUMMARIES, summaries)


def report(args: DemoArguments, runs: Path, output: Path) -> None:
    """Print the results, where things are and how to load them."""
    from scripts.runs.reading import read_run

    say(f"Mean return of {args.eval_episodes} episodes on the real {args.env}, by real steps:")
    found = {arm: read_run(run_folder(args, arm, runs)) for arm in ARMS}
    steps = found["with_model"].steps[3::4]
    print("   " + " " * 28 + "".join(f"{step:>9,.0f}" for step in steps))
    for arm, name in ARMS.items():
        print(f"   {name:<28}" + "".join(f"{found[arm].return_at(step):>9.0f}" for step in steps))
    print("   (One seed each, and early in training: see docs/results for runs over several seeds.)")
    say(f"In {output}/: {', '.join(name for name in (*FILES, SUMMARIES) if (output / name).exists())}")
    say("To load them:")
    print(
        f"""
    import mbrl_wrappers
    from mbrl_wrappers.storage.checkpoint import load_starts
    from stable_baselines3 import SAC

    agent = SAC.load("{output}/agent.zip")  # a pickle: load only what you made yourself
    model = mbrl_wrappers.load("{output}/{MODEL_FILE}")
    env = mbrl_wrappers.ModelEnv(model, load_starts("{output}/{MODEL_FILE}"), horizon=100)
    obs, _ = env.reset(seed=0)
    action, _ = agent.predict(obs, deterministic=True)

   python scripts/enjoy.py {run_folder(args, "with_model", runs)}
   python scripts/enjoy.py {run_folder(args, "with_model", runs)} --model
"""
    )


def say(text: str) -> None:
    """Print one line of the demonstration."""
    print(f"== {text}", flush=True)


def new_runs_folder(output: Path) -> Path:
    """``<output>/runs_<n>`` with the next number, so that an earlier demonstration stays."""
    output.mkdir(parents=True, exist_ok=True)
    return next_folder(output, "runs")


def demonstrate(args: DemoArguments) -> None:
    """Run the whole demonstration.

    Raises:
        RuntimeError: if a training fails.
    """
    started = time.perf_counter()
    output = Path(args.output)
    runs = new_runs_folder(output)
    for name in (*FILES, SUMMARIES):
        (output / name).unlink(missing_ok=True)
    say(f"Training two agents on {args.env}, {args.n_timesteps:,} real steps and the same updates each, on two cores:")
    for arm, name in ARMS.items():
        print(f"   {arm.replace('_', ' '):<14} {name} -> {run_folder(args, arm, runs)}")
    train_both(args, runs)
    say(f"Trained in {(time.perf_counter() - started) / 60:.1f} minutes. Drawing and filming ...")
    make_pictures(args, runs, output)
    make_film(run_folder(args, "with_model", runs), output / "film.mp4")
    collect(args, runs, output)
    report(args, runs, output)
    say(f"{(time.perf_counter() - started) / 60:.1f} minutes in all.")


def parse_arguments(argv: Sequence[str] | None = None) -> DemoArguments:
    """Parse the command line, one flag per field of :class:`DemoArguments`."""
    parser = argparse.ArgumentParser(
        prog="demo.py",
        description=(__doc__ or "").split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    for each in fields(DemoArguments):
        kind, text = type(each.default), each.metadata["help"]
        parser.add_argument(f"--{each.name.replace('_', '-')}", type=kind, default=each.default, help=text)
    return DemoArguments(**vars(parser.parse_args(argv)))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demonstration and return the exit code."""
    try:
        demonstrate(parse_arguments(argv))
    except (RuntimeError, ValueError, ImportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
