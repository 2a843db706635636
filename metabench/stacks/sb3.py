"""Stable-Baselines3 and sb3-contrib (`pip install 'metabench[sb3]'`): environments for it, and its models as agents.

`SB3VecEnv` shows a vector environment as one of theirs, for training; `SB3Agent` shows a model that was trained on
`RL2Vector` as an agent, for `metabench.evaluate` and submissions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from gymnasium.vector import AutoresetMode

from metabench.envs import MetaVectorEnv
from metabench.rng import Array
from metabench.stacks.rl2 import tick

try:
    from stable_baselines3.common.vec_env import VecEnv  # pyright: ignore[reportMissingImports]
except ModuleNotFoundError as error:
    raise ImportError(
        f"metabench.stacks.sb3 needs the package {error.name}, which is not installed: pip install 'metabench[sb3]'"
    ) from error


class SB3VecEnv(VecEnv):
    """B slots as Stable-Baselines3 has them: `infos[i]["terminal_observation"]`, `infos[i]["TimeLimit.truncated"]`.

    Args:
        env: A vector environment under SAME_STEP: `metabench.make_vec(...)`, or `RL2Vector` around it.
    """

    def __init__(self, env: Any):
        base = env.unwrapped
        if not isinstance(base, MetaVectorEnv) or base.autoreset_mode != AutoresetMode.SAME_STEP:
            raise TypeError(f"SB3VecEnv wraps vector environments of metabench under SAME_STEP, got {env}")
        self.env = env
        self._actions: Array = np.empty(0)
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)

    def reset(self) -> Array:
        """Begins an episode in every slot, with the seeds and options that were set before."""
        given = None if None in self._seeds else self._seeds
        tasks = [options.get("task") for options in self._options]
        if other := {key for options in self._options for key in options} - {"task"}:
            raise ValueError(f"unknown reset option {min(other)!r}; available: task")
        if None in tasks and set(map(type, tasks)) != {type(None)}:
            raise ValueError("either all slots are given a task or none")
        observation, info = self.env.reset(seed=given, options=None if None in tasks else {"task": tasks})
        self.reset_infos = self._per_slot(info)
        self._reset_seeds()
        self._reset_options()
        return observation

    def step_async(self, actions: Array) -> None:
        """Takes the actions that `step_wait` plays."""
        self._actions = actions

    def step_wait(self) -> Any:
        """Observations `[B, O]`, rewards `[B]` float32, ends `[B]`, and one dictionary per slot."""
        observation, reward, terminated, truncated, info = self.env.step(self._actions)
        done = terminated | truncated
        infos = self._per_slot(info)
        for slot in np.flatnonzero(done):
            infos[slot]["terminal_observation"] = info["final_obs"][slot]
            infos[slot]["TimeLimit.truncated"] = bool(truncated[slot] and not terminated[slot])
        return observation, reward.astype(np.float32), done, infos

    def _per_slot(self, info: dict[str, Any]) -> list[dict[str, Any]]:
        columns = {key: info[key] for key in info if not key.startswith(("_", "final_"))}
        return [{key: column[slot] for key, column in columns.items()} for slot in range(self.num_envs)]

    def close(self) -> None:
        """Closes the environment."""
        self.env.close()

    def get_images(self) -> Sequence[Any]:
        """One picture per slot."""
        return self.env.render() or [None] * self.num_envs

    def _slots(self, indices: Any) -> list[int]:
        return [int(slot) for slot in self._get_indices(indices)]

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """An attribute of the vector environment, once per slot."""
        return [getattr(self.env, attr_name) for _ in self._slots(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Sets an attribute for all slots; ValueError for some of them: they are one environment."""
        if len(self._slots(indices)) != self.num_envs:
            raise ValueError("the slots are one environment: an attribute is set for all of them")
        setattr(self.env, attr_name, value)

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        """ValueError: the slots are one environment, whose methods are called on `env`."""
        raise ValueError(f"the slots are one environment: call env.{method_name}() on this object instead")

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """Nowhere: there are no single environments."""
        return [False for _ in self._slots(indices)]


class _Memory(NamedTuple):
    state: Any  # the model's own, of all slots; None before anything was seen
    start: bool


class SB3Agent:
    """A model of Stable-Baselines3 or sb3-contrib that was trained on `RL2Vector`, as an agent.

    Args:
        model: Anything with `predict(observation, state, episode_start, deterministic)` and `action_space`.
        name: The agent's name in records.
        deterministic: Whether it takes its most probable action.
        privileged: Whether it was trained with `expose_task=True`.
    """

    protocol = "slots-2"  # what RL2's rows show

    def __init__(self, model: Any, name: str = "sb3", deterministic: bool = True, privileged: bool = False):
        self.model, self.name, self.deterministic, self.privileged = model, name, deterministic, privileged

    def begin(self, num_trials: int) -> _Memory:
        """Nothing has been seen."""
        return _Memory(None, True)

    def act(self, step: Any, belief: _Memory) -> tuple[Array, _Memory]:
        """The model's actions for a `metabench.Timestep`, and its state after it."""
        start = np.full(len(step.reward), belief.start)
        shown = tick(step.observation, step.action, step.reward, step.first, start, self.model.action_space)
        action, state = self.model.predict(
            shown, state=belief.state, episode_start=start, deterministic=self.deterministic
        )
        return action, _Memory(state, False)
