"""Dyna-Q and Dyna-Q+: Q-learning with planning updates in between, as Stable-Baselines3 agents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stable_baselines3.common.type_aliases import GymEnv, Schedule

from mbrl_wrappers.checks import within
from mbrl_wrappers.states import StateDict, require_keys
from sb3_ext.agents.planning_memory import Tables
from sb3_ext.agents.tabular_agent import TabularAgent
from sb3_ext.agents.tabular_policy import TabularPolicy
from sb3_ext.agents.uniform_planning import PLAIN, compiled_plan, numba_is_installed, plan


class DynaQ(TabularAgent):
    r"""Tabular Dyna-Q (Sutton and Barto 2018, section 8.2).

    Each real step updates

    .. math:: Q(s, a) \leftarrow Q(s, a) + \alpha\,[r + \gamma \max_{a'} Q(s', a') - Q(s, a)],

    where the value of :math:`s'` is 0 if the episode terminated and is kept if it was truncated; then the
    transition is stored, and ``planning_steps`` such updates follow on stored ones. Their pairs are drawn
    *uniformly over the states in which an action was ever taken, then uniformly over the actions ever taken there*, as
    in the book; so a pair in a state with few known actions is drawn more often than uniformly over pairs. With
    ``planning_steps=0`` this is Q-learning.

    Defaults are those of figure 8.2 with 50 planning steps: alpha 0.1, gamma 0.95, a constant epsilon of 0.1.

    Args:
        policy: ``"TabularPolicy"``.
        env: Discrete observations and actions; one or several.
        learning_rate: alpha, or a schedule.
        gamma: discount.
        planning_steps: ``n``, planning updates per real transition.
        exploration_fraction: share of the steps over which epsilon falls, as in DQN.
        exploration_initial_eps: epsilon at the beginning.
        exploration_final_eps: epsilon at the end; equal to the initial one it is constant.
        outcomes_kept: of each pair, ``K``. 1 is the book's model of a deterministic world; a stochastic one needs some
            tens, of which each planning update draws one.
        compiled: plan by numba (extra ``numba``); by default where it is installed. Results are the same to the bit.
        **arguments: all others by name. Those of any SB3 agent are ``stats_window_size``, ``tensorboard_log``,
            ``policy_kwargs`` (such as ``{"initial_value": 1.0}``), ``verbose`` and ``seed``.

    Raises:
        TypeError: for spaces that are not Discrete, naming what to do instead, and for VecNormalize.
        ValueError: for impossible numbers; in ``learn`` for a reward that is not finite or a state outside of the
            space, naming the environment and the step, before anything of that step is learned.
        ImportError: if ``compiled=True`` and numba is missing.
    """

    def __init__(
        self,
        policy: str | type[TabularPolicy] = "TabularPolicy",
        env: GymEnv | str | None = None,
        learning_rate: float | Schedule = 0.1,
        gamma: float = 0.95,
        planning_steps: int = 50,
        *,
        compiled: bool | None = None,
        **arguments: Any,
    ) -> None:
        self.compiled = compiled
        super().__init__(policy, env, learning_rate, gamma, planning_steps, **arguments)

    def _setup_model(self) -> None:
        super()._setup_model()
        fast = numba_is_installed() if self.compiled is None else self.compiled
        self._plan_updates = compiled_plan() if fast else plan
        self._plan_tables: Tables = self._arrays if fast else self._tables

    @property
    def _kappa(self) -> float:
        return PLAIN

    def _plan(self, state: int, pair: int) -> tuple[float, int]:
        if self.planning_steps == 0:
            return 0.0, 0
        assert self._rng is not None
        draws: Any = self._rng.random(3 * self.planning_steps)
        errors = self._plan_updates(
            self._plan_tables,
            draws.tolist() if self._plan_updates is plan else draws,
            self._num_actions,
            self.outcomes_kept,
            self._step_size,
            self.gamma,
            self._kappa,
        )
        return errors, self.planning_steps

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_plan_updates", "_plan_tables"]


class DynaQPlus(DynaQ):
    r"""Dyna-Q+ (Sutton and Barto 2018, section 8.3): Dyna-Q with a bonus for pairs not tried recently.

    In planning the reward is :math:`r + \kappa \sqrt{\tau}`, with :math:`\tau` the number of real steps since the pair
    was last tried (since the beginning, if never). Planning draws *any* action of a visited state: one never tried
    leads back to its state with reward 0, until it is tried. Real steps are learned from without the bonus.

    Args:
        exploration_bonus: kappa.
        **arguments: as in :class:`DynaQ`.
    """

    def __init__(
        self,
        policy: str | type[TabularPolicy] = "TabularPolicy",
        env: GymEnv | str | None = None,
        *,
        exploration_bonus: float = 1e-3,
        **arguments: Any,
    ) -> None:
        self.exploration_bonus = within("exploration_bonus", exploration_bonus, 0.0)
        super().__init__(policy, env, **arguments)

    @property
    def _kappa(self) -> float:
        return self.exploration_bonus

    def own_state(self) -> StateDict:
        """As the base class's, and the bonus."""
        return {"tabular": super().own_state(), "exploration_bonus": self.exploration_bonus}

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        """As the base class's."""
        require_keys(state, ("tabular", "exploration_bonus"), "DynaQPlus")
        if state["exploration_bonus"] != self.exploration_bonus:
            raise ValueError(
                f"The state is of an agent with exploration_bonus={state['exploration_bonus']}, not "
                f"{self.exploration_bonus}."
            )
        super().load_own_state(state["tabular"])
