"""Evaluation on the real environment while training goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv

from sb3_ext.vec_env_state import load_vec_env_state, vec_env_state
from scripts.runs.run_folder import BEST_AVERAGED_AGENT_FILE
from scripts.runs.summary import Evaluation, RunSummary
from scripts.training.phases import PhaseClock

if TYPE_CHECKING:
    from sb3_ext import AveragedActor

EVALUATION_SEED_OFFSET = 10_000
"""Added to the run's seed for the evaluation environments, so that their starts are never training starts."""


@dataclass(frozen=True)
class EvaluatedAverage:
    """The average of the agent's actors and where it is evaluated.

    Attributes:
        actor: the average.
        eval_env: an environment of its own with the seed of the agent's, so that both meet the same starts.
    """

    actor: AveragedActor
    eval_env: VecEnv


class SummaryEvaluation(EvalCallback):
    """SB3's ``EvalCallback`` that also times itself, evaluates at the very end and rewrites ``summary.json``.

    Args:
        eval_env: a real environment of its own, seeded apart from the training one.
        summary: the record to extend.
        clock: counts the time.
        folder: run folder; receives ``best_model.zip``, ``evaluations.npz`` and ``summary.json``.
        eval_freq: calls between evaluations.
        episodes: episodes per evaluation.
        average: evaluated beside the agent; its best is saved as ``best_averaged_model.zip``.
        verbose: as in ``EvalCallback``.

    Attributes:
        model_record: says what to write of the learned model, if there is one.
    """

    def __init__(
        self,
        eval_env: VecEnv,
        summary: RunSummary,
        clock: PhaseClock,
        folder: Path,
        eval_freq: int,
        episodes: int,
        average: EvaluatedAverage | None = None,
        verbose: int = 0,
    ) -> None:
        super().__init__(
            eval_env,
            n_eval_episodes=episodes,
            eval_freq=eval_freq,
            log_path=str(folder),
            best_model_save_path=str(folder),
            deterministic=True,
            verbose=verbose,
        )
        self._summary = summary
        self._clock = clock
        self._folder = folder
        self._average = average
        self.model_record: Callable[[], dict[str, Any]] | None = None

    def _on_step(self) -> bool:
        if self.n_calls % self.eval_freq != 0:
            return True
        with self._clock.measure("evaluation"):
            averaged = self._evaluate_average()
            keep_going = super()._on_step()
        if averaged is not None:
            self._summary.averaged_evaluations.append(averaged)
        self.record()
        return keep_going

    def _evaluate_average(self) -> Evaluation | None:
        """Evaluate the average, save it if it is the best one, and log it with what ``EvalCallback`` logs next."""
        if self._average is None:
            return None
        actor = self._average.actor
        returns, lengths = evaluate_policy(
            cast(Any, actor),
            self._average.eval_env,
            n_eval_episodes=self.n_eval_episodes,
            deterministic=self.deterministic,
            return_episode_rewards=True,
        )
        result = Evaluation(
            real_steps=int(self.num_timesteps),
            returns=[float(value) for value in cast(list[float], returns)],
            lengths=[int(value) for value in cast(list[int], lengths)],
            wall_seconds=round(self._clock.wall_seconds, 1),
        )
        earlier = self._summary.averaged_evaluations
        if result.mean > max((evaluation.mean for evaluation in earlier), default=-np.inf):
            actor.save(self._folder / BEST_AVERAGED_AGENT_FILE)
        self.logger.record("eval/averaged_mean_reward", result.mean)
        return result

    def finish(self, *, again: bool = False) -> None:
        """Evaluate now, unless the last step was evaluated already.

        Args:
            again: evaluate in any case and replace that evaluation: the agent has learned since.
        """
        if self.evaluations_timesteps and self.evaluations_timesteps[-1] == self.model.num_timesteps:
            if not again:
                return
            for column in (self.evaluations_timesteps, self.evaluations_results, self.evaluations_length):
                column.pop()
            self._summary.evaluations.pop()
            if self._summary.averaged_evaluations:
                self._summary.averaged_evaluations.pop()
        self.num_timesteps = self.model.num_timesteps
        self.eval_freq = self.n_calls = max(self.n_calls, 1)
        self._on_step()

    def state_dict(self) -> dict[str, Any]:
        """The evaluations so far, the time that the run took, and where the average's environment is."""
        summary = self._summary
        return {
            "evaluations": [asdict(evaluation) for evaluation in summary.evaluations],
            "averaged_evaluations": [asdict(evaluation) for evaluation in summary.averaged_evaluations],
            "phase_seconds": self._clock.report(),
            "cpu_seconds": self._clock.cpu_seconds,
            "average_env": None if self._average is None else vec_env_state(self._average.eval_env),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``, without the evaluations that came after it."""
        summary = self._summary
        summary.evaluations = [Evaluation(**row) for row in state["evaluations"]]
        summary.averaged_evaluations = [Evaluation(**row) for row in state["averaged_evaluations"]]
        self._clock.go_on_from(state["phase_seconds"], state["cpu_seconds"])
        if self._average is not None and state["average_env"] is not None:
            load_vec_env_state(self._average.eval_env, state["average_env"])

    def record(self) -> None:
        """Bring the summary up to date and write it."""
        summary = self._summary
        if self.evaluations_timesteps and len(summary.evaluations) < len(self.evaluations_timesteps):
            summary.evaluations.append(
                Evaluation(
                    real_steps=int(self.evaluations_timesteps[-1]),
                    returns=[float(value) for value in self.evaluations_results[-1]],
                    lengths=[int(value) for value in self.evaluations_length[-1]],
                    wall_seconds=round(self._clock.wall_seconds, 1),
                )
            )
            averaged = summary.averaged_evaluations
            print(
                f"{self._summary.arm} seed {summary.seeds['train']}: {summary.evaluations[-1].real_steps} real steps, "
                f"return {summary.evaluations[-1].mean:.1f}, "
                + (f"of the averaged actor {averaged[-1].mean:.1f}, " if averaged else "")
                + f"{summary.evaluations[-1].wall_seconds:.0f} s",
                flush=True,
            )
        summary.real_steps = int(self.model.num_timesteps)
        summary.agent_updates = int(getattr(self.model, "_n_updates", 0))
        summary.wall_seconds = round(self._clock.wall_seconds, 3)
        summary.cpu_seconds = round(self._clock.cpu_seconds, 3)
        summary.phase_seconds = self._clock.report()
        if self.model_record is not None:
            summary.model = self.model_record()
        summary.write(self._folder)
