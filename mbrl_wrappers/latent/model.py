"""The latent state-space model: a dynamics model over its features that filters sensor readings."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Literal, get_args

import numpy as np
import torch as th
from gymnasium import spaces
from torch import Generator, Tensor

from mbrl_wrappers.latent.draws import SharedDraws
from mbrl_wrappers.latent.filtering import SensorFilter
from mbrl_wrappers.latent.options import LatentOptions
from mbrl_wrappers.latent.state import LatentState
from mbrl_wrappers.nets.diagonal_gaussian import DiagonalGaussian
from mbrl_wrappers.seeding import torch_generator
from mbrl_wrappers.spaces import ActionCodec, AnySpace, check_action_space, check_observation_space
from mbrl_wrappers.storage.checkpoint import register_model, resolve_device
from mbrl_wrappers.storage.space_json import space_from_json, space_to_json
from mbrl_wrappers.storage.stored_functions import describe_function, restored_head
from mbrl_wrappers.types import Prediction, RewardFn, TerminationFn, Transitions

REWARD_MARGIN = 0.1
"""Learned rewards are clipped to the range of the training rows, widened on each side by this share of its width."""

Form = Literal["state", "belief"]
"""What the features of a latent model show, and so what it means to step from them."""


@register_model("latent-state-space")
class LatentStateSpaceModel(SensorFilter):
    r"""Decoder :math:`p(o|s)`, dynamics :math:`p(s'|s,a)`, reward :math:`p(r|s,a,s')`, and a posterior over states.

    It is a dynamics model of its *features*, which stand where other models have observations. What the environment
    shows are *sensor readings*: :meth:`observe` filters them, :meth:`decode` predicts them. There are two forms, with
    the same weights (:meth:`in_form`):

    * ``"state"``: the features are the recurrent part and one draw of the sampled part, and a step draws the next. An
      agent that sees them knows a state exactly, so what it earns in the model is what it could earn if it knew the
      state of the environment, which is optimistic where sensors hide some of it.
    * ``"belief"``: the features are the recurrent part, mean and standard deviation of the sampled part, and the memory
      of the posterior. A step draws a state from the belief, moves on from it, draws what the sensors would read and
      filters that. What an agent earns there is what it can earn from the sensors.

    A state that was made of features (``reset``) is as good as the one they came from for steps. For filtering on, only
    the belief form keeps what the posterior remembers.

    Args:
        sensor_space: what the environment shows, a one-dimensional float Box.
        action_space: the environment's Box or Discrete space.
        options: sizes and modes.
        form: what the features show.
        reward_fn: known reward of *sensor readings* and actions in environment units; learned when None.
        termination_fn: known termination of sensor readings; learned when None.
        seed: source of the initial weights.
        device: ``"auto"`` takes CUDA when there is one.

    Raises:
        TypeError: for a space that models cannot use.
        ValueError: for impossible numbers, and for the belief form with a posterior that looks back on a window.
    """

    reward_range: Tensor

    def __init__(
        self,
        sensor_space: AnySpace,
        action_space: AnySpace,
        *,
        options: LatentOptions | None = None,
        form: Form = "state",
        reward_fn: RewardFn | None = None,
        termination_fn: TerminationFn | None = None,
        seed: int = 0,
        device: str | th.device = "auto",
    ) -> None:
        self.codec = ActionCodec(check_action_space(action_space))
        super().__init__(
            check_observation_space(sensor_space),
            self.codec.size,
            options or LatentOptions(),
            learned=(reward_fn is None, termination_fn is None),
            generator=torch_generator(seed),
        )
        self.action_space: AnySpace = action_space
        self.reward_fn, self.termination_fn = reward_fn, termination_fn
        limit = th.finfo(th.float32).max
        self.register_buffer("reward_range", th.tensor([-limit, limit]))  # of the training rows, with a margin
        self._set_form(form)
        self.to(resolve_device(device))

    @property
    def action_bounds(self) -> tuple[Tensor, Tensor]:
        """Lowest and highest model action, each ``(A,)``."""
        return self.codec.bounds

    def set_statistics(self, rows: Transitions) -> None:
        """Take the scales of sensor readings and rewards from the training rows, and from them only.

        Raises:
            ValueError: if no sensor ever changes: then nothing can be inferred.
        """
        self.set_scale(th.cat([rows.obs, rows.next_obs]))
        self.reward_normalizer.set_statistics(rows.reward[:, None])
        low, high = rows.reward.amin(), rows.reward.amax()
        margin = REWARD_MARGIN * (high - low)
        self.reward_range.copy_(th.stack([low - margin, high + margin]))

    # --- forms ------------------------------------------------------------------------------------------------------

    def in_form(self, form: Form) -> LatentStateSpaceModel:
        """A model in another form that shares all weights with this one."""
        other = object.__new__(type(self))
        other.__dict__ = self.__dict__.copy()
        other._set_form(form)
        return other

    def _set_form(self, form: Form) -> None:
        if form not in get_args(Form):
            raise ValueError(f"form must be one of {get_args(Form)}, got {form!r}.")
        options = self.options
        if form == "belief" and self.posterior.keeps_inputs:
            raise ValueError(
                "The belief form shows all that the posterior remembers, and this posterior looks back on a window of "
                f"{options.context} observations: take a filter with summary='gru' or 'none', or form='state'."
            )
        self.form: Form = form
        parts: tuple[int, ...] = (options.recurrent_size, options.latent_size)
        if form == "belief":
            parts = (*parts, options.latent_size, self.posterior.memory_size)
        self._feature_parts = parts
        self.observation_space = spaces.Box(-np.inf, np.inf, (sum(parts),), np.float32)

    def features(self, state: LatentState) -> Tensor:
        """What an agent is shown of ``state``, ``(B, F)``; :meth:`reset` turns it back."""
        if self.form == "state":
            return th.cat([state.recurrent, state.sample], 1)
        return th.cat([state.recurrent, state.mean, state.std, state.memory], 1)

    # --- as a dynamics model over features --------------------------------------------------------------------------

    def reset(self, obs: Tensor, *, generator: Generator) -> LatentState:
        """Start one trajectory per row of features ``obs (B, F)``.

        Raises:
            ValueError: for features of another shape.
        """
        if obs.ndim != 2 or obs.shape[1] != sum(self._feature_parts):
            raise ValueError(
                f"A latent model starts from features (B, {sum(self._feature_parts)}), got {tuple(obs.shape)}: filter "
                "sensor readings with observe() first."
            )
        parts = obs.to(self.device, th.float32).split(self._feature_parts, 1)
        if self.form == "state":
            recurrent, sample = parts
            memory = obs.new_zeros(len(obs), self.posterior.memory_size)
            return LatentState(recurrent, sample, sample, th.zeros_like(sample), memory.to(sample))
        recurrent, mean, std, memory = parts
        belief = DiagonalGaussian(mean, std)
        return LatentState(recurrent, self._drawn(belief, generator), mean, std, memory)

    def step(self, state: LatentState, action: Tensor, *, generator: Generator) -> tuple[LatentState, Prediction]:
        """Advance every row with model actions ``(B, A)``; the form says how. Differentiable."""
        return self.step_shared(state, action, generator=generator, groups=1)

    def step_shared(
        self, state: LatentState, action: Tensor, *, generator: Generator, groups: int
    ) -> tuple[LatentState, Prediction]:
        """Like ``step``, with rows as ``groups`` equal blocks: row ``i`` of every block sees the same draws.

        Raises:
            ValueError: when the rows cannot be divided into ``groups`` equal blocks.
        """
        if groups < 1 or len(action) % groups:
            raise ValueError(f"{len(action)} rows cannot be {groups} equal blocks.")
        draws = SharedDraws(generator, groups, self.device)
        action = action.to(self.device, th.float32)
        if self.form == "state":
            return self._state_step(state, action, draws)
        sample = self._drawn_from(state.belief, draws)
        truth = state._replace(sample=sample)
        truth, prediction = self._state_step(truth, action, draws)
        reading = self.decoded(th.cat([truth.recurrent, truth.sample], 1))
        seen = self.in_sensor_units(reading.draw(draws.normal(reading.mean)))
        first = th.zeros(len(action), dtype=th.bool, device=self.device)
        following = self._filtered(state, action, seen, first, draws)
        return following, prediction._replace(next_obs=self.features(following))

    def _state_step(self, state: LatentState, action: Tensor, draws: SharedDraws) -> tuple[LatentState, Prediction]:
        """One step from the drawn state to the next drawn state."""
        recurrent, parent = self.dynamics.advance(state.recurrent, state.sample, action)
        sample = self._drawn_from(self.following(parent, state.sample), draws)
        following = LatentState(recurrent, sample, sample, th.zeros_like(sample), state.memory)
        before, after = th.cat([state.recurrent, state.sample], 1), th.cat([recurrent, sample], 1)
        return following, Prediction(after, *self._consequences(before, action, after))

    def _consequences(self, before: Tensor, action: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
        """Reward and termination ``(B,)`` of a step between latents ``(B, R + Z)``: learned, or of decoded sensors."""
        sensors = (before, action, after)
        if not (self.learn_reward and self.learn_termination):
            sensors = (self._sensors(before), self.codec.decode(action), self._sensors(after))
        if self.reward_fn is None:
            standard = self.rewarded(before, action, after).mean
            reward = self.reward_normalizer.denormalize(standard[:, None]).squeeze(1)
            reward = reward.clamp(self.reward_range[0], self.reward_range[1])
        else:
            reward = self.reward_fn(*sensors).to(self.dtype)
        if self.termination_fn is None:
            return reward, self.termination_logit(after) > 0
        return reward, self.termination_fn(*sensors)

    # --- saving -----------------------------------------------------------------------------------------------------

    def to_checkpoint(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """JSON configuration and tensors; functions are stored when they come from the task registry."""
        config = {
            "sensor_space": space_to_json(self.sensor_space),
            "action_space": space_to_json(self.action_space),
            "options": asdict(self.options),
            "form": self.form,
            "reward": describe_function(self.reward_fn),
            "termination": describe_function(self.termination_fn),
        }
        return config, dict(self.state_dict())

    @classmethod
    def from_checkpoint(
        cls,
        config: dict[str, Any],
        tensors: dict[str, Tensor],
        *,
        device: str | th.device = "auto",
        reward_fn: RewardFn | None = None,
        termination_fn: TerminationFn | None = None,
    ) -> LatentStateSpaceModel:
        """Rebuild a saved model; functions that were the user's own must be passed again.

        Raises:
            ValueError: when the model was saved with a function of the user's own and none is passed.
        """
        described = dict(config["options"])
        for name in ("hidden", "encoder_hidden", "image_shape"):
            described[name] = None if described[name] is None else tuple(described[name])
        model = cls(
            space_from_json(config["sensor_space"]),
            space_from_json(config["action_space"]),
            options=LatentOptions(**described),
            form=config["form"],
            reward_fn=restored_head("reward_fn", config["reward"], reward_fn),
            termination_fn=restored_head("termination_fn", config["termination"], termination_fn),
            device=device,
        )
        model.load_state_dict(tensors)
        return model
