"""The probabilistic ensemble: bootstrapped Gaussian networks that predict the change of the observation."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal, NamedTuple, get_args

import torch as th
from torch import Generator, Tensor

from mbrl_wrappers.disagreement import MemberGaussians, fuse
from mbrl_wrappers.models.gaussian_ensemble import EnsembleOptions, GaussianEnsemble
from mbrl_wrappers.nets import Routing
from mbrl_wrappers.seeding import torch_generator
from mbrl_wrappers.spaces import ActionCodec, AnySpace, check_action_space, check_observation_space
from mbrl_wrappers.storage.checkpoint import register_model, resolve_device
from mbrl_wrappers.storage.space_json import space_from_json, space_to_json
from mbrl_wrappers.storage.stored_functions import describe_function, restored_head
from mbrl_wrappers.types import Prediction, RewardFn, TerminationFn

# Rows of one pass through the elementwise operations around the network: their intermediates stay in cache.
STEP_ROWS = 16384

Propagation = Literal["ts1", "tsinf", "mean", "infoprop"]


class EnsembleState(NamedTuple):
    """``obs (B, O)`` and the ensemble ``member (B,)`` int64 that predicts the row's next step."""

    obs: Tensor
    member: Tensor


class RawOutputs(NamedTuple):
    """Outputs in raw units, reward and logit where they are learned.

    Attributes:
        target: ``(B, O)``, the change of the observation, or the next observation where that is predicted.
        reward: ``(B,)``.
        logit: ``(B,)`` of a termination.
    """

    target: Tensor
    reward: Tensor | None
    logit: Tensor | None


@register_model("ensemble")
class EnsembleDynamics(GaussianEnsemble):
    r"""A probabilistic ensemble of Gaussian networks (PETS, Chua et al. 2018, section 4; MBPO, Janner et al. 2019).

    Member :math:`e` predicts the standardised change of the observation (or the next observation, see
    :class:`EnsembleOptions`) and, unless a function is given, the reward,

    .. math:: s' = s + \mu_\Delta + \sigma_\Delta\,(m_e(s, a) + \sqrt{v_e(s, a)}\,\epsilon),
              \quad \epsilon \sim \mathcal{N}(0, I),

    with input and target statistics taken from the training rows. A dimension that never changes there (a goal, a
    constant reward) has :math:`\sigma_\Delta = 0`: it is predicted to stay as it is, exactly. An observation dimension
    that has one value in all training rows does not influence predictions. The learned reward is the mean (a draw would
    only add noise to the targets of a critic), a learned termination is a classifier with a threshold calibrated on the
    holdout. Give ``termination_fn`` where you can: terminations are rare, and a classifier that saw a handful of them
    finds few others. States are float32, or float64 where the training rows lie so far from zero that float32 would
    lose their changes (``obs_dtype``); the networks compute in float32.

    Rows are routed through one elite each: ``propagation`` is ``"ts1"`` (a new elite in each step), ``"tsinf"``
    (one elite for the whole trajectory), ``"mean"`` (the mixture mean over elites, no noise) or ``"infoprop"``: all
    elites are asked and fused (:func:`~mbrl_wrappers.disagreement.fuse`), and the draw :math:`x` of one of them counts
    as far as its spread is noise and no error of the model,

    .. math:: s' \sim \mathcal{N}\big(\mu_f + K (x - \mu_f),\ (1 - K)\,v_f\big)

    (Infoprop, Frauenknecht et al. 2025, section 4). It costs as much as all elites.

    Args:
        observation_space: one-dimensional float Box.
        action_space: the environment's Box or Discrete space.
        num_members: networks trained, ``E``.
        num_elites: networks used for prediction, the best on the holdout.
        hidden: width of each hidden layer.
        propagation: how members are assigned to rows.
        reward_fn: known reward in environment units; learned when None.
        termination_fn: known termination in environment units; learned when None.
        options: numbers that are seldom changed.
        seed: source of the initial weights.
        device: ``"auto"`` takes CUDA when there is one, as in Stable-Baselines3.

    Raises:
        TypeError: for a space that models cannot use.
        ValueError: for impossible numbers.
    """

    def __init__(
        self,
        observation_space: AnySpace,
        action_space: AnySpace,
        *,
        num_members: int = 7,
        num_elites: int = 5,
        hidden: Sequence[int] = (200, 200, 200, 200),
        propagation: Propagation = "ts1",
        reward_fn: RewardFn | None = None,
        termination_fn: TerminationFn | None = None,
        options: EnsembleOptions | None = None,
        seed: int = 0,
        device: str | th.device = "auto",
    ) -> None:
        if propagation not in get_args(Propagation):
            raise ValueError(f"propagation must be one of {get_args(Propagation)}, got {propagation!r}.")
        observation_space = check_observation_space(observation_space)
        codec = ActionCodec(check_action_space(action_space))
        super().__init__(
            (observation_space.shape[0], codec.size),
            num_members=num_members,
            num_elites=num_elites,
            hidden=hidden,
            learned=(reward_fn is None, termination_fn is None),
            options=options or EnsembleOptions(),
            generator=torch_generator(seed),
        )
        self.observation_space, self.codec = observation_space, codec
        self.action_space: AnySpace = action_space
        self.propagation: Propagation = propagation
        self.reward_fn, self.termination_fn = reward_fn, termination_fn
        self.to(resolve_device(device))

    def with_propagation(self, propagation: Propagation) -> EnsembleDynamics:
        """The same ensemble, with the same weights and statistics, whose rollouts follow members in another way.

        Raises:
            ValueError: for an unknown way.
        """
        if propagation not in get_args(Propagation):
            raise ValueError(f"propagation must be one of {get_args(Propagation)}, got {propagation!r}.")
        view = copy.copy(self)  # shares parameters and buffers, which fits change in place
        view.propagation = propagation
        return view

    @property
    def action_bounds(self) -> tuple[Tensor, Tensor]:
        """Lowest and highest model action, each ``(A,)``."""
        return self.codec.bounds

    # --- predicting -------------------------------------------------------------------------------------------------

    def reset(self, obs: Tensor, *, generator: Generator) -> EnsembleState:
        """Start one trajectory per row of ``obs (B, O)`` and draw its elite.

        Raises:
            ValueError: for observations of another shape.
        """
        obs = self._checked(obs)
        drawn = th.randint(self.num_elites, (len(obs),), generator=generator, device=self.device)
        return EnsembleState(obs, self.elites.index_select(0, drawn))

    def reset_particles(self, obs: Tensor, particles: int, *, generator: Generator) -> EnsembleState:
        """Start ``particles`` trajectories per row of ``obs (N, O)``, side by side, with the elites dealt out evenly.

        Each elite comes up ``K / E`` times among the particles of a row, rounded down or up; which ones are rounded up
        is drawn.

        Raises:
            ValueError: for observations of another shape.
        """
        obs = self._checked(obs)
        shuffled = th.rand(len(obs), self.num_elites, generator=generator, device=self.device).argsort(1)
        dealt = shuffled[:, th.arange(particles, device=self.device) % self.num_elites]
        return EnsembleState(obs.repeat_interleave(particles, 0), self.elites.index_select(0, dealt.flatten()))

    def _checked(self, obs: Tensor) -> Tensor:
        if obs.ndim != 2 or obs.shape[1] != self.obs_size:
            raise ValueError(f"obs must have shape (B, {self.obs_size}), got {tuple(obs.shape)}.")
        return self.as_observations(obs)

    def lasting_members(self, state: EnsembleState) -> Tensor | None:
        """The member ``(B,)`` of each row in ``"tsinf"``; None otherwise, where members change or are averaged."""
        return state.member if self.propagation == "tsinf" else None

    def step(self, state: EnsembleState, action: Tensor, *, generator: Generator) -> tuple[EnsembleState, Prediction]:
        """Advance every row with model actions ``(B, A)``; differentiable in state and action."""
        if len(action) <= STEP_ROWS or th.is_grad_enabled():
            return self.step_shared(state, action, generator=generator, groups=1)
        count = -(-len(action) // STEP_ROWS)
        chunks = zip(*(tensor.tensor_split(count) for tensor in (*state, action)), strict=True)
        steps = [
            self.step_shared(EnsembleState(obs, member), rows, generator=generator, groups=1)
            for obs, member, rows in chunks
        ]
        states, predictions = zip(*steps, strict=True)
        return (
            EnsembleState(*(th.cat(column) for column in zip(*states, strict=True))),
            Prediction(*(th.cat(column) for column in zip(*predictions, strict=True))),
        )

    def step_shared(
        self, state: EnsembleState, action: Tensor, *, generator: Generator, groups: int
    ) -> tuple[EnsembleState, Prediction]:
        """Like ``step``, with rows as ``groups`` equal blocks: row ``i`` of every block sees the same draws.

        These are the noise and, in ``"ts1"``, the member; in ``"tsinf"`` it is the state that says which one.

        Raises:
            ValueError: when the rows cannot be divided into ``groups`` equal blocks.
        """
        if groups < 1 or len(action) % groups:
            raise ValueError(f"{len(action)} rows cannot be {groups} equal blocks.")
        obs, action, member = self.as_observations(state.obs), self.as_weights(action), state.member
        inputs = self.inputs(obs, action)
        if self.propagation == "mean":
            raw = self._mixture_mean(inputs)
        elif self.propagation == "infoprop":
            raw = self._fused(inputs, generator, groups)
        else:
            if self.propagation == "ts1":
                block, member = Routing.balanced(len(action) // groups, self.elites, generator=generator)
                routing, member = block.repeated(groups), member.repeat(groups)
            else:
                routing = Routing.of(member, self.num_members)
            raw = self._sample(inputs, routing, generator, groups)
        next_obs = raw.target.to(obs.dtype) if self.options.target == "direct" else obs + raw.target
        return EnsembleState(next_obs, member), self._predict(obs, action, next_obs, raw)

    def _sample(self, inputs: Tensor, routing: Routing, generator: Generator, groups: int) -> RawOutputs:
        """A draw from each row's member. The reward is not drawn but its mean."""
        mean, raw_log_variance, logit = self.columns(self.net.route(inputs, routing))
        size, rows = self.obs_size, len(inputs) // groups
        count = rows if groups > 1 else len(mean)  # draws in common belong to rows, others as well to places
        noise = th.randn((size, count), generator=generator, device=self.device, dtype=mean.dtype)
        if groups > 1:
            noise = noise.index_select(1, routing.order % rows)
        owner = routing.members_by_place(self.device) if self.log_variance.learn else None
        spread = self.log_variance.std(raw_log_variance, owner)[:, :size] * self.target_normalizer.std[:size]
        target = self.target_normalizer.denormalize(mean)
        return RawOutputs(
            routing.restore(th.addcmul(target[:, :size], spread, noise.t())),
            routing.restore(target[:, size]) if self.learn_reward else None,
            None if logit is None else routing.restore(logit),
        )

    def _mixture_mean(self, inputs: Tensor) -> RawOutputs:
        """The mean over elites, without noise."""
        mean, _, logit = self.columns(self.elite_columns(inputs).mean(0))
        target = self.target_normalizer.denormalize(mean)
        return RawOutputs(target[:, : self.obs_size], target[:, self.obs_size] if self.learn_reward else None, logit)

    def _fused(self, inputs: Tensor, generator: Generator, groups: int) -> RawOutputs:
        """A draw of one elite, pulled towards what all of them agree on. The reward is their fused mean."""
        outputs, rows = self.elite_outputs(inputs), len(inputs) // groups
        fused = fuse(MemberGaussians(outputs.mean, outputs.log_variance.exp()))
        elite = th.randint(self.num_elites, (rows,), generator=generator, device=self.device).repeat(groups)
        noise = th.randn(2, rows, self.obs_size, generator=generator, device=self.device, dtype=inputs.dtype)
        own, rest = noise.repeat(1, groups, 1)
        every, size = th.arange(len(inputs), device=self.device), self.obs_size
        mean, gain, variance = (column[:, :size] for column in (fused.mean, fused.gain, fused.variance))
        drawn = outputs.mean[elite, every, :size] + (0.5 * outputs.log_variance[elite, every, :size]).exp() * own
        target = mean + gain * (drawn - mean) + ((1 - gain) * variance).sqrt() * rest
        target = self.target_normalizer.denormalize(th.cat([target, fused.mean[:, size:]], 1))
        return RawOutputs(
            target[:, :size],
            target[:, size] if self.learn_reward else None,
            None if outputs.logit is None else outputs.logit.mean(0),
        )

    def member_gaussians(self, obs: Tensor, action: Tensor) -> MemberGaussians:
        """What each elite predicts for ``obs (B, O)`` and model actions ``(B, A)``, in standardised units.

        Dimensions that never change are left out, and so is a reward that is known.
        """
        outputs = self.elite_outputs(self.inputs(self.as_observations(obs), self.as_weights(action)))
        changing = ~self.target_normalizer.constant
        return MemberGaussians(outputs.mean[..., changing], outputs.log_variance[..., changing].exp())

    def _predict(self, obs: Tensor, action: Tensor, next_obs: Tensor, raw: RawOutputs) -> Prediction:
        """Reward and termination of rows ``(B, ...)``: known, or as learned."""
        known = self.reward_fn is not None or self.termination_fn is not None
        env_action = self.codec.decode(action) if known else action
        reward = raw.reward if self.reward_fn is None else self.reward_fn(obs, env_action, next_obs)
        assert reward is not None
        if self.termination_fn is not None:
            return Prediction(next_obs, reward, self.termination_fn(obs, env_action, next_obs))
        assert raw.logit is not None
        return Prediction(next_obs, reward, raw.logit > self.termination_threshold)

    def state_vector(self, state: EnsembleState) -> Tensor:
        """The observation ``(B, O)``; the member of a state is left out, as it cannot be differentiated."""
        return state.obs

    def with_state_vector(self, state: EnsembleState, vector: Tensor) -> EnsembleState:
        """``state`` at the observation ``vector (B, O)``, with its members."""
        return state._replace(obs=self.as_observations(vector))

    # --- saving -----------------------------------------------------------------------------------------------------

    def to_checkpoint(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """JSON configuration and tensors; functions are stored when they come from the task registry."""
        config = {
            "observation_space": space_to_json(self.observation_space),
            "action_space": space_to_json(self.action_space),
            "num_members": self.num_members,
            "num_elites": self.num_elites,
            "hidden": list(self.hidden),
            "propagation": self.propagation,
            "options": asdict(self.options),
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
    ) -> EnsembleDynamics:
        """Rebuild a saved model; functions that were the user's own must be passed again.

        Raises:
            ValueError: when the model was saved with a function of the user's own and none is passed.
        """
        model = cls(
            space_from_json(config["observation_space"]),
            space_from_json(config["action_space"]),
            num_members=config["num_members"],
            num_elites=config["num_elites"],
            hidden=config["hidden"],
            propagation=config["propagation"],
            options=EnsembleOptions(**config["options"]),
            reward_fn=restored_head("reward_fn", config["reward"], reward_fn),
            termination_fn=restored_head("termination_fn", config["termination"], termination_fn),
            device=device,
        )
        model.load_state_dict(tensors)
        if not ((model.elites >= 0) & (model.elites < model.num_members)).all():
            raise ValueError(f"The file names members {model.elites.tolist()} of {model.num_members}: it is damaged.")
        return model
