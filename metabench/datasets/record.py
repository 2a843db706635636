"""Plays behaviour policies in the vector environment and keeps every step."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from metabench.agent import Agent, Timestep
from metabench.datasets.format import EPISODE, as_bytes, family_row_type, returns_to_go
from metabench.envs import MetaVectorEnv
from metabench.evaluation.play import play
from metabench.registry import make_vec
from metabench.rng import Array


class Recording(NamedTuple):
    """Whole episodes, one after the other, slot by slot."""

    steps: Array  # [N] rows of steps.npy
    episodes: Array  # [E] rows of episodes.npy; `start` counts from this recording's first step
    final: Array  # [E, O] float32
    states: Array  # [K, S] float64, in the order of the episodes; K = 0 unless asked for
    advice: Array = np.zeros((0, 0), np.float32)  # [N, ...] what the oracle would have done; nothing unless asked for


def simulator_state(simulator: Any) -> Array:
    """`[B, S]` float64 what a simulator continues from: MuJoCo's state row, or all arrays of the state side by side.

    Raises:
        ValueError: If the simulator does not show its state.
    """
    state = getattr(simulator, "state", None)
    if state is None:
        raise ValueError("this benchmark's simulator does not show its state: generate without states")
    physics = getattr(state, "physics", None)
    if physics is not None:
        return physics
    return np.concatenate([np.asarray(x, np.float64).reshape(len(x), -1) for x in state], axis=1)


def record(
    agent: Agent[Any],
    benchmark: str,
    split: str,
    tasks: Array,
    seeds: Array,
    *,
    place: int = 1,
    state_every: int | None = None,
    oracle: Agent[Any] | None = None,
) -> Recording:
    """Plays one trial per slot.

    Args:
        agent: The behaviour; shown the hidden task if it says `privileged`.
        benchmark: An id.
        split: Its frozen split.
        tasks: `[B]` rows of the split's table.
        seeds: `[B]` of the slots: slot i is the single environment reset with `seeds[i]` and `tasks[i]`.
        place: Episodes of a trial.
        state_every: Steps between recorded simulator states; none by default.
        oracle: Is shown what the behaviour is shown, and asked what it would do; for behaviours that see the task.

    Raises:
        ValueError: If there is an oracle that must see the task, and the behaviour does not see it.
    """
    privileged = bool(getattr(agent, "privileged", False))
    if oracle is not None and getattr(oracle, "privileged", False) and not privileged:
        raise ValueError("an oracle that sees the task can only advise a behaviour that sees it too")
    env = make_vec(benchmark, len(tasks), split=split, episodes_per_task=place, expose_task=privileged)
    tape = _Tape(env, tasks, place, state_every)
    observation, _ = env.reset(seed=seeds, options={"task": tasks})
    advised = oracle.begin(len(tasks)) if oracle is not None else None

    def before(step: Timestep, action: Array) -> None:
        nonlocal advised
        tape.before(step.observation, action)
        if oracle is not None:
            advice, advised = oracle.act(step, advised)
            tape.advise(advice)

    for tick in play(agent, env, observation, before=before):
        tape.after(tick.reward, tick.terminated, tick.truncated, tick.info)
        if tape.full:
            break
    return tape.cut(seeds)


class _Tape:
    """Rows `[B, T]` that fill up tick by tick, and where episodes ended."""

    def __init__(self, env: MetaVectorEnv, tasks: Array, place: int, state_every: int | None):
        self.env, self.tasks, self.place, self.state_every = env, tasks, place, state_every
        self.columns = len(env.family.observation_fields)
        horizon = env._trials.horizon * place
        self.rows = np.zeros((len(tasks), horizon), family_row_type(env.family))
        self.fields = {name: self.rows[name] for name in self.rows.dtype.names or ()}
        self.tick = 0
        self.played = np.zeros(len(tasks), dtype=np.int64)  # episodes finished
        self.within = np.zeros(len(tasks), dtype=np.int64)  # steps into the episode
        self.ends = np.zeros((len(tasks), place), dtype=np.int64)  # tick after each episode's last
        self.final = np.zeros((len(tasks), place, self.columns), dtype=np.float32)
        self.states: list[tuple[Array, Array]] = []  # slots and their states, tick by tick
        self.advice: list[Array] = []  # [B, ...] tick by tick

    @property
    def full(self) -> bool:
        """Whether every slot has played its trial."""
        return bool((self.played >= self.place).all())

    def before(self, observation: Array, action: Array) -> None:
        """What is known before the step."""
        self.fields["observation"][:, self.tick] = observation[:, : self.columns]
        self.fields["action"][:, self.tick] = action
        if self.state_every:
            due = np.flatnonzero((self.within % self.state_every == 0) & (self.played < self.place))
            if len(due):
                self.states.append((due, np.array(simulator_state(self.env._trials.simulator)[due])))

    def advise(self, action: Array) -> None:
        """What the oracle would do now."""
        self.advice.append(np.array(action, self.fields["action"].dtype))

    def after(self, reward: Array, terminated: Array, truncated: Array, info: dict[str, Any]) -> None:
        """What the step gave."""
        tick, fields = self.tick, self.fields
        fields["reward"][:, tick] = reward
        fields["session_ended"][:, tick] = info["session_ended"]
        if "success" in info:
            fields["success"][:, tick] = info["success"]
        self.tick += 1
        self.within += 1
        done = terminated | truncated
        if not done.any():
            return
        fields["terminated"][:, tick], fields["truncated"][:, tick] = terminated, truncated
        over = np.flatnonzero(done)
        live = over[self.played[over] < self.place]
        self.ends[live, self.played[live]] = self.tick
        self.final[live, self.played[live]] = info["final_obs"][live, : self.columns]
        self.played[over] += 1
        self.within[over] = 0

    def cut(self, seeds: Array) -> Recording:
        """The episodes; what slots did after their trial is dropped."""
        count, ticks = len(self.tasks), self.ends[:, -1]
        lengths = np.diff(self.ends, axis=1, prepend=0).reshape(-1)
        if (ticks == self.rows.shape[1]).all():
            steps = self.rows.reshape(-1)
        else:
            steps = as_bytes(self.rows)[np.arange(self.rows.shape[1]) < ticks[:, None]].view(self.rows.dtype)
        steps["return_to_go"] = returns_to_go(steps["reward"], lengths)
        episodes = np.zeros(len(lengths), dtype=EPISODE)
        episodes["task"], episodes["seed"] = np.repeat(self.tasks, self.place), np.repeat(seeds, self.place)
        episodes["length"], episodes["start"] = lengths, np.cumsum(lengths) - lengths
        episodes["place"] = np.tile(np.arange(self.place), count)
        episodes["return"] = np.add.reduceat(steps["reward"].astype(np.float64), episodes["start"])
        states = np.zeros((0, 0))
        if self.states:
            slots = np.concatenate([slot for slot, _ in self.states])
            states = np.concatenate([state for _, state in self.states])[np.argsort(slots, kind="stable")]
        advice = np.zeros((0, 0), np.float32)
        if self.advice:
            inside = np.arange(len(self.advice)) < ticks[:, None]
            advice = np.stack(self.advice, axis=1)[inside]
        return Recording(steps, episodes, self.final.reshape(-1, self.columns), states, advice)
