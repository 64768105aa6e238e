"""Small runs in imagination, and what watches them."""

from __future__ import annotations

from gymnasium.wrappers import TimeLimit
from stable_baselines3 import PPO
from stable_baselines3.common.logger import KVWriter
from torch import Tensor

from mbrl_wrappers.fitting import FitReport
from mbrl_wrappers.models.ensemble import EnsembleDynamics
from mbrl_wrappers.types import Transitions
from sb3_ext.imagination import ImaginationConfig
from tests.oracle import OracleEnv

SMALL = ImaginationConfig(
    initial_steps=40, cycle_steps=30, imagined_steps=64, num_envs=8, horizon=4, eval_freq=50, eval_episodes=2
)
NET = {"net_arch": [8]}


def real_env(make=OracleEnv) -> TimeLimit:
    return TimeLimit(make(), 15)


def small_ppo(env) -> PPO:
    return PPO("MlpPolicy", env, n_steps=4, batch_size=8, n_epochs=1, policy_kwargs=NET, seed=0)


class Rows(KVWriter):
    """Keeps what was logged, row by row."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, dict]] = []

    def write(self, key_values, key_excluded, step=0) -> None:
        self.rows.append((step, dict(key_values)))

    def close(self) -> None:
        pass


REPORT = FitReport(
    epochs=2,
    gradient_steps=10,
    rows_seen=0,
    train_rows=0,
    holdout_rows=0,
    holdout_error=(0.1, 0.3),
    initial_error=(1.0, 1.0),
    dimensions=("obs0", "reward"),
    holdout_r2=(0.5, 0.7),
    coverage_50=(0.5, 0.5),
    coverage_90=(0.9, 0.9),
    log_variance_spread=(1.0, 1.0),
    log_variance_low=(-10.0, -10.0),
    log_variance_high=(0.5, 0.5),
    elites=(0,),
    diverged_members=(),
    termination_threshold=None,
    termination_precision=None,
    termination_recall=None,
    termination_base_rate=None,
    termination_events=None,
    seconds=0.0,
)


class CountingTrainer:
    """Learns nothing and remembers what it was given."""

    def __init__(self, model=None) -> None:
        self.model = model
        self.fits: list[Transitions] = []
        self.row_ids: list[Tensor | None] = []

    def fit(self, transitions: Transitions, *, max_gradient_steps=None, row_ids=None) -> FitReport:
        self.fits.append(transitions)
        self.row_ids.append(row_ids)
        return REPORT


def small_ensemble(env) -> EnsembleDynamics:
    return EnsembleDynamics(
        env.observation_space, env.action_space, num_members=2, num_elites=1, hidden=(4,), device="cpu"
    )
