"""One trial as one episode, for libraries that know nothing of trials: any recurrent policy then learns to adapt.

Sources: Duan et al. 2016, "RL²: Fast Reinforcement Learning via Slow Reinforcement Learning" (arXiv 1611.02779); Wang
et al. 2016, "Learning to reinforcement learn" (arXiv 1611.05763). A policy is shown its last action, the reward that
came with it and where an episode begins, and is not reset between the episodes of a trial.

What is shown is what an agent sees under the protocol `slots-2` (`metabench.Timestep`), in one row: `[observation,
action, reward, first]`. The action is one-hot for Discrete and itself for Box. Where an episode of the trial begins,
action and reward are those that ended the one before; at the trial's start they are zeros.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import AutoresetMode, VectorWrapper
from gymnasium.vector.utils import batch_space

from metabench.envs import MetaEnv, MetaVectorEnv, as_array, check_actions
from metabench.rng import Array

_GOES_ON = ("task_id", "episode_in_trial", "session")  # of the episode that goes on, as in the vector environment


def action_columns(space: spaces.Space[Any]) -> int:
    """How many columns an action takes: one per action for Discrete, its own for Box."""
    return int(space.n) if isinstance(space, spaces.Discrete) else int(np.prod(space.shape or ()))


def tick(observation: Array, action: Array, reward: Array, first: Array, start: Array, space: Any) -> Array:
    """What a policy is shown.

    Args:
        observation: `[B, O]`.
        action: `[B]` or `[B, A]` the last one.
        reward: `[B]` that came with it.
        first: `[B]` bool: an episode begins.
        start: `[B]` bool: a trial begins, so that there is neither an action nor a reward.
        space: The action space of one slot.

    Returns:
        `[B, O + A + 2]` in the observation's type.
    """
    count = len(observation)
    if isinstance(space, spaces.Discrete):
        code = np.zeros((count, int(space.n)), observation.dtype)
        code[np.arange(count), action] = 1
    else:
        code = action.reshape(count, -1).astype(observation.dtype)
    last = np.column_stack((code, reward, first)).astype(observation.dtype)
    last[start, :-1] = 0
    return np.concatenate((observation, last), axis=1)


def tick_space(observation: spaces.Box, action: spaces.Space[Any]) -> spaces.Box:
    """The space of `tick`'s rows: actions and rewards are unbounded, because environments take any number."""
    low, high = (0.0, 1.0) if isinstance(action, spaces.Discrete) else (-np.inf, np.inf)
    columns = action_columns(action)
    return spaces.Box(
        np.concatenate((observation.low, np.full(columns, low), [-np.inf, 0.0])).astype(observation.dtype),
        np.concatenate((observation.high, np.full(columns, high), [np.inf, 1.0])).astype(observation.dtype),
        dtype=observation.dtype.type,  # pyright: ignore[reportArgumentType, reportOptionalMemberAccess]
    )


def _unmoved(space: Any, count: int) -> Array:
    """The action that stands where there was none."""
    return np.zeros((count, *(space.shape or ())), space.dtype)


class RL2(gym.Wrapper, RecordConstructorArgs):
    """A trial of one slot as one episode.

    Episodes inside the trial begin by themselves; `terminated` or `truncated` is true at the trial's end alone. `reset`
    begins a trial, also where the last one was left early. In `info`, `episode_ended` says where an episode ended;
    there, `task_id`, `episode_in_trial` and `session` are of the one that goes on, everything else is of the step.
    Gymnasium's `spec` stays the one the environment was made from: its `max_episode_steps` are those of one episode.

    Args:
        env: A benchmark's environment, with any wrappers that keep observations one row of numbers.
    """

    def __init__(self, env: gym.Env[Any, Any]):
        RecordConstructorArgs.__init__(self)
        gym.Wrapper.__init__(self, env)
        if not isinstance(env.unwrapped, MetaEnv):
            raise TypeError(f"RL2 wraps environments of metabench, got {env.unwrapped}")
        self.episodes: int = env.unwrapped.episodes_per_task
        self.observation_space = tick_space(env.observation_space, env.action_space)  # pyright: ignore[reportArgumentType]

    def _tick(self, observation: Array, action: Array, reward: float, first: bool, start: bool) -> Array:
        rewards, firsts, starts = (np.array([value]) for value in (reward, first, start))
        return tick(observation[None], action, rewards, firsts, starts, self.env.action_space)[0]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Begins a trial."""
        observation, info = self.env.reset(seed=seed, options=options)
        while info["episode_in_trial"]:  # the rest of a trial that was left early
            observation, info = self.env.reset()
        nothing = _unmoved(self.env.action_space, 1)
        return self._tick(observation, nothing, 0.0, True, True), {**info, "episode_ended": np.False_}

    def step(self, action: Any) -> tuple[Array, Any, bool, bool, dict[str, Any]]:
        """One step; where an episode of the trial ends, the next one begins."""
        played = check_actions(as_array(action)[None], self.env.action_space, 1).copy()  # pyright: ignore[reportArgumentType]
        observation, reward, terminated, truncated, info = self.env.step(action)
        over = terminated or truncated
        last = info["episode_in_trial"] + 1 >= self.episodes
        info = {**info, "episode_ended": np.bool_(over)}
        if not over or last:
            return self._tick(observation, played, float(reward), False, False), reward, terminated, truncated, info
        observation, begun = self.env.reset()
        info |= {key: begun[key] for key in _GOES_ON}
        return self._tick(observation, played, float(reward), True, False), reward, False, False, info


class RL2Vector(VectorWrapper):
    """Trials of B slots as episodes, each slot as `RL2` shows it.

    Autoreset is SAME_STEP: the observation at a trial's end is the next trial's first, the last one is in
    `info["final_obs"]`. `info["episode_ended"]` says where an episode ended.

    Args:
        env: A benchmark's vector environment under SAME_STEP.
    """

    def __init__(self, env: MetaVectorEnv):
        super().__init__(env)
        if not isinstance(env.unwrapped, MetaVectorEnv):
            raise TypeError(f"RL2Vector wraps vector environments of metabench, got {env.unwrapped}")
        if env.unwrapped.autoreset_mode != AutoresetMode.SAME_STEP:
            raise ValueError(
                "RL2Vector needs autoreset_mode='SameStep': under NEXT_STEP a step between two episodes moves nothing"
            )
        self.autoreset_mode = AutoresetMode.SAME_STEP
        self.episodes: int = env.unwrapped.episodes_per_task
        seen: Any = env.single_observation_space
        self.single_observation_space = tick_space(seen, env.single_action_space)
        self.observation_space = batch_space(self.single_observation_space, env.num_envs)
        self._shown = np.empty(0)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Begins a trial in every slot, or in those of the option `reset_mask`."""
        observation, info = self.env.reset(seed=seed, options=options)
        begun, masks = info["_task_id"], {key: mask for key, mask in info.items() if key.startswith("_")}
        while (late := begun & (info["episode_in_trial"] > 0)).any():  # the rest of trials that were left early
            observation, info = self.env.reset(options={"reset_mask": late})
        count, space = self.num_envs, self.env.single_action_space
        every = np.ones(count, dtype=bool)
        shown = tick(observation, _unmoved(space, count), np.zeros(count), every, every, space)
        shown[~begun] = self._shown[~begun] if not begun.all() else 0
        self._shown = shown.copy()
        return shown, info | masks | {"episode_ended": np.zeros(count, dtype=bool), "_episode_ended": begun.copy()}

    def step(self, actions: Any) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """One step in every slot; where an episode of a trial ends, the next one begins."""
        space: Any = self.env.single_action_space
        played = check_actions(actions, space, self.num_envs)
        observation, reward, terminated, truncated, info = self.env.step(played)
        ended = terminated | truncated
        over = ended & (info["episode_in_trial"] == 0)
        shown = tick(observation, played, reward, ended, over, space)
        self._shown = shown.copy()
        info |= {"episode_ended": ended, "_episode_ended": np.ones(self.num_envs, dtype=bool)}
        if over.any():
            nowhere = np.zeros(self.num_envs, dtype=bool)
            final = tick(info["final_obs"], played, reward, nowhere, nowhere, space)
            info |= {"final_obs": final, "_final_obs": over, "_final_info": over.copy()}
        else:
            for key in ("final_obs", "_final_obs", "final_info", "_final_info"):
                info.pop(key, None)
        return shown, reward, terminated & over, truncated & over, info
