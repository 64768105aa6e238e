"""One run of PETS: build, learn trial by trial with checkpoints, evaluate."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from stable_baselines3.common.logger import Logger
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.utils import configure_logger

from controllers import PlannerCheckpoints, StepReport, TrialReport, learn_with_planner
from controllers.learning_state import trial_from_state, trial_state
from mbrl_wrappers import TransitionStore
from mbrl_wrappers.seeding import seed_at, spawn_seeds
from mbrl_wrappers.states import StateDict, require_keys
from scripts.planning.arguments import TrainPlannerArguments
from scripts.planning.episodes import ProgressBar, play_planned
from scripts.planning.learning_run import PlannerRun, plan_planner_run
from scripts.runs.env_id import safe_name
from scripts.runs.run_folder import SUMMARY_FILE, new_run_folder, run_folders
from scripts.runs.summary import Evaluation, RunSummary, versions
from scripts.training.configuration import parse_yaml
from scripts.training.evaluation import EVALUATION_SEED_OFFSET
from scripts.training.interruption import StopOnSignal
from scripts.training.phases import PhaseClock
from scripts.training.session import write_settings

ALGORITHM = "pets"
PROGRESS_FOLDER = "progress"
MIN_STORE = 100_000  # a run that is resumed may go on for longer than it was meant to


def train_planner(args: TrainPlannerArguments, words: Sequence[str]) -> int:
    """Learn, save, and return the exit code.

    Args:
        args: the parsed command line.
        words: the command line itself, for the record.

    Raises:
        ValueError: for settings that cannot work; no folder is made then.
        ImportError: if a library is missing.
    """
    if args.resume == "auto":
        args = replace(args, resume="")
        unfinished = unfinished_run(args)
        if unfinished is not None:
            return resume(replace(args, resume=str(unfinished), n_timesteps=-1, trials=-1), words)
    run = plan_planner_run(args)
    command = shlex.join(["python", "scripts/train_planner.py", *words])
    folder = new_run_folder(Path(args.log_folder), ALGORITHM, args.env, args.tag)
    summary = RunSummary(
        task=args.env,
        algorithm=ALGORITHM,
        backend="torch",
        with_model=True,
        arm=args.arm,
        seeds={"train": args.seed, "evaluation": args.seed + EVALUATION_SEED_OFFSET},
        total_timesteps=run.learning.total_steps or 0,
        command=command,
        hyperparameters=run.config.as_entry(),
        env_kwargs=run.env_kwargs,
        num_threads=args.num_threads,
        versions=versions("torch"),
    )
    summary.write(folder)
    write_settings(folder, run, command)
    return PlannerTraining(run, folder, summary, PhaseClock()).learn()


def resume(args: TrainPlannerArguments, words: Sequence[str]) -> int:
    """Go on with a run from its newest checkpoint; the results are those of an uninterrupted run.

    Args:
        args: ``resume`` names the folder; ``-n``, ``--trials``, ``--eval-episodes`` and ``-P`` are taken when given.
        words: the command line itself, for the record.

    Raises:
        ValueError: if the folder is none of ``train_planner.py``'s, or its checkpoints cannot be used.
    """
    folder = Path(args.resume)
    found = sorted(folder.glob("*/args.yml"))
    if not found or not (folder / SUMMARY_FILE).is_file():
        raise ValueError(f"{folder} is no run folder of train_planner.py: it has no args.yml or no {SUMMARY_FILE}.")
    saved = saved_arguments(found[0])
    if saved is None:
        raise ValueError(f"{found[0]} was not written by this version of train_planner.py.")
    before = json.loads((folder / SUMMARY_FILE).read_text())
    given = {name: getattr(args, name) for name in ("n_timesteps", "trials") if getattr(args, name) > 0}
    if given:
        saved |= {"n_timesteps": -1, "trials": -1, **given}
    elif before["finished"] and args.eval_episodes in (0, saved["eval_episodes"]):
        print(f"{folder} is finished: give it more steps (-n), trials (--trials) or episodes (--eval-episodes).")
        return 0
    args = TrainPlannerArguments(
        **{**saved, "progress": args.progress, "eval_episodes": args.eval_episodes or saved["eval_episodes"]}
    )
    run = plan_planner_run(args)
    before.pop("evaluations")  # those of the checkpoint count
    summary = RunSummary(**{**before, "finished": False, "stopped_by": None})
    summary.command += "\n" + shlex.join(["python", "scripts/train_planner.py", *words])
    summary.total_timesteps = run.learning.total_steps or 0
    clock = PhaseClock(summary.phase_seconds, summary.cpu_seconds)
    return PlannerTraining(run, folder, summary, clock).learn()


def saved_arguments(path: Path) -> dict[str, Any] | None:
    """The command line that an ``args.yml`` holds; None if it is none of this version of ``train_planner.py``."""
    saved = parse_yaml(path.read_text())
    known = {field.name for field in fields(TrainPlannerArguments)}
    return saved if isinstance(saved, dict) and set(saved) == known else None


def unfinished_run(args: TrainPlannerArguments) -> Path | None:
    """The newest run folder of the same command line whose run is not over; None without one."""
    wanted = {name: value for name, value in asdict(args).items() if name != "progress"}
    folders = run_folders(Path(args.log_folder), ALGORITHM, args.env, args.tag)
    for folder in reversed(folders):
        summary, found = folder / SUMMARY_FILE, sorted(folder.glob("*/args.yml"))
        if not found or not summary.is_file() or json.loads(summary.read_text())["finished"]:
            continue
        saved = saved_arguments(found[0]) or {}
        if {name: value for name, value in saved.items() if name != "progress"} == wanted:
            return folder
    return None


class PlannerTraining:
    """A run under way: its model, its trials so far and its ``summary.json``."""

    def __init__(self, run: PlannerRun, folder: Path, summary: RunSummary, clock: PhaseClock) -> None:
        self.run, self.folder, self.summary, self.clock = run, folder, summary, clock
        self.stop = StopOnSignal()
        self.trials: list[TrialReport] = []
        self.latest_plan = ""

    def learn(self) -> int:
        """Learn from the start or from the newest checkpoint on, evaluate, and return the exit code."""
        run, args = self.run, self.run.args
        checkpoints = PlannerCheckpoints(
            self.folder / PROGRESS_FOLDER, every=args.checkpoint_freq, also={"script": self}
        )
        begun = bool(checkpoints.checkpoints.steps())
        with closing(Monitor(run.env(), str(self.folder / "0"), override_existing=not begun)) as env:
            self.monitor = env
            self.clock.time_calls(env, "step", "env_step")
            self.model = run.model(env, self.clock)
            self.store = TransitionStore(self._capacity(), env.observation_space, env.action_space)
            self.logger: Logger = configure_logger(args.verbose, args.tensorboard_log or None, run_title(args), True)
            print(f"{args.arm}: {args.env} -> {self.folder}", flush=True)
            with ProgressBar(run.learning.total_steps, args.progress) as self.bar, self.stop.listening():
                result = learn_with_planner(
                    env,
                    run.policy(self.model.dynamics),
                    self.model.trainer,
                    self.store,
                    run.learning,
                    seed=spawn_seeds(args.seed, 3)[2],  # the model takes the first two
                    checkpoints=checkpoints,
                    on_trial=self.on_trial,
                    on_step=self.on_step,
                )
        if not result.stopped and args.eval_episodes:
            self.evaluate()
        self.summary.finished = not result.stopped and self.stop.received is None
        self.summary.stopped_by = None if self.stop.received is None else f"signal {self.stop.received}"
        self.record()
        self.logger.close()
        return self.stop.exit_code

    def state_dict(self) -> StateDict:
        """What the run's files say so far."""
        writer = self.monitor.results_writer
        assert writer is not None
        writer.file_handler.flush()
        return {
            "trials": [trial_state(trial) for trial in self.trials],
            "evaluations": [asdict(evaluation) for evaluation in self.summary.evaluations],
            "monitor_bytes": os.fstat(writer.file_handler.fileno()).st_size,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Cut the run's files back to where they were.

        Raises:
            ValueError: if the state is of another kind of run.
        """
        require_keys(state, ("trials", "evaluations", "monitor_bytes"), "a run of train_planner.py")
        self.trials = [trial_from_state(trial) for trial in state["trials"]]
        self.summary.evaluations = [Evaluation(**row) for row in state["evaluations"]]
        writer = self.monitor.results_writer
        assert writer is not None
        os.truncate(writer.file_handler.name, state["monitor_bytes"])
        self.bar.step("", sum(trial.length for trial in self.trials))

    def on_step(self, step: StepReport) -> bool:
        """Count the time of the plan, show how it stands, and say whether to go on."""
        if step.plan is not None:
            self.clock.add("planning", step.plan.seconds)
            self.latest_plan = f", {1000 * step.plan.seconds:.0f} ms a plan"
        what = "random" if step.random else f"trial {step.trial}"
        self.bar.step(f"{what}, return {step.real_return:.1f}{self.latest_plan}")
        return self.stop.received is None

    def on_trial(self, trial: TrialReport) -> None:
        """Save everything, and write the trial down."""
        self.trials.append(trial)
        if trial.fit is not None:
            self.model.save(self.folder, self.store.transitions())
        if self._is_whole(trial):
            # The trial was planned with a model fitted to the steps before it, so its return counts at that step.
            self._evaluated(trial.real_steps - trial.length, [trial.real_return], [trial.length])
        self._log(trial)
        self.record()
        kind = "random" if trial.random else f"{trial.plan_milliseconds:.0f} ms a plan"
        self.bar.write(
            f"{self.run.args.arm} seed {self.run.args.seed}: trial {trial.trial} ({kind}), return "
            f"{trial.real_return:.1f} in {trial.length} steps, {trial.real_steps} real steps, "
            f"{self.clock.wall_seconds:.0f} s"
        )

    def evaluate(self) -> None:
        """Episodes of the planner with the final model, on an environment of their own."""
        args = self.run.args
        policy, seed = self.run.policy(self.model.dynamics), args.seed + EVALUATION_SEED_OFFSET
        with self.clock.measure("evaluation"), closing(self.run.env()) as env, self.stop.listening():
            episodes = []
            for number in range(args.eval_episodes):
                policy.seed = seed_at(seed, number)
                episode = play_planned(
                    env,
                    policy,
                    reset_seed=seed if number == 0 else None,
                    max_steps=self.run.learning.trial_steps,
                    before_step=lambda moment: self.stop.received is None,
                )
                if self.stop.received is not None:
                    return
                episodes.append(episode)
                print(f"  evaluation {number + 1}: return {episode.total:.1f} in {episode.length} steps", flush=True)
        returns, lengths = [episode.total for episode in episodes], [episode.length for episode in episodes]
        self._evaluated(sum(trial.length for trial in self.trials), returns, lengths)

    def record(self) -> None:
        """Bring the summary up to date and write it."""
        summary, clock = self.summary, self.clock
        summary.real_steps = sum(trial.length for trial in self.trials)
        summary.wall_seconds = round(clock.wall_seconds, 3)
        summary.cpu_seconds = round(clock.cpu_seconds, 3)
        summary.phase_seconds = clock.report()
        summary.model = self.model.record()
        rows = [asdict(trial) for trial in self.trials]
        summary.planning = {"trials": [{key: row[key] for key in row if key != "fit"} for row in rows]}
        summary.write(self.folder)

    def _evaluated(self, real_steps: int, returns: list[float], lengths: list[int]) -> None:
        wall = round(self.clock.wall_seconds, 1)
        self.summary.evaluations.append(Evaluation(real_steps, returns, lengths, wall))

    def _is_whole(self, trial: TrialReport) -> bool:
        """Whether it is an episode of the planner that the limit of real steps did not cut short."""
        limits = self.run.learning
        cut = trial.real_steps == limits.total_steps and not trial.terminated and trial.length < limits.trial_steps
        return not trial.random and not cut

    def _log(self, trial: TrialReport) -> None:
        log = self.logger
        log.record("rollout/return", trial.real_return)
        log.record("rollout/length", trial.length)
        if trial.fit is not None:
            log.record("model/r2_mean", trial.fit.r2_mean)
            log.record("model/r2_min", trial.fit.r2_min)
            log.record("model/holdout_error", sum(trial.fit.holdout_error) / len(trial.fit.holdout_error))
            log.record("model/gradient_steps", trial.fit.gradient_steps)
        for name in ("plan_milliseconds", "model_calls", "warm_start_value", "best_value", "mean_value"):
            value = getattr(trial, name)
            if value is not None and not trial.random:
                log.record(f"plan/{name.removeprefix('plan_')}", value)
        log.record("time/trials", trial.trial + 1, exclude="tensorboard")
        log.record("time/total_timesteps", trial.real_steps, exclude="tensorboard")
        log.dump(trial.real_steps)

    def _capacity(self) -> int:
        limits = self.run.learning
        planned = (limits.trials or 0) * limits.trial_steps + limits.initial_random_steps
        return max(MIN_STORE, limits.total_steps or 0, planned)


def run_title(args: TrainPlannerArguments) -> str:
    """How the run is called among TensorBoard's logs."""
    return "_".join(part for part in (ALGORITHM, safe_name(args.env), args.tag) if part)
