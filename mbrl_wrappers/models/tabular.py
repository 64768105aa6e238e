"""A model of numbered states and actions that counts what it sees."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Literal, NamedTuple, get_args

import gymnasium
import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Generator, Tensor

from mbrl_wrappers.checks import within
from mbrl_wrappers.models.outcome_counts import DrawTables, OutcomeCounts, OutcomeTable
from mbrl_wrappers.models.value_iteration import TabularMDP, TabularSolution, value_iteration
from mbrl_wrappers.spaces import ActionCodec, AnySpace
from mbrl_wrappers.storage.checkpoint import register_model, resolve_device
from mbrl_wrappers.storage.space_json import space_from_json, space_to_json
from mbrl_wrappers.tabular_data import TabularTransitions, check_tabular_spaces, table_of_transitions, table_rows
from mbrl_wrappers.types import Prediction, Transitions

Form = Literal["sampled", "expected"]

GONE = 1e-12
"""A row of the expected form is terminated once its episode goes on with at most this probability."""


class TabularState(NamedTuple):
    """The probability ``(B, S)`` of being in each state and not yet done; one-hot rows in the sampled form."""

    belief: Tensor


@register_model("tabular")
class TabularModel:
    r"""Transition probabilities and rewards by counting (Sutton and Barto 2018, sections 8.1 to 8.5).

    With :math:`N` the number of times seen,

    .. math:: \hat p(s', d \mid s, a) = \frac{N(s, a, s', d)}{N(s, a)}, \qquad
              \hat r(s, a, s', d) = \text{mean of the rewards seen},

    where :math:`d` says whether the step terminated. In a deterministic environment every probability is 0 or 1.

    As a ``DynamicsModel`` an observation is a float32 row with one entry per state, one-hot (a real environment shows
    the same behind ``DtypeObservation(FlattenObservation(env), np.float32)``). ``form`` says what a step does:

    * ``"sampled"`` draws one outcome per row by its probability; the row stays one-hot.
    * ``"expected"`` carries the whole distribution on: ``next_obs`` holds the probability of each successor, the reward
      is the expected one, weighted by the probability that the episode still goes on, and ``terminated`` is true once
      that has run out. Sums of rewards are then exact expected returns of an action sequence, without noise.

    A pair that was never tried stays where it is and pays ``unseen_reward``.

    Args:
        observation_space: the environment's, Discrete.
        action_space: the environment's, Discrete.
        form: what a step does.
        unseen_reward: reward of pairs never tried; low keeps planners to tried pairs, high makes them explore.
        device: where steps are computed.

    Attributes:
        observation_space: the Box of one-hot rows.
        state_space: the environment's observation space.

    Raises:
        TypeError: for other spaces; the message names the wrapper for a Box.
        ValueError: for an unknown form or impossible numbers.
    """

    def __init__(
        self,
        observation_space: AnySpace,
        action_space: AnySpace,
        *,
        form: Form = "sampled",
        unseen_reward: float = 0.0,
        device: str | th.device = "cpu",
    ) -> None:
        self.state_space, self.action_space = check_tabular_spaces(observation_space, action_space, "TabularModel")
        if form not in get_args(Form):
            raise ValueError(f"form must be one of {get_args(Form)}, got {form!r}.")
        self.num_states, self.num_actions = int(self.state_space.n), int(self.action_space.n)
        self.codec = ActionCodec(self.action_space)
        self.observation_space = spaces.Box(0.0, 1.0, (self.num_states,), np.float32)
        self.form: Form = form
        self.unseen_reward = within("unseen_reward", unseen_reward, -np.inf)
        self.device = resolve_device(device)
        self._counts = OutcomeCounts.empty()

    @classmethod
    def from_env(cls, env: gymnasium.Env[Any, Any], **arguments: Any) -> TabularModel:
        """The true model of an environment that shows its table ``P`` as Gymnasium's toy text does.

        Args:
            env: wrapped or not; ``env.unwrapped.P[s][a]`` lists ``(probability, next_state, reward, terminated)``.
            **arguments: as in the constructor.

        Raises:
            TypeError: if the environment has no such table.
            ValueError: if the table does not fit the spaces, or its probabilities do not sum to 1.
        """
        table = getattr(env.unwrapped, "P", None)
        if table is None:
            raise TypeError(f"{env.unwrapped} has no table P of its transitions: count them with TabularModel.fit().")
        model = cls(env.observation_space, env.action_space, **arguments)
        rows, weight = table_of_transitions(table, model.state_space, model.action_space)
        model._add(rows, weight)
        return model

    # --- counting ---------------------------------------------------------------------------------------------------

    @property
    def num_transitions(self) -> float:
        """How many transitions were counted."""
        return float(self._counts.weight.sum())

    def add(self, state: Any, action: Any, reward: Any, next_state: Any, terminated: Any) -> None:
        """Count one transition, or many at once in arrays of one length; numbers as in the environment.

        Raises:
            ValueError: for numbers outside of the spaces, different lengths, or rewards that are not finite.
        """
        rows = TabularTransitions.of(state, action, reward, next_state, terminated)
        self._add(rows, np.ones(len(rows.state)))

    def fit(self, data: Transitions | TabularTransitions) -> TabularModel:
        """Forget what was counted and count ``data``: numbered rows, or one-hot ones as other models take them.

        Returns:
            This model.
        """
        rows = self._numbered(data) if isinstance(data, Transitions) else TabularTransitions.of(*data)
        self._add(rows, np.ones(len(rows.state)), OutcomeCounts.empty())
        return self

    def _numbered(self, data: Transitions) -> TabularTransitions:
        """One-hot rows as numbered ones."""
        for name, column, size in (
            ("obs", data.obs, self.num_states),
            ("next_obs", data.next_obs, self.num_states),
            ("action", data.action, self.num_actions),
        ):
            one_hot = column.ndim == 2 and column.shape[1] == size
            if not one_hot or not bool((((column == 0) | (column == 1)).all(1) & (column.sum(1) == 1)).all()):
                raise ValueError(f"{name} must hold one-hot rows (B, {size}), got rows of shape {tuple(column.shape)}.")
        state, following = (self.decode(obs).cpu().numpy() for obs in (data.obs, data.next_obs))
        action, reward, terminated = self.codec.decode(data.action), data.reward, data.terminated
        return TabularTransitions.of(
            state, action.cpu().numpy(), reward.cpu().numpy(), following, terminated.cpu().numpy()
        )

    def _add(self, rows: TabularTransitions, weight: NDArray[np.float64], known: OutcomeCounts | None = None) -> None:
        """Count ``rows`` on top of ``known``, which is what was counted so far unless it is given."""
        state = table_rows(rows.state, self.state_space, "state")
        following = table_rows(rows.next_state, self.state_space, "next_state")
        action = table_rows(rows.action, self.action_space, "action")
        key = ((state * self.num_actions + action) * self.num_states + following) * 2 + rows.terminated
        counted = self._counts if known is None else known
        self._use(counted.merged(OutcomeCounts.of(key, weight, weight * rows.reward)))

    def _use(self, counts: OutcomeCounts) -> None:
        self._counts = counts
        for name in ("outcomes", "_tables", "_expected"):
            self.__dict__.pop(name, None)

    # --- what it knows ----------------------------------------------------------------------------------------------

    @cached_property
    def outcomes(self) -> OutcomeTable:
        """Every outcome with its probability and mean reward."""
        return OutcomeTable.of(self._counts, self.num_states, self.num_actions, self.unseen_reward)

    def mdp(self, *, tried_only: bool = True) -> TabularMDP:
        """The decision process that the counts describe.

        Args:
            tried_only: allow only pairs that were tried, since the model merely assumes that others stay where they
                are; a state where nothing was tried has the value 0.
        """
        known, shape = self.outcomes, (self.num_states * self.num_actions, self.num_states)
        on = ~known.terminated
        transition = csr_array((known.probability[on], (known.pair[on], known.next_state[on])), shape=shape)
        paid = np.bincount(known.pair, known.probability * known.reward, shape[0]).astype(np.float64)
        reward = paid.reshape(-1, self.num_actions)
        allowed = known.tried.reshape(reward.shape) | (not tried_only)
        return TabularMDP(transition, reward, allowed, int(self.state_space.start), int(self.action_space.start))

    def value_iteration(
        self, gamma: float = 0.99, *, tolerance: float = 1e-10, max_iterations: int = 100_000, tried_only: bool = True
    ) -> TabularSolution:
        """Optimal values of this model; see :func:`~mbrl_wrappers.models.value_iteration.value_iteration`."""
        mdp = self.mdp(tried_only=tried_only)
        return value_iteration(mdp, gamma, tolerance=tolerance, max_iterations=max_iterations)

    # --- predicting -------------------------------------------------------------------------------------------------

    def encode(self, state: Any) -> Tensor:
        """One-hot observations ``(B, S)`` of numbered states ``(B,)``.

        Raises:
            ValueError: for a number that is no state's, or an array of another shape.
        """
        index = np.atleast_1d(table_rows(state, self.state_space, "state"))
        if index.ndim > 1:
            raise ValueError(f"Give one state or a row of them (B,), got an array of shape {index.shape}.")
        return self._one_hot(th.as_tensor(index, device=self.device))

    def decode(self, obs: Tensor) -> Tensor:
        """The numbers ``(B,)`` int64 of one-hot observations ``(B, S)``, or of the most probable states."""
        return obs.argmax(-1) + int(self.state_space.start)

    def reset(self, obs: Tensor, *, generator: Generator) -> TabularState:
        """Start one trajectory per row of ``obs (B, S)``; the sampled form starts at its most probable state.

        Raises:
            ValueError: for rows of another width.
        """
        if obs.ndim != 2 or obs.shape[1] != self.num_states:
            raise ValueError(
                f"TabularModel starts from one-hot rows (B, {self.num_states}), got shape {tuple(obs.shape)}: "
                "make them of the states' numbers with encode()."
            )
        obs = obs.to(self.device)
        return TabularState(obs.float() if self.form == "expected" else self._one_hot(obs.argmax(-1)))

    def step(self, state: TabularState, action: Tensor, *, generator: Generator) -> tuple[TabularState, Prediction]:
        """Advance every row with one-hot actions ``(B, A)``."""
        return self.step_shared(state, action, generator=generator, groups=1)

    def step_shared(
        self, state: TabularState, action: Tensor, *, generator: Generator, groups: int
    ) -> tuple[TabularState, Prediction]:
        """Like ``step``, with rows as ``groups`` equal blocks: row ``i`` of every block sees the same draw."""
        if groups < 1 or len(action) % groups:
            raise ValueError(f"{len(action)} rows cannot be {groups} equal blocks.")
        index = action.argmax(-1)
        if self.form == "expected":
            return self._expected_step(state.belief, index)
        tables = self._tables
        row = tables.draw(state.belief.argmax(-1) * self.num_actions + index, groups, generator)
        obs = self._one_hot(tables.next_state[row])
        return TabularState(obs), Prediction(obs, tables.reward[row], tables.terminated[row])

    def _expected_step(self, belief: Tensor, action: Tensor) -> tuple[TabularState, Prediction]:
        reward = th.zeros(len(belief), device=self.device)
        going_on, ending = th.zeros_like(belief), th.zeros_like(belief)
        for chosen in action.unique().tolist():
            rows = (action == chosen).nonzero().squeeze(1)
            known = self._expected[chosen]
            share = belief[rows].t()  # (S, B)
            going_on[rows], ending[rows] = th.sparse.mm(known.on, share).t(), th.sparse.mm(known.end, share).t()
            reward[rows] = known.reward @ share
        prediction = Prediction(going_on + ending, reward, going_on.sum(1) <= GONE)
        return TabularState(going_on), prediction

    def _one_hot(self, index: Tensor) -> Tensor:
        return th.nn.functional.one_hot(index, self.num_states).float()

    @cached_property
    def _tables(self) -> DrawTables:
        return DrawTables.of(self.outcomes, self.device)

    @cached_property
    def _expected(self) -> list[_ExpectedAction]:
        known, size = self.outcomes, (self.num_states, self.num_states)
        state, action = np.divmod(known.pair, self.num_actions)

        def matrix(rows: NDArray[np.bool_]) -> Tensor:
            index = th.as_tensor(np.stack([known.next_state[rows], state[rows]]))
            values = th.as_tensor(known.probability[rows]).float()
            return th.sparse_coo_tensor(index, values, size, check_invariants=True).to(self.device)

        reward = th.as_tensor(self.mdp().reward, device=self.device).float()
        return [
            _ExpectedAction(
                matrix((action == chosen) & ~known.terminated),
                matrix((action == chosen) & known.terminated),
                reward[:, chosen],
            )
            for chosen in range(self.num_actions)
        ]

    # --- saving -----------------------------------------------------------------------------------------------------

    def to_checkpoint(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Spaces and settings, and the counts."""
        config = {
            "state_space": space_to_json(self.state_space),
            "action_space": space_to_json(self.action_space),
            "form": self.form,
            "unseen_reward": self.unseen_reward,
        }
        return config, {name: th.as_tensor(column) for name, column in self._counts._asdict().items()}

    @classmethod
    def from_checkpoint(
        cls, config: dict[str, Any], tensors: dict[str, Tensor], *, device: str | th.device = "cpu"
    ) -> TabularModel:
        """Rebuild a saved model.

        Raises:
            ValueError: if the counts are not those of the spaces.
        """
        model = cls(
            space_from_json(config["state_space"]),
            space_from_json(config["action_space"]),
            form=config["form"],
            unseen_reward=config["unseen_reward"],
            device=device,
        )
        counts = OutcomeCounts(*(tensors[name].numpy().copy() for name in OutcomeCounts._fields))
        last = model.num_states * model.num_actions * model.num_states * 2
        if not (
            counts.key.dtype == np.int64
            and counts.key.shape == counts.weight.shape == counts.reward_sum.shape == (len(counts.key),)
            and (np.diff(counts.key) > 0).all()
            and ((counts.key >= 0) & (counts.key < last)).all()
            and (np.isfinite(counts.reward_sum) & np.isfinite(counts.weight) & (counts.weight > 0)).all()
        ):
            raise ValueError("The counts in the file are not those of its spaces: it is damaged.")
        model._use(counts)
        return model


class _ExpectedAction(NamedTuple):
    """One action's ``(S', S)`` probabilities to arrive and go on, and to arrive and be done; rewards ``(S,)``."""

    on: Tensor
    end: Tensor
    reward: Tensor
