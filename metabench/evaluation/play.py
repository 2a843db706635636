"""Playing an agent: the one loop behind evaluation, datasets, curves and films, and what an agent is shown in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from metabench.agent import Agent, Timestep
from metabench.envs import MetaVectorEnv, check_actions
from metabench.evaluation.results import PROTOCOL_VERSION, check_version
from metabench.rng import Array


class Tick(NamedTuple):
    """One step of B slots, as it was played."""

    step: Timestep  # what the agent was shown; not the arrays it was handed
    action: Array  # [B] or [B, A] what it did
    observation: Array  # [B, O] what came next: where an episode ended, the next one's first observation
    reward: Array  # [B] float64
    terminated: Array  # [B] bool: the episode ended by the family's own rule
    truncated: Array  # [B] bool: it ended at its horizon
    info: dict[str, Any]  # the environment's; holds `final_obs` where an episode ended


class Stream:
    """What B trials that advance together show of themselves, tick by tick; every timestep is the agent's own copy.

    Args:
        observation: `[B, O]` the first one of each trial.
        space: The action space of one slot.
        version: Of the protocol. Under `slots-2`, a tick that begins an episode has the action and the reward that
            ended the trial's previous one, and the observation it ended in; under `slots-1` it had zeros.
    """

    def __init__(self, observation: Array, space: Any, version: str = PROTOCOL_VERSION):
        self._keeps = check_version(version) != "slots-1"
        count = len(observation)
        self._observation = np.array(observation)
        self._action: Array = np.zeros((count, *(space.shape or ())), space.dtype)
        self._reward, self._first = np.zeros(count), np.ones(count, dtype=bool)
        self._final = np.zeros_like(self._observation)

    def timestep(self) -> Timestep:
        """The tick that is to be answered now, as a copy: an agent may write into what it is handed."""
        return Timestep(*(part.copy() for part in self.shown()))

    def shown(self) -> Timestep:
        """The same, not copied: what is kept of it does not change with what an agent does to its copy."""
        return Timestep(self._observation, self._action, self._reward, self._first, self._final)

    def advance(self, action: Array, observation: Array, reward: Array, done: Array, final: Array | None) -> None:
        """Takes in what an action led to.

        Args:
            action: `[B]` or `[B, A]`.
            observation: `[B, O]` what is seen next.
            reward: `[B]`.
            done: `[B]` bool: an episode ended, and `observation` is the next one's first.
            final: `[B, O]` the observation it ended in, where `done`; not needed where none did.
        """
        self._observation, self._action, self._reward = observation, np.array(action), np.array(reward)
        self._first, self._final = np.array(done), np.zeros_like(observation)
        if not done.any():
            return
        if self._keeps:
            assert final is not None, "an episode ended, and what it ended in is not said"
            self._final[done] = final[done]
        else:
            self._action[done], self._reward[done] = 0, 0.0


def play(
    agent: Agent[Any],
    env: MetaVectorEnv,
    observation: Array,
    *,
    version: str = PROTOCOL_VERSION,
    columns: int | None = None,
    before: Callable[[Timestep, Array], None] | None = None,
) -> Iterator[Tick]:
    """Plays one agent in all slots of an environment that has been reset, tick by tick, without end.

    Args:
        agent: The agent. Each slot is one trial; what a slot does after its trial is for the caller to leave out.
        env: The environment.
        observation: `[B, O]` what `reset` returned.
        version: Of the protocol; see `Stream`.
        columns: How many columns of the observation the agent is shown; all by default.
        before: Called between the agent's answer and the environment's step, with (what it was shown, its action).

    Yields:
        What happened in each step.
    """
    stream = Stream(observation[:, :columns], env.single_action_space, version)
    belief, space = agent.begin(env.num_envs), env.family.action_space
    while True:
        step = stream.shown()
        answer, belief = agent.act(stream.timestep(), belief)
        # What is recorded and shown is what is played; a copy, because agents may reuse their arrays.
        action = np.array(check_actions(answer, space, env.num_envs))
        if before:
            before(step, action)
        observation, reward, terminated, truncated, info = env.step(action)
        final = info.get("final_obs")
        shown = None if final is None else final[:, :columns]
        stream.advance(action, observation[:, :columns], reward, terminated | truncated, shown)
        yield Tick(step, action, observation, reward, terminated, truncated, info)
