"""The two Gymnasium faces of a simulator: one slot, and B slots. No dynamics, rewards or trial logic live here."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from metabench.family import ActionSpace
from metabench.rng import Array, SlotRng
from metabench.simulator import Outcome, Replayable, Trials
from metabench.tasks import OFF_TABLE, Task, TaskBatch, latent_ranges, param_ranges, stack

_OPTIONS = ("task",)
_INTEGERS = (int, np.int64)
_RESET_FIRST = "the environment has no state yet: call reset() before step() or render()"


def check_actions(actions: Any, space: ActionSpace, num_envs: int) -> Array:
    """Actions `[B]` or `[B, A]` of B slots as an array; ValueError in one sentence if they do not fit `space`."""
    array = np.asarray(actions)
    shape = (num_envs, *space.shape) if space.shape else (num_envs,)
    if array.shape != shape:
        raise ValueError(f"actions must have the shape {shape}, got {array.shape}")
    if isinstance(space, spaces.Discrete):
        if array.dtype.kind not in "iu":
            raise ValueError(f"actions must be integers 0 to {int(space.n) - 1}, got {array.dtype}")
        if array.min() < 0 or array.max() >= space.n:
            wrong = array[(array < 0) | (array >= space.n)][0]
            raise ValueError(f"action {wrong} does not exist: there are the actions 0 to {int(space.n) - 1}")
        return array
    if array.dtype.kind not in "fiu":
        raise ValueError(f"actions must be real numbers, got {array.dtype}")
    if np.count_nonzero(np.isfinite(array)) < array.size:  # a third of the time of .all()
        slot = int(np.argwhere(~np.isfinite(array))[0][0])
        raise ValueError(f"the action of slot {slot} is not finite: {array[slot]}")
    return array


class _Face:
    """What both faces share: spaces, options and the trials behind them."""

    def __init__(self, trials: Trials, expose_task: bool, render_mode: str | None):
        self.trials, self.expose_task = trials, expose_task
        self.family = trials.family
        modes = self.family.render_modes
        if render_mode is not None and render_mode not in modes:
            window = "; for a window wrap the environment in gymnasium.wrappers.HumanRendering"
            hint = window * (render_mode == "human")
            raise ValueError(f"unknown render_mode {render_mode!r}; available: {', '.join(modes)}{hint}")

    def observation_space(self) -> spaces.Box:
        base = self.family.observation_space
        if not self.expose_task:
            return base
        context = self.family.context_type
        ranges = {**param_ranges(context), **latent_ranges(context)}
        low, high = (np.array([getattr(r, side) for r in ranges.values()], base.dtype) for side in ("low", "high"))
        return spaces.Box(np.append(base.low, low), np.append(base.high, high), dtype=self.family.observation_dtype)

    def expose(self, observation: Array) -> Array:
        if not self.expose_task:
            return observation
        return np.concatenate((observation, self.trials.simulator.exposed.astype(observation.dtype)), axis=1)

    def observe(self) -> Array:
        return self.expose(self.trials.simulator.observation)

    def pick(self, options: Mapping[str, Any] | None, count: int) -> TaskBatch | None:
        """The tasks that reset's `options` ask for; None if they leave it to the trial."""
        for key in options or {}:
            if key not in _OPTIONS:
                raise ValueError(f"unknown reset option {key!r}; available: {', '.join(_OPTIONS)}")
        wanted = (options or {}).get("task")
        if wanted is None:
            return None
        if isinstance(wanted, str) or not isinstance(wanted, Sequence | np.ndarray):
            wanted = [wanted] * count
        if len(wanted) != count:
            raise ValueError(
                f"options['task'] names {len(wanted)} tasks for {count} slots; give one for all or one per slot"
            )
        if isinstance(wanted, np.ndarray) and wanted.dtype.kind in "iu" and wanted.ndim == 1:
            return self.trials.table.batch(self.trials.split, wanted)
        picked = [self._pick_one(one) for one in wanted]
        return TaskBatch(*(np.concatenate(column) for column in zip(*picked, strict=True)))

    def _pick_one(self, wanted: Any) -> TaskBatch:
        table = self.trials.table
        if isinstance(wanted, Mapping):
            batch = table.off_table(wanted)
        elif isinstance(wanted, Task):
            values = np.array([wanted.context])
            if values.shape[1] != len(table.ranges):
                raise ValueError(
                    f"the task {wanted} does not fit {table.family}, whose parameters are {', '.join(table.ranges)}"
                )
            table.check_values(values)
            batch = TaskBatch(np.array([wanted.index if wanted.split == self.trials.split else OFF_TABLE]), values)
        elif isinstance(wanted, int | np.integer) and not isinstance(wanted, bool):
            return table.batch(self.trials.split, [int(wanted)])
        else:
            raise ValueError(f"options['task'] must be a row number, a mapping of parameters or a Task, got {wanted!r}")
        if reason := self.family.reject(stack(self.family.context_type, batch.values)):
            raise ValueError(f"no task of {table.family}: {reason}")
        return batch

    def restart(self, rng: SlotRng | None, tasks: TaskBatch | None) -> None:
        """New streams, or new tasks, or the next episode of each slot's trial."""
        trials = self.trials
        if rng is not None:
            trials.start(rng, tasks)
        elif tasks is not None:
            trials.restart(np.arange(len(trials.rng)), tasks)
        else:
            trials.advance(None)

    def require_reset(self) -> None:
        if self.trials.simulator is None:
            raise ResetNeeded(_RESET_FIRST)

    def task(self, slot: int) -> Task:
        self.require_reset()
        tasks = self.trials.tasks
        return Task(
            self.trials.table.family, tuple(tasks.values[slot].tolist()), self.trials.split, int(tasks.row[slot])
        )

    def render(self, slot: int, mode: str | None) -> Any:
        self.require_reset()
        simulator = self.trials.simulator
        draw = {"rgb_array": "picture", "ansi": "text", "human": "show"}[str(mode)]
        return getattr(simulator, draw)(slot)


def _metadata(base: dict[str, Any], trials: Trials) -> dict[str, Any]:
    family = trials.family
    return {**base, "render_modes": list(family.render_modes), "render_fps": family.render_fps}


class MetaEnv(gym.Env[Array, Any]):
    """One slot of a benchmark as a Gymnasium environment with a hidden task.

    `reset(seed=s)` fixes everything that follows and draws a task; plain `reset()` begins the next episode of the same
    task until its `episodes_per_task` are used up, then draws another; `reset(options={"task": 17})` picks row 17 of
    the split, and a mapping of parameters picks a task off the table.

    `info` holds `task_id` (row in the split, -1 off the table), `episode_in_trial`, `session` (of the episode)
    and `session_ended` (training labels; no part of the observation); `success` where the family knows it. A simulation
    that diverges ends its episode (`terminated`), with `info["diverged"]` and a `DivergenceWarning` naming the task.
    """

    metadata = {"render_modes": ["rgb_array", "ansi"], "render_fps": 10}  # noqa: RUF012  Gymnasium's own annotation

    def __init__(self, trials: Trials, *, expose_task: bool = False, render_mode: str | None = None):
        self._face = _Face(trials, expose_task, render_mode)
        self._trials = trials
        self.metadata = _metadata(type(self).metadata, trials)
        self.observation_space = self._face.observation_space()
        self.action_space = copy.deepcopy(trials.family.action_space)
        self.render_mode = render_mode
        self._episode: dict[str, int] = {}  # what info says of the episode
        count = int(self.action_space.n) if isinstance(self.action_space, spaces.Discrete) else 0
        self._actions = [np.array([action]) for action in range(count)]  # families do not write into actions
        self._shape = None if count else self.action_space.shape

    @property
    def family(self) -> Any:
        """The task family behind this environment."""
        return self._face.family

    @property
    def task(self) -> Task:
        """The task being played: for analysis, never for an agent."""
        return self._face.task(0)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Begins an episode; see the class for which task it plays."""
        tasks = self._face.pick(options, 1)
        super().reset(seed=seed)
        rng = None
        if seed is not None:
            rng = SlotRng.from_seeds([seed])
        elif self._trials.simulator is None:
            rng = SlotRng.from_seeds([int(self.np_random.integers(2**63))])
        self._face.restart(rng, tasks)
        trials = self._trials
        self._episode = {"task_id": int(trials.tasks.row[0]), "episode_in_trial": int(trials.episode[0])}
        if self.render_mode == "human":
            self.render()
        return self._face.observe()[0], {**self._episode, "session": 0, "session_ended": False}

    def step(self, action: Any) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """One step; ValueError in one sentence for an action that does not fit the action space."""
        simulator = self._trials.simulator
        if simulator is None:
            raise ResetNeeded(_RESET_FIRST)
        if type(action) in _INTEGERS and 0 <= action < len(self._actions):
            actions = self._actions[action]
        elif (
            type(action) is np.ndarray  # the common case, without the detours of the general one
            and action.shape == self._shape
            and action.dtype.kind == "f"
            and np.count_nonzero(np.isfinite(action)) == action.size
        ):
            actions = action[None]
        else:
            actions = check_actions(np.asarray(action)[None], self.action_space, 1)  # pyright: ignore[reportArgumentType]
        observation, reward, terminated, truncated, session_ended, success, diverged = simulator.step(actions)
        if self._face.expose_task:
            observation = self._face.expose(observation)
        info = {**self._episode, "session": simulator.session.item(), "session_ended": session_ended.item()}
        if success is not None:
            info["success"] = success.item()
        if diverged is not None:
            info["diverged"] = True
        if self.render_mode == "human":
            self.render()
        return observation[0], reward.item(), terminated.item(), truncated.item(), info

    def render(self) -> Any:
        """`[H, W, 3]` uint8 or a string, as `render_mode` says; None without one, or where it goes to a window.

        In the mode "human", reset and step do it by themselves.
        """
        return None if self.render_mode is None else self._face.render(0, self.render_mode)

    def close(self) -> None:
        """Closes the window, if there is one."""
        self.family.close()


class MetaVectorEnv(gym.vector.VectorEnv[Array, Array, Array]):
    """B slots of a benchmark, stepped as arrays, each with a hidden task of its own.

    Autoreset is SAME_STEP: the observation at an episode's end is the next episode's first, the last one is in
    `info["final_obs"]` where `info["_final_obs"]`. In `info`, `session_ended` and `success` are of the step just taken;
    `task_id`, `episode_in_trial` and `session` are of the episode that goes on. Slot i equals the single environment
    reset with `seed + i`. Per-slot tasks: `reset(options={"task": [3, 1, 4, 1]})`. A simulation that diverges ends its
    slot's episode, with `info["diverged"]` and a warning that names slot and task; the other slots go on.
    """

    metadata = {  # noqa: RUF012  Gymnasium's own annotation
        "render_modes": ["rgb_array", "ansi"],
        "render_fps": 10,
        "autoreset_mode": AutoresetMode.SAME_STEP,
    }

    def __init__(self, trials: Trials, num_envs: int, *, expose_task: bool = False, render_mode: str | None = None):
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, got {num_envs}")
        self._face = _Face(trials, expose_task, render_mode)
        self._trials = trials
        self.metadata = _metadata(type(self).metadata, trials)
        self.num_envs = num_envs
        self.single_observation_space = self._face.observation_space()
        self.single_action_space = copy.deepcopy(trials.family.action_space)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.render_mode = render_mode

    @property
    def family(self) -> Any:
        """The task family behind this environment."""
        return self._face.family

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The task of every slot: for analysis, never for an agent."""
        return tuple(self._face.task(slot) for slot in range(self.num_envs))

    def _info(self, outcome: Outcome | None = None) -> dict[str, Any]:
        trials = self._trials
        info: dict[str, Any] = {
            "task_id": trials.tasks.row.copy(),
            "episode_in_trial": trials.episode.copy(),
            "session": trials.simulator.session.copy(),
            "session_ended": np.zeros(self.num_envs, dtype=bool) if outcome is None else outcome.session_ended.copy(),
        }
        if outcome is not None and outcome.success is not None:
            info["success"] = outcome.success.copy()
        if outcome is not None and outcome.diverged is not None:
            info["diverged"] = outcome.diverged.copy()
        return info | {f"_{key}": np.ones(self.num_envs, dtype=bool) for key in info}  # Gymnasium's masks

    def reset(
        self, *, seed: int | Sequence[int | None] | Array | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Begins an episode in every slot; an int seed gives slot i the stream of seed + i."""
        tasks = self._face.pick(options, self.num_envs)
        rng = None
        if isinstance(seed, np.ndarray) and seed.dtype == np.uint64 and seed.shape == (self.num_envs,):
            super().reset(seed=int(seed[0]))
            rng = SlotRng.from_seeds(seed)
        elif seed is not None:
            seeds = [seed + i for i in range(self.num_envs)] if isinstance(seed, int | np.integer) else list(seed)
            if len(seeds) != self.num_envs or any(s is None or s < 0 for s in seeds):
                raise ValueError(f"seed must be one non-negative integer or {self.num_envs} of them, got {seed!r}")
            super().reset(seed=int(seeds[0]))  # pyright: ignore[reportArgumentType]
            rng = SlotRng.from_seeds([int(s) for s in seeds if s is not None])
        elif self._trials.simulator is None:
            rng = SlotRng.from_seeds([int(s) for s in self.np_random.integers(2**63, size=self.num_envs)])
        self._face.restart(rng, tasks)
        return self._face.observe(), self._info()

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """One step in every slot; ValueError in one sentence for actions that do not fit the action space."""
        self._face.require_reset()
        checked = check_actions(actions, self.single_action_space, self.num_envs)  # pyright: ignore[reportArgumentType]
        outcome = self._trials.simulator.step(checked)
        observation = self._face.expose(outcome.observation)
        terminated, truncated = outcome.terminated.copy(), outcome.truncated.copy()  # the simulator's may be read-only
        done = terminated | truncated
        finished = np.count_nonzero(done)
        if not finished:
            return observation, outcome.reward, terminated, truncated, self._info(outcome)
        final = self._info(outcome)
        self._trials.advance(None if finished == self.num_envs else np.flatnonzero(done))
        info = self._info(outcome)
        info |= {"final_obs": observation, "_final_obs": done, "final_info": final, "_final_info": done.copy()}
        return self._face.observe(), outcome.reward, terminated, truncated, info

    def checkpoint(self, slots: Array | None = None) -> dict[str, Array]:
        """What an exact continuation of these slots needs (None: all); ValueError where the simulator keeps none."""
        self._face.require_reset()
        simulator = self._trials.simulator
        if not isinstance(simulator, Replayable):
            raise ValueError(
                f"the backend {self._trials.backend!r} of {self._trials.table.family} keeps no checkpoints, so what it "
                f"plays cannot be replayed; available backends: {', '.join(self.family.backends)}"
            )
        return simulator.checkpoint(slots)

    def render(self) -> tuple[Any, ...] | None:
        """One picture or text per slot, as `render_mode` says; None without one."""
        if self.render_mode is None:
            return None
        return tuple(self._face.render(slot, self.render_mode) for slot in range(self.num_envs))
