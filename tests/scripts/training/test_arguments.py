"""The command line."""

from __future__ import annotations

import pytest

from scripts.training.arguments import TrainArguments, parse_arguments


def test_defaults() -> None:
    assert parse_arguments([]) == TrainArguments()


def test_flags_of_rl_zoo() -> None:
    words = (
        "--algo tqc --env Ant-v5 -n 500 --seed 3 --eval-freq 50 --eval-episodes 2 --n-envs 2 -f out -tb board -P "
        "--env-kwargs a:1 b:false --hyperparams tau:0.01 policy_kwargs.net_arch:[8,8] --num-threads 2 --no-model "
        "--updates-per-step 0.5 --tag mine"
    )
    args = parse_arguments(words.split())
    assert (args.algo, args.env, args.n_timesteps, args.seed) == ("tqc", "Ant-v5", 500, 3)
    assert (args.eval_freq, args.eval_episodes, args.n_envs) == (50, 2, 2)
    assert (args.log_folder, args.tensorboard_log, args.progress) == ("out", "board", True)
    assert args.env_kwargs == {"a": 1, "b": False}
    assert args.hyperparams == {"tau": 0.01, "policy_kwargs.net_arch": [8, 8]}
    assert (args.num_threads, args.model, args.updates_per_step, args.tag) == (2, False, 0.5, "mine")


def test_repeated_flags_add_up_and_do_not_leak() -> None:
    assert parse_arguments(["--env-kwargs", "a:1", "--env-kwargs", "b:2", "a:3"]).env_kwargs == {"a": 3, "b": 2}
    assert parse_arguments([]).env_kwargs == {}


@pytest.mark.parametrize(("argv", "arm"), [([], "sac+model"), (["--no-model"], "sac"), (["--run-name", "x"], "x")])
def test_arm(argv: list[str], arm: str) -> None:
    assert parse_arguments(argv).arm == arm


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--hyperparams", "tau"], "expected key:value"),
        (["--algo", "sacc"], "invalid choice"),
        (["--tag", "a/b"], "no slash"),
        (["--n-envs", "0"], "at least 1"),
        (["--updates-per-step", "0"], "must be positive"),
        (["--average-steps", "-2"], "--average-steps must be at least 1, 0 for none or -1"),
        (["--average-steps", "0", "--use-average", "acting"], "--use-average needs an average"),
        (["--no-model", "--use-average", "branching"], "leave out --no-model"),
    ],
)
def test_mistakes_end_with_a_sentence(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse_arguments(argv)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["-n", "--eval-freq", "--save-freq"])
@pytest.mark.parametrize("value", ["0", "-5"])
def test_counts_that_make_no_sense_are_refused(flag: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_arguments([flag, value])
    assert f"{flag} must be at least 1" in capsys.readouterr().err
