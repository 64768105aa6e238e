"""The probabilistic ensemble: bootstrapped Gaussian networks that predict the change of the observation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple, get_args

import torch as th
from torch import Generator, Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from mbrl_wrappers.checkpoint import register_model, resolve_device
from mbrl_wrappers.checks import at_least, within
from mbrl_wrappers.nets import BoundedLogVariance, EnsembleMLP, Normalizer, gaussian_nll
from mbrl_wrappers.seeding import torch_generator
from mbrl_wrappers.space_json import space_from_json, space_to_json
from mbrl_wrappers.spaces import ActionCodec, AnySpace, check_observation_space
from mbrl_wrappers.stored_functions import describe_function, restore_function
from mbrl_wrappers.types import Limits, Prediction, RewardFn, TerminationFn, Transitions

# Rows of one pass through the elementwise operations around the network: their intermediates stay in cache.
STEP_ROWS = 16384

Propagation = Literal["ts1", "tsinf", "mean"]


@dataclass(frozen=True)
class EnsembleOptions:
    """Numbers of the ensemble that are seldom changed.

    Attributes:
        log_variance_low: initial lower limit of the log-variance, in standardised target units.
        log_variance_high: initial upper limit.
        learn_log_variance_limits: train the two limits (PETS) or keep them fixed.
        limit_margin: predictions further outside the training data than this share of its width are not believed.
    """

    log_variance_low: float = -10.0
    log_variance_high: float = 0.5
    learn_log_variance_limits: bool = True
    limit_margin: float = 1.0

    def __post_init__(self) -> None:
        within("limit_margin", self.limit_margin, 0)


class EnsembleState(NamedTuple):
    """``obs (B, O)`` and the ensemble ``member (B,)`` int64 that predicts the row's next step."""

    obs: Tensor
    member: Tensor


class Outputs(NamedTuple):
    """Raw network outputs in standardised units: ``mean`` and ``log_variance (..., D)``, ``logit (...,)`` or None."""

    mean: Tensor
    log_variance: Tensor
    logit: Tensor | None


class Batch(NamedTuple):
    """What members learn from: ``inputs (..., O + A)``, ``targets (..., D)`` standardised, ``terminated (...,)``."""

    inputs: Tensor
    targets: Tensor
    terminated: Tensor

    def take(self, index: Tensor) -> Batch:
        """Rows by index of any shape, e.g. ``(E, B)`` for one batch per member."""
        return Batch(self.inputs[index], self.targets[index], self.terminated[index])


@register_model("ensemble")
class EnsembleDynamics(nn.Module):
    r"""A probabilistic ensemble of Gaussian networks (PETS, Chua et al. 2018, section 4; MBPO, Janner et al. 2019).

    Member :math:`e` predicts the standardised change of the observation and, unless a function is given, the reward,

    .. math:: s' = s + \mu_\Delta + \sigma_\Delta\,(m_e(s, a) + \sqrt{v_e(s, a)}\,\epsilon),
              \quad \epsilon \sim \mathcal{N}(0, I),

    with input and target statistics taken from the training rows. The learned reward is the mean (a draw would only add
    noise to the targets of a critic), a learned termination is a classifier with a threshold calibrated on the holdout.

    Rows are routed through one elite each: ``propagation`` is ``"ts1"`` (a new elite in each step), ``"tsinf"``
    (one elite for the whole trajectory) or ``"mean"`` (the mixture mean over elites, no noise).

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

    elites: Tensor
    termination_threshold: Tensor

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
        super().__init__()
        at_least("num_members", num_members)
        at_least("num_elites", num_elites)
        if num_elites > num_members:
            raise ValueError(f"Need num_elites <= num_members, got {num_elites} and {num_members}.")
        if not hidden or min(hidden) < 1:
            raise ValueError(f"hidden needs at least one layer of positive width, got {tuple(hidden)}.")
        if propagation not in get_args(Propagation):
            raise ValueError(f"propagation must be one of {get_args(Propagation)}, got {propagation!r}.")
        self.observation_space = check_observation_space(observation_space)
        self.codec = ActionCodec(action_space)
        self.action_space: AnySpace = action_space
        self.num_members, self.num_elites, self.hidden = num_members, num_elites, tuple(hidden)
        self.propagation: Propagation = propagation
        self.reward_fn, self.termination_fn = reward_fn, termination_fn
        self.options = options or EnsembleOptions()
        self._build(seed)
        self.to(resolve_device(device))

    def _build(self, seed: int) -> None:
        obs_size = self.observation_space.shape[0]
        self._obs_size = obs_size
        self.target_size = obs_size + (self.reward_fn is None)
        outputs = 2 * self.target_size + (self.termination_fn is None)
        inputs = obs_size + self.codec.size
        generator = torch_generator(seed)
        self.net = EnsembleMLP(self.num_members, inputs, self.hidden, outputs, generator=generator)
        self.log_variance = BoundedLogVariance(
            self.target_size,
            self.options.log_variance_low,
            self.options.log_variance_high,
            learn=self.options.learn_log_variance_limits,
        )
        self.obs_normalizer = Normalizer(obs_size)
        self.target_normalizer = Normalizer(self.target_size)
        self.register_buffer("elites", th.arange(self.num_elites))
        self.register_buffer("termination_threshold", th.zeros(()))  # on the logit; 0 is a probability of one half
        for name, limit in Limits.none(obs_size)._asdict().items():
            self.register_buffer(f"limit_{name}", limit)

    @property
    def device(self) -> th.device:
        """Where the weights live."""
        return self.elites.device

    @property
    def limits(self) -> Limits:
        """The range of the training data with its margin; any finite number before the first fit."""
        return Limits(*(getattr(self, f"limit_{name}") for name in Limits._fields))

    # --- predicting -------------------------------------------------------------------------------------------------

    def reset(self, obs: Tensor, *, generator: Generator) -> EnsembleState:
        """Start one trajectory per row of ``obs (B, O)`` and draw its elite."""
        return EnsembleState(obs, self._draw_members(len(obs), generator))

    def step(self, state: EnsembleState, action: Tensor, *, generator: Generator) -> tuple[EnsembleState, Prediction]:
        """Advance every row with model actions ``(B, A)``; differentiable in state and action."""
        if len(action) <= STEP_ROWS or th.is_grad_enabled():
            return self._step(state, action, generator)
        count = -(-len(action) // STEP_ROWS)
        chunks = zip(*(tensor.tensor_split(count) for tensor in (*state, action)), strict=True)
        steps = [self._step(EnsembleState(obs, member), rows, generator) for obs, member, rows in chunks]
        states, predictions = zip(*steps, strict=True)
        return (
            EnsembleState(*(th.cat(column) for column in zip(*states, strict=True))),
            Prediction(*(th.cat(column) for column in zip(*predictions, strict=True))),
        )

    def _step(self, state: EnsembleState, action: Tensor, generator: Generator) -> tuple[EnsembleState, Prediction]:
        obs = state.obs
        member = self._draw_members(len(obs), generator) if self.propagation == "ts1" else state.member
        inputs = self.inputs(obs, action)
        if self.propagation == "mean":
            target, logit = self._mixture_mean(inputs)
        else:
            outputs = self._split(self.net.route(inputs, member))
            target, logit = self._sample(outputs, generator), outputs.logit
        change = self.target_normalizer.denormalize(target)
        next_obs = obs + change[:, : self._obs_size]
        env_action = None if self.reward_fn is None and self.termination_fn is None else self.codec.decode(action)
        if self.reward_fn is None:
            reward = change[:, self._obs_size]
        else:
            assert env_action is not None
            reward = self.reward_fn(obs, env_action, next_obs)
        if self.termination_fn is None:
            assert logit is not None
            terminated = logit > self.termination_threshold
        else:
            assert env_action is not None
            terminated = self.termination_fn(obs, env_action, next_obs)
        return EnsembleState(next_obs, member), Prediction(next_obs, reward, terminated)

    def _draw_members(self, count: int, generator: Generator) -> Tensor:
        return self.elites[th.randint(self.num_elites, (count,), generator=generator, device=self.device)]

    def _sample(self, outputs: Outputs, generator: Generator) -> Tensor:
        noise = th.randn(
            (len(outputs.mean), self._obs_size), generator=generator, device=self.device, dtype=outputs.mean.dtype
        )
        std = th.exp(0.5 * outputs.log_variance[:, : self._obs_size])
        drawn = outputs.mean[:, : self._obs_size] + std * noise
        return drawn if self.reward_fn is not None else th.cat([drawn, outputs.mean[:, self._obs_size :]], 1)

    def _mixture_mean(self, inputs: Tensor) -> tuple[Tensor, Tensor | None]:
        """The mean over elites in standardised units, and the mean logit."""
        outputs = self.elite_outputs(inputs)
        return outputs.mean.mean(0), None if outputs.logit is None else outputs.logit.mean(0)

    def elite_outputs(self, inputs: Tensor) -> Outputs:
        """Every elite on every row of ``inputs (B, O + A)``: outputs ``(num_elites, B, ...)``."""
        count = len(inputs)
        member = self.elites.repeat_interleave(count)
        raw = self.net.route(inputs.repeat(self.num_elites, 1), member)
        return self._split(raw.view(self.num_elites, count, -1))

    def inputs(self, obs: Tensor, action: Tensor) -> Tensor:
        """Network inputs ``(B, O + A)``: standardised observation, model action as it is (already in [-1, 1])."""
        return th.cat([self.obs_normalizer.normalize(obs), action], 1)

    def _split(self, raw: Tensor) -> Outputs:
        size = self.target_size
        log_variance = self.log_variance(raw[..., size : 2 * size])
        return Outputs(raw[..., :size], log_variance, raw[..., 2 * size] if self.termination_fn is None else None)

    # --- learning: called by the Trainer ----------------------------------------------------------------------------

    def set_statistics(self, rows: Transitions) -> None:
        """Take normaliser statistics and limits from the training rows, and from them only."""
        self.obs_normalizer.set_statistics(rows.obs)
        self.target_normalizer.set_statistics(self._raw_targets(rows))
        limits = Limits.of(th.cat([rows.obs, rows.next_obs]), rows.reward, self.options.limit_margin)
        for name, value in limits._asdict().items():
            getattr(self, f"limit_{name}").copy_(value)

    def batch(self, rows: Transitions) -> Batch:
        """Standardised inputs and targets of ``rows``."""
        targets = self.target_normalizer.normalize(self._raw_targets(rows))
        return Batch(self.inputs(rows.obs, rows.action), targets, rows.terminated.float())

    def _raw_targets(self, rows: Transitions) -> Tensor:
        delta = rows.next_obs - rows.obs
        return delta if self.reward_fn is not None else th.cat([delta, rows.reward[:, None]], 1)

    def outputs(self, inputs: Tensor) -> Outputs:
        """All members on their own inputs, ``(E, B, O + A)`` to outputs ``(E, B, ...)``."""
        return self._split(self.net(inputs))

    def loss(self, batch: Batch, *, beta: float = 0.0, log_variance_penalty: float = 0.01) -> Tensor:
        r"""The training loss of all members, ``()``.

        .. math:: \sum_e \frac{1}{B D}\sum_{b, d} \Big[\frac{(y - m_e)^2}{v_e} + \ln v_e\Big]
                  + \sum_e \mathrm{BCE}_e + c\,(\ell_{max} - \ell_{min})

        Args:
            batch: one batch per member, leading shape ``(E, B)``.
            beta: weights each term by :math:`v_e^\beta`, see :func:`~mbrl_wrappers.nets.gaussian_nll`.
            log_variance_penalty: ``c`` (PETS uses 0.01).
        """
        outputs = self.outputs(batch.inputs)
        loss = gaussian_nll(outputs.mean, outputs.log_variance, batch.targets, beta).mean((1, 2)).sum()
        if outputs.logit is not None:
            loss = loss + binary_cross_entropy_with_logits(outputs.logit, batch.terminated) * self.num_members
        return loss + log_variance_penalty * self.log_variance.penalty()

    @th.no_grad()
    def errors(self, batch: Batch) -> Tensor:
        r"""The selection score of each member on common rows ``(B, ...)``, shape ``(E,)``; lower is better.

        With :math:`e_d` the mean squared error of dimension :math:`d` in standardised units it is the mean over
        dimensions of :math:`e_d / (1 + e_d)`: close to :math:`e_d` where a dimension is predicted well, and bounded
        where it cannot be predicted (rare contact forces), so that no such dimension outvotes the others. A learned
        termination adds its cross-entropy.
        """
        outputs = self.outputs(batch.inputs.expand(self.num_members, *batch.inputs.shape))
        error = (outputs.mean - batch.targets).square().mean(1)
        score = (error / (1 + error)).mean(1)
        if outputs.logit is not None:
            truth = batch.terminated.expand_as(outputs.logit)
            score = score + binary_cross_entropy_with_logits(outputs.logit, truth, reduction="none").mean(1)
        return score

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
            reward_fn=_restored("reward_fn", config["reward"], reward_fn),
            termination_fn=_restored("termination_fn", config["termination"], termination_fn),
            device=device,
        )
        model.load_state_dict(tensors)
        if not ((model.elites >= 0) & (model.elites < model.num_members)).all():
            raise ValueError(f"The file names members {model.elites.tolist()} of {model.num_members}: it is damaged.")
        return model


def _restored(argument: str, described: Any, given: Any) -> Any:
    """The function to use: learned heads stay learned, one passed by the caller wins over the stored one."""
    if described is None:
        if given is not None:
            raise ValueError(
                f"This model was saved with a learned head in place of {argument}; it cannot take one now."
            )
        return None
    return given if given is not None else restore_function(described)
