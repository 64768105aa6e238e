"""Callbacks that let an averaged actor evaluate, branch in the model or act in the agent's place."""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.callbacks import BaseCallback

from sb3_ext.averaged_actor import AveragedActor


class WithAveragedActor(BaseCallback):
    """Runs another callback with the averaged actor in the agent's place, and gives the agent its own back.

    ``EvalCallback`` then evaluates and saves the averaged actor, and ``DynaCallback`` lets it branch in the model::

        averaged = AveragedActor()
        evaluation = WithAveragedActor(averaged, EvalCallback(eval_env, best_model_save_path="best"))
        agent.learn(20_000, callback=[averaged, evaluation])

    Args:
        averaged: the average; it has to be in the list of callbacks too, before this one.
        callback: the callback to run.
    """

    def __init__(self, averaged: AveragedActor, callback: BaseCallback) -> None:
        super().__init__()
        self.averaged = averaged
        self.callback = callback

    def _init_callback(self) -> None:
        self.callback.init_callback(self.model)

    def _on_training_start(self) -> None:
        _check_same_agent(self, self.averaged)
        with self.averaged.applied():
            self.callback.on_training_start(self.locals, self.globals)

    def _on_rollout_start(self) -> None:
        with self.averaged.applied():
            self.callback.on_rollout_start()

    def _on_step(self) -> bool:
        with self.averaged.applied():
            return self.callback.on_step()

    def _on_rollout_end(self) -> None:
        with self.averaged.applied():
            self.callback.on_rollout_end()

    def _on_training_end(self) -> None:
        with self.averaged.applied():
            self.callback.on_training_end()

    def update_child_locals(self, locals_: dict[str, Any]) -> None:
        """Hand on the local variables of SB3's loop."""
        self.callback.update_locals(locals_)


class ActWithAverage(BaseCallback):
    """Lets the averaged actor take the real steps, while the agent trains its own actor.

    The average is in the agent's place from here to the next step only: SB3's updates, and every callback between
    :class:`~sb3_ext.AveragedActor` at the beginning of the list and this one at its end, meet the agent's own weights::

        averaged = AveragedActor()
        agent.learn(20_000, callback=[averaged, evaluation, ActWithAverage(averaged)])

    Exploration stays the agent's. If ``learn`` ends with an exception, call ``averaged.withdraw()`` before you save
    the agent.

    Args:
        averaged: the average, which is the first in the list of callbacks.
    """

    def __init__(self, averaged: AveragedActor) -> None:
        super().__init__()
        self.averaged = averaged

    def _on_training_start(self) -> None:
        _check_same_agent(self, self.averaged)

    def _on_rollout_start(self) -> None:
        self.averaged.apply()

    def _on_step(self) -> bool:
        self.averaged.apply()
        return True


def _check_same_agent(callback: BaseCallback, averaged: AveragedActor) -> None:
    if not averaged.follows(callback.model):
        name = type(callback).__name__
        raise ValueError(
            f"{name} needs its AveragedActor to follow the same agent: learn(callback=[averaged, ..., "
            f"{name}(averaged, ...)])."
        )
