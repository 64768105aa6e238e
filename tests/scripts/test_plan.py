"""Model predictive control from the command line, tiny but whole."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch as th
import yaml

import mbrl_wrappers
from controllers import CEM, MPCPolicy
from mbrl_wrappers import EnsembleDynamics
from scripts import train, train_planner
from scripts.pictures.video import check_rendering
from scripts.plan import main
from scripts.planning import session
from scripts.planning.arguments import LEARNING_PLANNERS, PLANNERS, PlanArguments, parse_plan_arguments
from scripts.planning.episodes import PlannedEpisode, milliseconds, play_planned
from scripts.planning.pictures import MAX_CANDIDATES, drawn_ranks, plot_candidates, predicted_observations
from scripts.planning.settings import read_settings
from scripts.runs.reading import find_runs
from scripts.table import results_table
from scripts.training.configuration import HYPERPARAMS_FOLDER, parse_yaml
from scripts.training.learned_model import check_model_block
from tests.oracle import OracleEnv, oracle_model

POLE = ["--env", "mbrl_wrappers/ContinuousCartPole-v0", "--no-progress"]
FEW = ["--horizon", "4", "--population", "6", "--hyperparams", "iterations:2"]


class DrawnOracle(OracleEnv):
    """An environment that can be filmed without a graphics driver."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__()
        self.render_mode = render_mode

    def render(self) -> Any:
        return np.zeros((16, 16, 3), np.uint8)


def summary_in(log_folder: Path, name: str) -> dict[str, Any]:
    return json.loads((log_folder / "plan" / name / "summary.json").read_text())


@pytest.fixture(scope="module")
def agents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folders of a small agent and of a model, both of Pendulum."""
    folder = tmp_path_factory.mktemp("agents")
    words = "--algo sac --env Pendulum-v1 -n 30 --no-model --eval-episodes 1 --eval-freq 100 --num-threads 1"
    small = ["--hyperparams", "learning_starts:20", "policy_kwargs.net_arch:[8]", "batch_size:8", "gamma:0.9"]
    assert train.main([*words.split(), "-f", str(folder), *small]) == 0
    env = gymnasium.make("Pendulum-v1")
    model = EnsembleDynamics(env.observation_space, env.action_space, num_members=2, num_elites=2, hidden=(8,))
    mbrl_wrappers.save(model, folder / "model" / "dynamics.safetensors")
    return folder


def test_the_true_model_of_a_copyable_environment(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        *POLE,
        "--planner",
        "cem",
        "--seed",
        "3",
        "8",
        "--episodes",
        "2",
        "--steps",
        "5",
        "-f",
        str(tmp_path),
        *FEW,
    ]
    assert main(words) == 0
    summary = summary_in(tmp_path, "mbrl_wrappers-ContinuousCartPole-v0_cem_1")
    assert (summary["algorithm"], summary["arm"], summary["finished"]) == ("cem", "cem", True)
    planned = summary["planning"]
    assert planned["model"] == "true (ClonedEnvModel)"
    assert planned["exact_model"] is True
    assert planned["seeds"] == [3, 8]
    assert [(row["seed"], row["length"], row["total"]) for row in planned["episodes"]] == [
        (3, 5, 5.0), (3, 5, 5.0), (8, 5, 5.0), (8, 5, 5.0),
    ]  # fmt: skip
    assert {row["ended_by"] for row in planned["episodes"]} == {"--steps"}
    for row in planned["episodes"]:
        assert (row["plans"], row["model_calls"]) == (5, 5 * 2 * 6 * 4)
        assert row["plan_milliseconds"]["p95"] >= row["plan_milliseconds"]["median"] > 0
    assert planned["model_calls"] == 4 * 5 * 2 * 6 * 4
    assert summary["evaluations"][0]["returns"] == [5.0] * 4
    assert summary["phase_seconds"]["planning"] > 0
    assert summary["hyperparameters"]["cem"] == {"iterations": 2, "population": 6}
    assert (summary["hyperparameters"]["horizon"], summary["hyperparameters"]["steps"]) == (4, 5)
    out = capsys.readouterr().out
    row = out.strip().splitlines()[-1]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:6] == ["mbrl_wrappers/ContinuousCartPole-v0", "cem", "true (ClonedEnvModel)", "4", "1", "2 × 2"]
    assert (cells[7], cells[9]) == ("5.0 ± 0.0", "12")
    assert len(cells) == out.strip().splitlines()[-2].count("---")
    assert "ContinuousCartPole-v0 | cem | 1 |" in results_table(find_runs([tmp_path]), [])


def test_the_true_physics_chunks_and_a_picture(tmp_path: Path) -> None:
    words = ["--env", "Reacher-v5", "--steps", "6", "--execute", "3", "-f", str(tmp_path), "--tag", "chunks"]
    words += ["--picture", str(tmp_path / "new" / "plan.png"), "--picture-step", "3"]
    assert main([*words, "--planner", "icem", *FEW, "num_elites:2"]) == 0
    summary = summary_in(tmp_path, "Reacher-v5_chunks_1")
    assert summary["planning"]["model"] == "true (MujocoModel)"
    assert summary["planning"]["episodes"][0]["plans"] == 2
    assert (tmp_path / "new" / "plan.png").stat().st_size > 10_000


def test_the_seed_decides_everything(tmp_path: Path) -> None:
    for seed in ("1", "1", "2"):
        assert main(["--env", "Pendulum-v1", "--no-progress", "--planner", "mppi", "--steps", "8", "--seed", seed,
                     "-f", str(tmp_path), *FEW]) == 0  # fmt: skip
    totals = [summary_in(tmp_path, f"Pendulum-v1_mppi_{n}")["final_return"] for n in (1, 2, 3)]
    assert totals[0] == totals[1] != totals[2]


def test_numbers_of_states_and_discrete_actions(tmp_path: Path) -> None:
    words = ["--env", "FrozenLake-v1", "--env-kwargs", "is_slippery:false", "--planner", "cem", "--no-progress"]
    words += ["--picture", str(tmp_path / "plan.png")]
    assert main([*words, "-f", str(tmp_path), "--horizon", "8", "--population", "100"]) == 0
    assert (tmp_path / "plan.png").stat().st_size > 10_000
    assert summary_in(tmp_path, "FrozenLake-v1_cem_1")["final_return"] == 1.0


@pytest.mark.parametrize("where", ["model", "model/dynamics.safetensors", "model/dynamics"])
def test_a_saved_model(tmp_path: Path, agents: Path, where: str) -> None:
    words = [
        "--env",
        "Pendulum-v1",
        "--model",
        str(agents / where),
        "--steps",
        "2",
        "--particles",
        "2",
        "--no-progress",
    ]
    assert main([*words, "--planner", "gradient", *FEW, "-f", str(tmp_path)]) == 0
    planned = summary_in(tmp_path, "Pendulum-v1_gradient_1")["planning"]
    assert (planned["model"], planned["exact_model"]) == (str(agents / where), False)


def test_an_agent_ends_and_proposes_plans(tmp_path: Path, agents: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = str(agents / "sac" / "Pendulum-v1_1")
    seen: list[MPCPolicy[Any]] = []
    original = session.build_policy
    monkeypatch.setattr(session, "build_policy", lambda *args: seen.append(original(*args)) or seen[-1])
    words = ["--env", "Pendulum-v1", "--steps", "2", "--no-progress", "--planner", "cem", *FEW, "-f", str(tmp_path)]
    assert main([*words, "--terminal-value", agent]) == 0
    assert main([*words, "--proposals", f"{agent}/Pendulum-v1.zip", "--num-proposals", "3", "--discount", "0.5"]) == 0
    valued, proposed = seen
    value: Any = valued.objective["terminal_value"]
    assert valued.objective["discount"] == value.discount == 0.9  # from summary.json: the zip's settings are a pickle
    assert valued.proposals is None
    assert proposed.proposals is not None
    assert proposed.proposals.count == 3
    assert proposed.objective == {"discount": 0.5}
    asked = summary_in(tmp_path, "Pendulum-v1_cem_2")["hyperparameters"]
    assert (asked["proposals"], asked["num_proposals"]) == (f"{agent}/Pendulum-v1.zip", 3)


def test_a_model_is_planned_in_on_the_environment_it_was_learned_on(tmp_path: Path) -> None:
    words = ["--env", "HalfCheetah-v5", "--trials", "1", "--horizon", "2", "--particles", "2", "-f", str(tmp_path)]
    few = ["population:4", "iterations:1", "trial_steps:4", "initial_random_steps:12", "max_gradient_steps:2",
           "ensemble.hidden:[8]", "ensemble.num_members:2", "ensemble.num_elites:2"]  # fmt: skip
    assert train_planner.main([*words, "--env-kwargs", "ctrl_cost_weight:0.5", "--hyperparams", *few]) == 0
    folder = tmp_path / "pets" / "HalfCheetah-v5_1"
    assert (folder / "dynamics.safetensors").is_file()
    for model in (folder, folder / "dynamics.safetensors"):
        words = ["--env", "HalfCheetah-v5", "--model", str(model), "--planner", "cem", "--steps", "2"]
        assert main([*words, *FEW, "--no-progress", "-f", str(tmp_path)]) == 0  # else 17 observations and not 18
    assert summary_in(tmp_path, "HalfCheetah-v5_cem_2")["env_kwargs"] == {"ctrl_cost_weight": 0.5}


def test_episodes_are_filmed_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(gymnasium.registry, "Drawn-v0", gymnasium.envs.registration.EnvSpec("Drawn-v0", DrawnOracle))
    monkeypatch.setattr(session, "find_spec", lambda name: None)  # as without moviepy
    words = ["--env", "Drawn-v0", "--planner", "cem", "--steps", "3", "--episodes", "2", "--no-progress", *FEW]
    assert main([*words, "-f", str(tmp_path), "--video", str(tmp_path / "films")]) == 0
    films = sorted((tmp_path / "films").iterdir())
    assert [film.name for film in films] == ["plan-seed-0-episode-0.mp4", "plan-seed-0-episode-1.mp4"]
    assert all(film.stat().st_size > 500 for film in films)


def test_what_cannot_be_drawn_is_said_before_anything_is_planned() -> None:
    class Undrawn(DrawnOracle):
        def render(self) -> Any:
            raise gymnasium.error.DependencyNotInstalled("pygame is not installed")

    with pytest.raises(ValueError, match="--video: .* cannot be drawn here: pygame is not installed"):
        check_rendering(Undrawn())


def test_with_moviepy_gymnasium_films(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[Any, ...]] = []
    monkeypatch.setattr(session, "find_spec", lambda name: name == "moviepy")
    monkeypatch.setattr(session.gym.wrappers, "RecordVideo", lambda *args, **kwargs: made.append(args) or "filmed")
    assert session.filmed("env", "films") == "filmed"  # type: ignore[arg-type,comparison-overlap]
    assert made == [("env", "films")]
    assert session.filmed("env", "") == "env"  # type: ignore[arg-type,comparison-overlap]


def test_a_signal_ends_the_run_and_keeps_whole_episodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, steps = session.ProgressBar.step, []

    def step(self: Any, text: str) -> None:
        steps.append(text)
        if len(steps) == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        original(self, text)

    monkeypatch.setattr(session.ProgressBar, "step", step)
    words = [*POLE, "--planner", "cem", "--episodes", "3", "--steps", "3", "-f", str(tmp_path), *FEW]
    assert main(words) == 143
    summary = summary_in(tmp_path, "mbrl_wrappers-ContinuousCartPole-v0_cem_1")
    assert (summary["finished"], summary["stopped_by"]) == (False, "signal 15")
    assert [row["length"] for row in summary["planning"]["episodes"]] == [3]


def test_an_episode_is_played_as_the_policy_says() -> None:
    env = gymnasium.wrappers.TimeLimit(OracleEnv(), 4)
    policy = MPCPolicy(oracle_model(env), CEM(population=6, iterations=1), horizon=3, execute=2)
    episode = play_planned(env, policy, reset_seed=5, run_seed=9)
    obs, _ = env.reset(seed=5)
    state, total = None, 0.0
    for step in range(4):
        action, state = policy.predict(obs, state, np.array([step == 0]))
        obs, reward, *_ = env.step(action)
        total += float(reward)
    assert (episode.seed, episode.total, episode.length, episode.ended_by) == (9, total, 4, "time limit")
    assert (len(episode.plan_milliseconds), episode.model_calls) == (2, 2 * (6 + 1) * 3 - 6)


def test_percentiles_are_over_plans() -> None:
    one = PlannedEpisode(0, 0.0, 1, "", 0, (10.0, 20.0))
    two = PlannedEpisode(0, 0.0, 1, "", 0, (60.0,))
    assert milliseconds([one, two]) == {"median": 20.0, "p95": 56.0, "mean": 30.0}


def test_a_picture_shows_what_the_model_predicts(tmp_path: Path) -> None:
    env = OracleEnv()
    policy = MPCPolicy(oracle_model(env), CEM(population=12, iterations=2), horizon=5)
    obs, _ = env.reset(seed=0)
    policy.predict(obs)
    assert policy.last_plan is not None
    path = predicted_observations(policy, policy.last_plan.actions)
    np.testing.assert_allclose(path[0, 0], obs, atol=1e-6)
    for t, action in enumerate(policy.codec.to_env(policy.last_plan.actions[0])):
        shown, _, terminated, _, _ = env.step(action)
        np.testing.assert_allclose(path[0, t + 1], shown, atol=1e-5)
        assert not terminated
    far = th.full((1, 5, 2), 1.0)
    env.set_obs(np.array([0.9, 0.6, 0.0]))
    policy.predict(np.array([0.9, 0.6, 0.0], np.float32))
    path = predicted_observations(policy, far)
    assert path[0, 1, 0] > 1.0  # the step that fails is shown, and nothing after it
    assert np.isnan(path[0, 2:]).all()
    plot_candidates(policy, ["a", "b", "c"], tmp_path / "plan.png", "title")
    assert (tmp_path / "plan.png").stat().st_size > 10_000


def test_all_elites_and_a_sample_of_the_others_are_drawn() -> None:
    ranks = drawn_ranks(1000, 40)
    assert len(ranks) == len(set(ranks)) == MAX_CANDIDATES
    assert list(ranks[-40:]) == list(range(39, -1, -1))
    assert (ranks[0], ranks[-41]) == (999, 40)
    assert list(drawn_ranks(3, 1)) == [2, 1, 0]
    assert list(drawn_ranks(1, 1)) == [0]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--env", "Pendulun-v1"], "Did you mean 'Pendulum-v1'?"),
        (["--hyperparams", "populatio:4"], "Did you mean 'population'?"),
        (["--planner", "gradient"], "gradient"),  # no gradient flows through copies of an environment
        (["--model", "nowhere"], "There is no nowhere"),
        (["--terminal-value", "nowhere"], "There is no nowhere: name a run folder"),
        (["--horizon", "2", "--execute", "3"], "Cannot execute 3"),
        (["--discount", "1.5"], "discount must be"),
        (["--env", "CartPole-v1"], "ICEM plans continuous actions"),
    ],
)
def test_mistakes_leave_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--env", "Pendulum-v1", "--no-progress", *argv]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_picture_of_a_step_that_never_came_is_missed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "plan.png"
    words = [*POLE, "--planner", "cem", "--steps", "2", *FEW, "-f", str(tmp_path)]
    assert main([*words, "--picture", str(picture), "--picture-step", "2"]) == 0
    assert f"No {picture}: the first episode has no step 2." in capsys.readouterr().out


def test_a_model_or_an_agent_of_another_task_is_refused(agents: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = ["--env", "InvertedPendulum-v5", "--no-progress"]
    assert main([*other, "--model", str(agents / "model")]) == 2
    assert "it is of another task" in capsys.readouterr().err
    assert main([*other, "--terminal-value", str(agents / "sac" / "Pendulum-v1_1")]) == 2
    assert "is an agent of Pendulum-v1" in capsys.readouterr().err


def test_equal_spaces_do_not_make_two_tasks_one(
    agents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make = gymnasium.registry["Pendulum-v1"].entry_point
    monkeypatch.setitem(gymnasium.registry, "Twin-v0", gymnasium.envs.registration.EnvSpec("Twin-v0", make))
    run = agents / "sac" / "Pendulum-v1_1"
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copy(run / "summary.json", folder)
    shutil.copy(agents / "model" / "dynamics.safetensors", folder)
    other = ["--env", "Twin-v0", "--planner", "cem", "--steps", "1", "--no-progress", *FEW, "-f", str(tmp_path)]
    assert main([*other, "--model", str(folder)]) == 2
    assert "was made on Pendulum-v1, and --env is Twin-v0" in capsys.readouterr().err
    for flag in ("--terminal-value", "--proposals"):
        assert main([*other, flag, str(run)]) == 2
        assert "is an agent of Pendulum-v1, and --env is Twin-v0" in capsys.readouterr().err
    assert not (tmp_path / "plan").exists()
    assert main([*other, "--model", str(agents / "model")]) == 0  # of no known task: taken at its word


def test_arguments() -> None:
    assert parse_plan_arguments([]) == PlanArguments()
    words = "--env Ant-v5 --seed 1 2 --horizon 7 --execute 2 --population 9 --no-progress"
    args = parse_plan_arguments(words.split())
    assert (args.env, args.seed, args.horizon, args.execute, args.population) == ("Ant-v5", (1, 2), 7, 2, 9)
    for wrong in (
        ["--episodes", "0"],
        ["--steps", "0"],
        ["--picture-step", "-1"],
        ["--picture", "plan"],
        ["--tag", "a/b"],
        ["--planner", "x"],
    ):
        with pytest.raises(SystemExit):
            parse_plan_arguments(wrong)


@pytest.mark.parametrize("file", ["pets.yml", "plan.yml"])
def test_every_entry_can_be_used(file: str) -> None:
    document = parse_yaml((HYPERPARAMS_FOLDER / file).read_text())
    lines = (HYPERPARAMS_FOLDER / file).read_text().splitlines()
    assert [line.partition(":")[0] for line in lines if line[:1].strip(" #")] == list(document)  # no key twice
    assert yaml.safe_load((HYPERPARAMS_FOLDER / file).read_text()).keys() == document.keys()
    for env_id in document:
        for name in LEARNING_PLANNERS if file == "pets.yml" else PLANNERS:
            settings = read_settings(name, env_id, file, "", {}, {})
            assert settings.horizon >= 10
            check_model_block(settings.config.model)
            assert env_id == "default" or env_id in gymnasium.registry


def test_a_quadratic_reward_replaces_the_tasks_own() -> None:
    def read(given: dict[str, Any]) -> Any:
        return read_settings("cem", "InvertedPendulum-v5", "plan.yml", "", given, {})

    reward = read({}).reward
    assert reward is not None
    assert len(reward.weights) == 4
    assert read({"quadratic_reward": None}).reward is None
    with pytest.raises(ValueError, match="quadratic_reward"):
        read({"quadratic_reward": {"weight": [1.0]}})
    with pytest.raises(ValueError, match="quadratic_reward"):
        read_settings("cem", "Pendulum-v1", "pets.yml", "", {"quadratic_reward": None}, {})
