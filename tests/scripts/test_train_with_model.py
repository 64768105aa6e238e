"""Training with a model, tiny but whole, and what is done with its run folder afterwards."""

from __future__ import annotations

import base64
import json
import zipfile
from pathlib import Path

import cloudpickle
import pytest
import stable_baselines3

import mbrl_wrappers
from mbrl_wrappers import GateConfig, RolloutLength
from mbrl_wrappers.storage.checkpoint import load_starts
from scripts import enjoy, plot
from scripts.pictures import model_pictures
from scripts.train import main
from scripts.training.agent_files import find_agent
from scripts.training.learned_model import dyna_config, episode_starts
from tests.scripts.runs_on_disk import transitions

SMALL_MODEL = [
    "ensemble.hidden:[16]", "ensemble.num_members:3", "ensemble.num_elites:2", "fit.max_gradient_steps:20",
    "dyna.model_train_freq:50", "dyna.rollout_freq:50", "dyna.rollouts_per_step:2", "dyna.min_real_rows:50",
]  # fmt: skip
SAC = [
    "--algo", "sac", "--env", "InvertedPendulum-v5", "-n", "150", "--eval-episodes", "1", "--eval-freq", "100",
    "--num-threads", "1", "--updates-per-step", "1", "--hyperparams", "learning_starts:50",
    "policy_kwargs.net_arch:[16]", "policy_kwargs.activation_fn:tanh", "batch_size:16", *SMALL_MODEL,
]  # fmt: skip


def summary_of(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    logs = tmp_path_factory.mktemp("logs")
    assert main([*SAC, "-f", str(logs)]) == 0
    return logs / "sac" / "InvertedPendulum-v5_1"


def test_summary(run: Path) -> None:
    summary = summary_of(run)
    assert (summary["with_model"], summary["arm"], summary["finished"]) == (True, "sac+model", True)
    assert summary["agent_updates"] == 100
    # Fits at 50, 100 and 150 real steps; the reward and the end of this task are known.
    assert [fit["rows"] for fit in summary["model"]["history"]] == [50, 100, 150]
    assert summary["model"]["fits"] == 3
    assert (summary["model"]["reward"], summary["model"]["termination"]) == ("known", "known")
    assert summary["model"]["fit_config"]["max_gradient_steps"] == 20
    assert summary["phase_seconds"]["model_fit"] > 0
    assert summary["phase_seconds"]["model_rollout"] > 0
    assert sum(summary["phase_seconds"].values()) == pytest.approx(summary["wall_seconds"], abs=0.05)
    assert summary["hyperparameters"]["model"]["dyna"]["rollouts_per_step"] == 2


def test_model_file_loads_and_knows_where_to_start(run: Path) -> None:
    model = mbrl_wrappers.load(run / "dynamics.safetensors", device="cpu")
    assert (model.num_members, model.hidden) == (3, (16,))
    starts = load_starts(run / "dynamics.safetensors")
    assert starts is not None
    # This task starts within 0.01 of the upright position, at rest.
    assert abs(starts).max() <= 0.01


def test_without_a_model_nothing_else_changes(run: Path, tmp_path: Path) -> None:
    assert main([*SAC, "--no-model", "-f", str(tmp_path)]) == 0
    folder = tmp_path / "sac" / "InvertedPendulum-v5_1"
    with_model, without = summary_of(run), summary_of(folder)
    assert without["agent_updates"] == with_model["agent_updates"]
    assert with_model["hyperparameters"].pop("model")
    assert without["hyperparameters"] == with_model["hyperparameters"]
    assert not (folder / "dynamics.safetensors").exists()
    assert plot.main(["model", str(folder)]) == 2


def test_enjoy_on_the_real_environment(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert enjoy.main([str(run), "--n-episodes", "2"]) == 0
    out = capsys.readouterr().out
    assert "(real environment)" in out
    assert "IMAGINED" not in out
    assert out.count("episode ") == 2


def test_enjoy_inside_the_model_says_so(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert enjoy.main([str(run), "--n-episodes", "1", "--model", "--horizon", "5", "--stochastic"]) == 0
    out = capsys.readouterr().out
    assert "IMAGINED, inside the learned model" in out
    assert "episode 1: IMAGINED return" in out


@pytest.mark.parametrize(("flags", "deterministic"), [([], True), (["--stochastic"], False)])
def test_enjoy_draws_actions_only_when_asked_to(
    run: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str], deterministic: bool
) -> None:
    seen = []
    original = stable_baselines3.SAC.predict

    def predict(self: stable_baselines3.SAC, *args: object, **kwargs: object) -> object:
        seen.append(kwargs["deterministic"])
        return original(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(stable_baselines3.SAC, "predict", predict)
    assert enjoy.main([str(run), "--n-episodes", "1", *flags]) == 0
    assert set(seen) == {deterministic}


def test_model_pictures(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = []
    for function in ("plot_horizon_errors", "plot_comparison"):
        original = getattr(model_pictures, function)
        monkeypatch.setattr(
            model_pictures, function, lambda *args, original=original: names.append(args[1]) or original(*args)
        )
    assert plot.main(["model", str(run), "--horizon", "3", "--steps", "60", "-o", str(tmp_path / "new")]) == 0
    for name in ("model_error.png", "model_trajectories.png"):
        assert (tmp_path / "new" / name).read_bytes().startswith(b"\x89PNG")
    assert names == [["slider", "hinge", "slider velocity", "hinge velocity"]] * 2


class Canary:
    """Pickled, it makes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def test_a_strangers_pickle_is_run_only_when_trusted(run: Path, tmp_path: Path) -> None:
    song = tmp_path / "song"
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "summary.json").write_text((run / "summary.json").read_text())
    with (
        zipfile.ZipFile(run / "InvertedPendulum-v5.zip") as good,
        zipfile.ZipFile(folder / "InvertedPendulum-v5.zip", "w") as bad,
    ):
        for name in good.namelist():
            content = good.read(name)
            if name == "data":
                data = json.loads(content)
                pickled = base64.b64encode(cloudpickle.dumps(Canary(song))).decode()
                content = json.dumps({**data, "song": {":type:": "x", ":serialized:": pickled}}).encode()
            bad.writestr(name, content)
    found = find_agent(folder)
    env = found.make_env(0)
    agent = found.load(env)
    assert not song.exists()
    obs = env.reset()
    reference = find_agent(run).load(env, trust=True)
    assert agent.predict(obs, deterministic=True)[0] == reference.predict(obs, deterministic=True)[0]
    found.load(env, trust=True)
    assert song.exists(), "the canary itself works"
    env.close()


def test_sbx_agents_need_trust(run: Path, tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text(json.dumps({**summary_of(run), "backend": "sbx"}))
    (tmp_path / "InvertedPendulum-v5.zip").write_bytes(b"")
    found = find_agent(tmp_path)
    env = found.make_env(0)
    with pytest.raises(ValueError, match="--trust"):
        found.load(env)
    env.close()


def test_a_missing_agent_names_those_there(run: Path) -> None:
    there = "InvertedPendulum-v5.zip, averaged_model.zip, best_averaged_model.zip, best_model.zip"
    with pytest.raises(ValueError, match=f"agents in that folder: {there}"):
        find_agent(run / "rl_model_5_steps.zip")


def test_on_policy_agents_learn_in_imagination(tmp_path: Path) -> None:
    argv = [
        "--algo", "ppo", "--env", "InvertedPendulum-v5", "-n", "120", "--eval-episodes", "1", "--eval-freq", "60",
        "-f", str(tmp_path), "--hyperparams", "policy_kwargs.net_arch:[16]", "agent.n_steps:4", "agent.batch_size:16",
        "imagination.initial_steps:60", "imagination.cycle_steps:60", "imagination.imagined_steps:64",
        "imagination.num_envs:16", "imagination.horizon:4", *SMALL_MODEL[:4],
    ]  # fmt: skip
    assert main(argv) == 0
    folder = tmp_path / "ppo" / "InvertedPendulum-v5_1"
    summary = summary_of(folder)
    assert [fit["rows"] for fit in summary["model"]["history"]] == [60, 120]
    assert [evaluation["real_steps"] for evaluation in summary["evaluations"]] == [60, 120]
    assert summary["hyperparameters"]["n_steps"] == 4
    assert (folder / "dynamics.safetensors").exists()
    assert (folder / "0.monitor.csv").exists()


def test_the_average_may_act_and_branch(run: Path, tmp_path: Path) -> None:
    assert main([*SAC, "-f", str(tmp_path), "--average-steps", "20", "--use-average", "acting", "branching"]) == 0
    usual, used = summary_of(run), summary_of(tmp_path / "sac" / "InvertedPendulum-v5_1")
    assert (usual["use_average"], used["use_average"]) == ([], ["acting", "branching"])
    assert usual["average_steps"] == 200
    assert used["model"]["fits"] == usual["model"]["fits"] == 3
    assert used["agent_updates"] == usual["agent_updates"]
    assert used["phase_seconds"]["model_rollout"] > 0
    assert len(used["averaged_evaluations"]) == len(used["evaluations"]) == 2


def test_discrete_actions(tmp_path: Path) -> None:
    argv = [
        "--algo", "dqn", "--env", "CartPole-v1", "-n", "120", "--eval-episodes", "1", "-f", str(tmp_path),
        "--hyperparams", "learning_starts:50", "train_freq:4", "gradient_steps:1", "policy_kwargs.net_arch:[16]",
        *SMALL_MODEL,
    ]  # fmt: skip
    assert main(argv) == 0
    assert summary_of(tmp_path / "dqn" / "CartPole-v1_1")["model"]["fits"] == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["dyna.rollout_frequency:5"],
            "Unknown key 'rollout_frequency' in the dyna block. Did you mean 'rollout_freq'?",
        ),
        (["dyna.rollout_length:[1,2]"], "rollout_length is a number or"),
        (["fit.batch_size:0"], "batch_size must be an integer of at least 1"),
        (["ensemble.device:cpu"], "Unknown key 'device' in the ensemble block"),
        (["starts:5"], "needs both low and high"),
        (["starts.low:0", "starts.high:1"], "one number for each dimension"),
        (["starts.low:[0,0,0]"], "needs both low and high"),
        (["starts.low:[0]", "starts.hihg:[1]"], "Unknown key 'hihg' in the starts block. Did you mean 'high'?"),
        (["starts.low:[0]", "starts.high:[1]"], "1 dimensions and an observation 3"),
        (["starts.low:[0,0,1]", "starts.high:[1,1,0]"], "low at most high"),
        (["agent.gama:0.9"], "Did you mean 'gamma'?"),
        (["real_ratio:2"], "real_ratio"),  # these are found out by building agent and model
        (["ensemble.num_elites:9"], "num_elites"),
        (["use_sde:true"], "use_sde=True is not supported"),
    ],
)
def test_mistakes_in_the_model_block(
    tmp_path: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--env", "Pendulum-v1", "-f", str(tmp_path), "--hyperparams", *words]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("algo", ["dqn", "ppo"])
def test_a_task_that_models_cannot_take_leaves_no_folder(
    tmp_path: Path, algo: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--env", "FrozenLake-v1", "--algo", algo, "-f", str(tmp_path)]) == 2
    assert "Observation space Discrete(16) is a table of 16 states" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("word", "block"), [("starts.low:[0]", "starts"), ("dyna.rollout_length:2", "dyna")])
def test_on_policy_agents_refuse_what_they_would_ignore(
    tmp_path: Path, word: str, block: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--algo", "ppo", "--env", "Pendulum-v1", "-f", str(tmp_path), "--hyperparams", word]) == 2
    assert f"The {block} block is for off-policy agents" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("word", ["agent.batch_size:1", "agent.learning_rate:fast", "imagination.num_envs:1"])
def test_an_agent_that_cannot_be_built_in_the_model_leaves_no_folder(tmp_path: Path, word: str) -> None:
    words = ["agent.n_steps:1", "agent.batch_size:2", word]  # one row is too few for an advantage
    assert main(["--env", "Pendulum-v1", "--algo", "ppo", "-f", str(tmp_path), "--hyperparams", *words]) == 2
    assert not list(tmp_path.iterdir())


def test_what_is_known_of_the_task_is_said_once(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert summary_of(run)["model"]["notes"] == []
    argv = [*SAC, "-f", str(tmp_path), "--env", "Swimmer-v5", "-n", "10", "--verbose", "1"]
    with pytest.warns(UserWarning, match="never fitted"):
        assert main(argv) == 0
    assert capsys.readouterr().out.count("[model] The reward is learned.") == 1


def test_rollout_length_from_yaml() -> None:
    assert dyna_config({"rollout_length": [20, 150, 1, 15]}).rollout_length == RolloutLength(20, 150, 1, 15)
    assert dyna_config({"rollout_length": 3}).length(10**6) == 3


def test_a_gate_from_yaml() -> None:
    assert dyna_config({"gate": {"quantile": 0.99}}).gate == GateConfig(quantile=0.99)
    assert dyna_config({"gate": {}}).gate == GateConfig()
    assert dyna_config({}).gate is None
    with pytest.raises(ValueError, match=r"dyna\.gate"):
        dyna_config({"gate": {"quantle": 0.99}})
    with pytest.raises(ValueError, match="gate takes settings"):
        dyna_config({"gate": True})


def test_starts_are_the_rows_after_an_end() -> None:
    rows = transitions([0, 1, 2, 3, 4, 5], last=[False, True, False, False, True, True])
    assert episode_starts(rows)[:, 0].tolist() == [0.0, 2.0, 5.0]


@pytest.mark.parametrize(
    ("algo", "extra"), [("svg", []), ("mpg", ["estimator:likelihood_ratio"]), ("mpg", ["estimator:mixed"])]
)
def test_agents_that_use_the_model_themselves(algo: str, extra: list[str], tmp_path: Path) -> None:
    words = [*SAC, "horizon:2", "probe_freq:0", *extra]
    words[1] = algo
    words[words.index("-n") + 1] = "60"
    assert main([*words, "-f", str(tmp_path)]) == 0
    folder = tmp_path / algo / "InvertedPendulum-v5_1"
    summary = summary_of(folder)
    assert (summary["finished"], summary["agent_updates"], summary["hyperparameters"]["horizon"]) == (True, 10, 2)
    assert summary["model"]["fits"] == 1
    assert summary["phase_seconds"]["model_rollout"] == 0
    assert enjoy.main([str(folder), "--n-episodes", "1"]) == 0


def test_agents_that_use_the_model_themselves_need_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*SAC, "--no-model", "-f", str(tmp_path)]
    words[1] = "svg"
    with pytest.raises(SystemExit):
        main(words)
    assert "svg trains with a model: leave out --no-model" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(("algo", "extra"), [("svg", []), ("mpg", ["estimator:likelihood_ratio"])])
def test_agents_that_use_the_model_themselves_swing_the_pendulum_up(
    algo: str, extra: list[str], tmp_path: Path
) -> None:
    words = ["--algo", algo, "--env", "Pendulum-v1", "--seed", "10", "--eval-freq", "2500", "-f", str(tmp_path)]
    assert main([*words, "--hyperparams", "probe_freq:0", *extra]) == 0
    last = summary_of(tmp_path / algo / "Pendulum-v1_1")["evaluations"][-1]
    assert sum(last["returns"]) / len(last["returns"]) > -400  # -122 and -137 when measured, random about -1,230
