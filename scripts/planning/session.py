"""One call of ``plan.py``: episodes of a planner on the real environment, their record and their pictures."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium as gym

from controllers import MPCPolicy
from mbrl_wrappers.seeding import seed_at
from scripts.pictures.observation_names import observation_names
from scripts.pictures.video import Film, check_rendering, frames_per_second
from scripts.planning.arguments import PlanArguments
from scripts.planning.episodes import Moment, PlannedEpisode, ProgressBar, milliseconds, play_planned, shown_to
from scripts.planning.policy import build_model, build_policy, trained_on
from scripts.planning.settings import PlannerSettings, read_settings, try_out
from scripts.planning.table import plans_table
from scripts.runs.run_folder import new_run_folder
from scripts.runs.summary import Evaluation, RunSummary, versions
from scripts.training.environments import make_env
from scripts.training.flag_checks import check_flags
from scripts.training.interruption import StopOnSignal
from scripts.training.phases import PhaseClock


def act_on_plans(args: PlanArguments, words: Sequence[str]) -> int:
    """Play the episodes, write the record, print a row, and return the exit code.

    Args:
        args: the parsed command line.
        words: the command line itself, for the record.

    Raises:
        ValueError: for settings that cannot work; no folder is made then.
        ImportError: if a library is missing that a flag needs.
    """
    check_flags(args.env, args.device, progress=args.progress, plots=bool(args.picture))
    flags = {"horizon": args.horizon, "execute": args.execute, "particles": args.particles}
    given = {**args.hyperparams, **({} if args.population is None else {"population": args.population})}
    settings = read_settings(args.planner, args.env, "plan.yml", args.conf_file, given, flags)
    run = {**trained_on(args), **settings.config.run}
    env_kwargs = {**(run.get("env_kwargs") or {}), **args.env_kwargs}
    shown = {**env_kwargs, **({"render_mode": "rgb_array"} if args.video else {})}
    with closing(filmed(make_env(args.env, shown, run.get("env_wrapper")), args.video)) as env:
        obs, _ = env.reset(seed=args.seed[0])
        if args.video:
            check_rendering(env)
        model = build_model(args, env)
        policy = build_policy(args, settings, model, env)
        try_out(policy, shown_to(model, obs))
        folder = new_run_folder(Path(args.log_folder), "plan", args.env, args.arm)
        session = PlanSession(args, settings, policy, env, folder)
        session.summary.command = shlex.join(["python", "scripts/plan.py", *words])
        session.summary.env_kwargs = env_kwargs
        return session.play()


def filmed(env: gym.Env[Any, Any], folder: str) -> gym.Env[Any, Any]:
    """``env`` in Gymnasium's ``RecordVideo``, where its own library for films, moviepy, is installed."""
    if not folder or find_spec("moviepy") is None:
        return env
    # Episode 0 is the reset before the model is built, and nothing happens in it.
    return gym.wrappers.RecordVideo(env, folder, episode_trigger=lambda episode: episode > 0, name_prefix="plan")


class PlanSession:
    """Episodes under way, and the ``summary.json`` that records them."""

    def __init__(
        self,
        args: PlanArguments,
        settings: PlannerSettings,
        policy: MPCPolicy[Any],
        env: gym.Env[Any, Any],
        folder: Path,
    ) -> None:
        self.args, self.settings, self.policy, self.env, self.folder = args, settings, policy, env, folder
        self.clock, self.stop = PhaseClock(), StopOnSignal()
        self.episodes: list[PlannedEpisode] = []
        self.drawn = False
        model = type(getattr(policy.model, "inner", policy.model)).__name__  # whatever reward it is planned with
        self.model_name = f"true ({model})" if args.model == "true" else args.model
        self.summary = RunSummary(
            task=args.env,
            algorithm=args.planner,
            backend="torch",
            with_model=True,
            arm=args.arm,
            seeds={"train": args.seed[0]},
            total_timesteps=0,
            command="",
            hyperparameters={**settings.config.as_entry(), "model": self.model_name, **self._asked()},
            env_kwargs={},
            num_threads=args.num_threads,
            versions=versions("torch"),
        )

    def _asked(self) -> dict[str, Any]:
        """Flags that change what is planned for and that no YAML file holds."""
        names = ("steps", "discount", "terminal_value", "proposals", "num_proposals")
        asked = {name: getattr(self.args, name) for name in names}
        if not self.args.proposals:
            del asked["num_proposals"]
        return {name: value for name, value in asked.items() if value not in (None, "", -1)}

    def play(self) -> int:
        """All episodes of all seeds; the exit code is that of a signal if one came."""
        args = self.args
        print(f"{args.arm}: {args.env}, planned in {self.model_name} -> {self.folder}", flush=True)
        self._write()
        with ProgressBar(self._steps_in_all(), args.progress) as bar, self.stop.listening():
            for seed in args.seed:
                for number in range(args.episodes):
                    episode = self._episode(seed, number, bar)
                    if self.stop.received is not None:
                        break
                    self.episodes.append(episode)
                    self._write()
                    bar.write(
                        f"  seed {seed}, episode {number + 1}: return {episode.total:.2f}, {episode.length} steps, "
                        f"{episode.ended_by}, {milliseconds([episode]).get('median', 0):.0f} ms a plan"
                    )
                if self.stop.received is not None:
                    break
        self.summary.finished = self.stop.received is None
        self.summary.stopped_by = None if self.stop.received is None else f"signal {self.stop.received}"
        self._write()
        if args.picture and not self.drawn:
            print(f"No {args.picture}: the first episode has no step {args.picture_step}.", flush=True)
        if self.episodes:
            print(plans_table([asdict(self.summary)]))
        return self.stop.exit_code

    def _episode(self, seed: int, number: int, bar: ProgressBar) -> PlannedEpisode:
        args = self.args

        def before_step(moment: Moment) -> bool:
            if args.picture and not self.episodes and moment.step == args.picture_step:
                self._draw(Path(args.picture), moment.step)
            text = f"seed {seed} episode {number + 1}, return {moment.total:.2f}, {moment.milliseconds:.0f} ms a plan"
            bar.step(text)
            return self.stop.received is None

        self.policy.seed = seed_at(seed, number)
        with self._film(seed, number) or nullcontext() as film:
            episode = play_planned(
                self.env,
                self.policy,
                reset_seed=seed if number == 0 else None,
                run_seed=seed,
                max_steps=args.steps if args.steps > 0 else None,
                film=film,
                before_step=before_step,
            )
        self.clock.add("planning", sum(episode.plan_milliseconds) / 1000)
        return episode

    def _film(self, seed: int, number: int) -> Film | None:
        """A film of our own, where Gymnasium cannot make one."""
        if not self.args.video or isinstance(self.env, gym.wrappers.RecordVideo):
            return None
        path = Path(self.args.video) / f"plan-seed-{seed}-episode-{number}.mp4"
        return Film(path, frames_per_second(self.env))

    def _draw(self, path: Path, step: int) -> None:
        from scripts.planning.pictures import plot_candidates

        title = f"{self.args.env}, {self.args.arm}, step {step}"
        plot_candidates(self.policy, observation_names(self.env), path, title)
        self.drawn = True

    def _steps_in_all(self) -> int | None:
        count = self.args.episodes * len(self.args.seed)
        limit = None if self.env.spec is None else self.env.spec.max_episode_steps
        longest = self.args.steps if self.args.steps > 0 else limit
        return None if longest is None else count * min(longest, limit or longest)

    def _write(self) -> None:
        """Bring the summary up to date and write it."""
        summary, episodes = self.summary, self.episodes
        wall = round(self.clock.wall_seconds, 3)
        returns, lengths = [episode.total for episode in episodes], [episode.length for episode in episodes]
        summary.evaluations = [Evaluation(0, returns, lengths, wall)] if episodes else []
        summary.wall_seconds, summary.cpu_seconds = wall, round(self.clock.cpu_seconds, 3)
        summary.phase_seconds = self.clock.report()
        rows = []
        for episode in episodes:
            row = asdict(episode)
            row["plans"] = len(row.pop("plan_milliseconds"))
            rows.append({**row, "plan_milliseconds": milliseconds([episode])})
        summary.planning = {
            "model": self.model_name,
            "exact_model": bool(getattr(self.policy.model, "exact", False)),
            "seeds": list(self.args.seed),
            "plan_milliseconds": milliseconds(episodes) if episodes else {},
            "model_calls": sum(episode.model_calls for episode in episodes),
            "episodes": rows,
        }
        summary.write(self.folder)
