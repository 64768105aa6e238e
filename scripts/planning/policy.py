"""Builds the policy of ``plan.py`` from model, planner and, if asked for, an agent's critic and proposals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
from gymnasium.envs.mujoco import MujocoEnv

import mbrl_wrappers
from controllers import MPCPolicy, Proposals
from mbrl_wrappers import ClonedEnvModel, MujocoModel, WithReward
from sb3_ext import AgentPolicy, AgentValue
from scripts.planning.arguments import PlanArguments
from scripts.planning.settings import PlannerSettings
from scripts.runs.env_id import registered_id
from scripts.runs.reading import read_run
from scripts.runs.run_folder import MODEL_FILE
from scripts.training.agent_files import find_agent


def trained_on(args: PlanArguments) -> dict[str, Any]:
    """``env_kwargs`` and ``env_wrapper`` of the run that the model or the agent comes from: what it observes.

    Empty when neither is of a run on this task.
    """
    named = ("" if args.model == "true" else args.model, args.terminal_value, args.proposals)
    for path in (Path(name) for name in named if name):
        try:
            summary = read_run(path if path.is_dir() else path.parent).summary
        except ValueError:
            continue
        if registered_id(summary["task"]) == registered_id(args.env):
            wrapper = summary["hyperparameters"].get("env_wrapper")
            return {"env_kwargs": summary["env_kwargs"], **({} if wrapper is None else {"env_wrapper": wrapper})}
    return {}


def build_model(args: PlanArguments, env: gym.Env[Any, Any]) -> Any:
    """The model that ``--model`` names.

    ``true`` is the environment itself: by its physics where it is a MuJoCo task, by copies of it otherwise, also of a
    MuJoCo task in a wrapper that its physics does not know.

    Raises:
        ValueError: if there is no such file, or if it holds the model of another task.
    """
    if args.model == "true":
        if isinstance(env.unwrapped, MujocoEnv):
            try:
                return MujocoModel(env, threads=args.num_threads or None)
            except TypeError as error:
                print(f"Planning in copies of the environment: {error}", flush=True)
        return ClonedEnvModel(env)
    path = Path(args.model)
    path = path / MODEL_FILE if path.is_dir() else path
    if not path.exists() and not path.with_suffix(".safetensors").exists():
        raise ValueError(f"There is no {path}: --model is 'true', a model file, or a run folder that has one.")
    model = mbrl_wrappers.load(path, device=args.device)
    for what, space, real in (
        ("observes", model.observation_space, env.observation_space),
        ("acts in", model.action_space, env.action_space),
    ):
        if space != real:
            raise ValueError(f"The model in {path} {what} {space}, and {args.env} has {real}: it is of another task.")
    _check_task(path, args.env)
    return model


def _check_task(path: Path, env_id: str) -> None:
    """Refuse a file of a run on another task, which may have the same spaces (Walker2d and HalfCheetah do)."""
    try:
        task = read_run(path.parent).task
    except ValueError:  # in no run folder: what the file is of is not known
        return
    if registered_id(task) != registered_id(env_id):
        raise ValueError(
            f"{path} was made on {task}, and --env is {env_id}: name a run of that task. If the two are the same under "
            "two names, copy the file out of its run folder."
        )


def load_agent(args: PlanArguments, name: str, env: gym.Env[Any, Any]) -> Any:
    """The agent of a run folder, or of a zip inside one.

    Raises:
        ValueError: if there is none, or if it is of another task.
    """
    found = find_agent(Path(name))
    vec_env = found.make_env(0)
    agent = found.load(vec_env, trust=args.trust, device=args.device)
    vec_env.close()
    if (agent.observation_space.shape, agent.action_space) != (env.observation_space.shape, env.action_space):
        raise ValueError(f"{found.path} is an agent of {found.run.task}, whose spaces are not those of {args.env}.")
    if registered_id(found.run.task) != registered_id(args.env):
        raise ValueError(
            f"{found.path} is an agent of {found.run.task}, and --env is {args.env}: name one of that task."
        )
    return agent


def build_policy(args: PlanArguments, settings: PlannerSettings, model: Any, env: gym.Env[Any, Any]) -> MPCPolicy[Any]:
    """Planner and model as a policy, with an agent's critic and proposals where they are asked for.

    Raises:
        ValueError: for settings that cannot work.
    """
    objective: dict[str, Any] = dict(settings.objective)
    proposals = None
    if args.terminal_value:
        value = AgentValue(load_agent(args, args.terminal_value, env))
        objective = {"discount": value.discount, **objective, "terminal_value": value}
    if args.proposals:
        agent = AgentPolicy(load_agent(args, args.proposals, env))
        proposals = Proposals(agent, args.num_proposals)
    if args.discount is not None:
        objective["discount"] = args.discount
    if settings.reward is not None:
        model = WithReward(model, settings.reward)
    return MPCPolicy(
        model,
        settings.planner,
        settings.horizon,
        execute=settings.execute,
        proposals=proposals,
        seed=args.seed[0],
        **objective,
    )
