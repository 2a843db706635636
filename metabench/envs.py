"""The two Gymnasium faces of a simulator: one slot, and B slots. No dynamics, rewards or trial logic live here."""

from __future__ import annotations

import copy
import dataclasses
import enum
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from metabench.family import ActionSpace, Family
from metabench.rng import Array, SlotRng, whole_number, whole_numbers
from metabench.simulator import Outcome, Replayable, Trials
from metabench.tasks import Task, TaskBatch, latent_ranges, param_ranges, stack, suggest

_INTEGERS = (int, np.int64)
_RESET_FIRST = "the environment has no state yet: call reset() before step() or render()"
AUTORESET_MODES = (AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP)  # that the vector environment offers


def check_actions(actions: Any, space: ActionSpace, num_envs: int) -> Array:
    """Actions `[B]` or `[B, A]` of B slots as they are computed with: of one dtype, native and in C order.

    An action means its numbers: rewards follow from them alone, whatever type, byte order or memory order they came in.
    For Box that type is the space's own (integers and booleans are numbers too; what is finer is rounded to it, what is
    beyond its largest number counts as that), for Discrete it is int64.

    Raises:
        ValueError: One sentence, if they do not fit `space`.
    """
    array = as_array(actions)
    shape = (num_envs, *space.shape) if space.shape else (num_envs,)
    if array.shape != shape:
        raise ValueError(f"actions must have the shape {shape}, got {array.shape}")
    if isinstance(space, spaces.Discrete):
        if array.dtype.kind not in "iu":
            raise ValueError(f"actions must be integers 0 to {int(space.n) - 1}, got {array.dtype}")
        if array.min() < 0 or array.max() >= space.n:
            wrong = array[(array < 0) | (array >= space.n)][0]
            raise ValueError(f"action {wrong} does not exist: there are the actions 0 to {int(space.n) - 1}")
        return np.ascontiguousarray(array, np.int64)
    if array.dtype.kind not in "fiub":
        raise ValueError(f"actions must be real numbers, got {array.dtype}")
    if np.count_nonzero(np.isfinite(array)) < array.size:  # a third of the time of .all()
        slot = int(np.argwhere(~np.isfinite(array))[0][0])
        raise ValueError(f"the action of slot {slot} is not finite: {array[slot]}")
    if array.dtype.kind == "f" and array.dtype.itemsize > space.dtype.itemsize:
        limits = np.finfo(space.dtype)  # pyright: ignore[reportCallIssue, reportArgumentType]
        array = np.clip(array, limits.min, limits.max)
    return np.ascontiguousarray(array, space.dtype)


def as_array(actions: Any) -> Array:
    """Whatever an agent answers as a plain array; ValueError in one sentence if it is none."""
    if type(actions) is np.ndarray:
        return actions
    try:
        return np.asarray(actions)
    except (TypeError, ValueError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"actions must be an array of numbers, and {type(actions).__name__} is none: {reason}"
        ) from error


def check_seed(seed: Any) -> int | None:
    """A seed of any integer type as Python's; ValueError in one sentence for all else but None."""
    number = whole_number(seed)
    if seed is not None and (number is None or number < 0):
        raise ValueError(f"seed must be a non-negative integer, got {seed!r}")
    return number


def check_seeds(seed: Any, count: int) -> list[int] | Array | None:
    """The seeds of `count` slots: of an integer s those from s on; ValueError in one sentence if they are none."""
    if seed is None or (isinstance(seed, np.ndarray) and seed.dtype == np.uint64 and seed.shape == (count,)):
        return seed
    first = whole_number(seed)
    seeds = whole_numbers(seed) if first is None else list(range(first, first + count))
    if seeds is None or len(seeds) != count or min(seeds) < 0:
        raise ValueError(f"seed must be one non-negative integer or {count} of them, got {seed!r}")
    return seeds


def check_autoreset_mode(mode: Any) -> AutoresetMode:
    """One of `AUTORESET_MODES`, given as such or by its name; ValueError in one sentence for all else."""
    for known in AUTORESET_MODES:
        if mode in (known, known.value, known.name):
            return known
    raise ValueError(f"unknown autoreset_mode {mode!r}; {suggest(str(mode), [m.value for m in AUTORESET_MODES])}")


class _Face:
    """What both faces share: spaces, options and the trials behind them."""

    def __init__(self, trials: Trials, expose_task: bool, render_mode: str | None):
        self.trials, self.expose_task = trials, expose_task
        self.family = trials.family
        self.succeeds = type(self.family).success is not Family.success
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
        return np.concatenate((observation, self.trials.running.exposed.astype(observation.dtype)), axis=1)

    def observe(self) -> Array:
        return self.expose(self.trials.running.observation)

    def pick(self, options: Mapping[str, Any] | None, count: int, known: Sequence[str] = ("task",)) -> TaskBatch | None:
        """The tasks that reset's `options` ask for; None if they leave it to the trial."""
        if options is not None and not isinstance(options, Mapping):
            raise ValueError(f"options must be a mapping such as {{'task': 3}}, got {options!r}")
        for key in options or {}:
            if key not in known:
                raise ValueError(f"unknown reset option {key!r}; available: {', '.join(known)}")
        wanted = (options or {}).get("task")
        if isinstance(wanted, np.ndarray) and wanted.ndim == 0:
            wanted = wanted[()]
        if wanted is None:
            return None
        if isinstance(wanted, Mapping):
            return self._together(self.trials.table.off_table(wanted, count))
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
            return self._together(table.off_table(wanted))
        if isinstance(wanted, Task):
            return self._together(table.given(wanted, self.trials.split))
        if (row := whole_number(wanted)) is not None:
            return table.batch(self.trials.split, [row])
        raise ValueError(f"options['task'] must be a row number, a mapping of parameters or a Task, got {wanted!r}")

    def _together(self, batch: TaskBatch) -> TaskBatch:
        if reason := self.family.reject(stack(self.family.context_type, batch.values)):
            raise ValueError(f"no task of {self.trials.table.family}: {reason}")
        return batch

    def masked(self, options: Mapping[str, Any] | None, count: int) -> Array | None:
        """`[B]` bool: the slots that Gymnasium's option `reset_mask` means; None for all."""
        given = (options or {}).get("reset_mask")
        if given is None:
            return None
        mask = np.array(given)
        if mask.shape != (count,) or mask.dtype != bool or not mask.any():
            raise ValueError(
                f"options['reset_mask'] must be {count} booleans, at least one of them True, got {given!r}"
            )
        if self.trials.simulator is None and not mask.all():
            raise ValueError(
                "options['reset_mask'] leaves slots out, but the first reset begins an episode in every slot"
            )
        return None if mask.all() else mask

    def restart(self, rng: SlotRng | None, tasks: TaskBatch | None, slots: Array | None = None) -> None:
        """New streams, or new tasks, or the next episode of each slot's trial; in these slots (None: all)."""
        trials = self.trials
        if slots is not None:
            chosen = None if tasks is None else TaskBatch(tasks.row[slots], tasks.values[slots])
            if rng is not None:
                trials.renew(slots, rng.at(slots), chosen)
            elif chosen is not None:
                trials.restart(slots, chosen)
            else:
                trials.advance(slots)
        elif rng is not None:
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


def _plain(value: Any) -> Any:
    """JSON's types for NumPy's numbers and arrays and for enumerations, at any depth."""
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, enum.Enum):
        return value.value
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value


def _told(spec: Any, trials: Trials) -> Any:
    """Gymnasium's spec as it is played: the steps of an episode, and arguments in JSON."""
    if spec is None:
        return None
    return dataclasses.replace(spec, max_episode_steps=trials.horizon, kwargs=_plain(spec.kwargs))


class MetaEnv(gym.Env[Array, Any]):
    """One slot of a benchmark as a Gymnasium environment with a hidden task.

    `reset(seed=s)` fixes everything that follows and draws a task; plain `reset()` begins the next episode of the same
    task until its `episodes_per_task` are used up, then draws another; `reset(options={"task": 17})` picks row 17 of
    the split, and a mapping of parameters picks a task off the table.

    `info` holds `task_id` (row in the split, -1 off the table), `episode_in_trial`, `session` (of the episode)
    and `session_ended` (training labels; no part of the observation); `success` where the family knows it, `diverged`
    where a simulation can: NumPy scalars under the same keys from `reset` and from `step`. A simulation that diverges
    ends its episode (`terminated`), with a `DivergenceWarning` naming the task.
    """

    metadata = {"render_modes": ["rgb_array", "ansi"], "render_fps": 10}  # noqa: RUF012  Gymnasium's own annotation

    def __init__(self, trials: Trials, *, expose_task: bool = False, render_mode: str | None = None):
        self._face = _Face(trials, expose_task, render_mode)
        self._trials = trials
        self.metadata = _metadata(type(self).metadata, trials)
        self.observation_space = self._face.observation_space()
        self.action_space = copy.deepcopy(trials.family.action_space)
        self.render_mode = render_mode
        self._spec: Any = None
        self._episode: dict[str, Any] = {}  # what info says of the episode
        self._unmoved: dict[str, Any] = {"session": np.int64(0), "session_ended": np.False_}  # what it says at reset
        self._unmoved |= {"success": np.False_} if self._face.succeeds else {}
        self._calm = {"diverged": np.False_} if trials.family.diverges else {}
        self._space = trials.family.action_space
        count = int(self._space.n) if isinstance(self._space, spaces.Discrete) else 0
        self._actions = [np.array([action]) for action in range(count)]  # families do not write into actions
        self._shape = None if count else self._space.shape
        self._layout = np.empty(self._space.shape or (), self._space.dtype).strides

    @property
    def family(self) -> Any:
        """The task family behind this environment."""
        return self._face.family

    @property
    def task(self) -> Task:
        """The task being played: for analysis, never for an agent."""
        return self._face.task(0)

    @property
    def spec(self) -> Any:
        """Gymnasium's spec; None if it was not made by `gymnasium.make`."""
        return self._spec

    @spec.setter
    def spec(self, spec: Any) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        self._spec = _told(spec, self._trials)

    @property
    def episodes_per_task(self) -> int:
        """Episodes of a trial."""
        return self._trials.episodes_per_task

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Begins an episode; see the class for which task it plays.

        Args:
            seed: A non-negative integer of any integer type and size.
            options: `task`: a row number, a mapping of parameters or a `Task`.

        Raises:
            ValueError: One sentence for what is neither; the episode that is being played goes on.
        """
        tasks, seed = self._face.pick(options, 1), check_seed(seed)
        super().reset(seed=seed)
        rng = None
        if seed is not None:
            rng = SlotRng.from_seeds([seed])
        elif self._trials.simulator is None:
            rng = SlotRng.from_seeds([int(self.np_random.integers(2**63))])
        self._face.restart(rng, tasks)
        trials = self._trials
        self._episode = {"task_id": trials.tasks.row[0], "episode_in_trial": trials.episode[0]}
        if self.render_mode == "human":
            self.render()
        return self._face.observe()[0], {**self._episode, **self._unmoved, **self._calm}

    def step(self, action: Any) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """One step; ValueError in one sentence for an action that does not fit the action space."""
        simulator = self._trials.simulator
        if simulator is None:
            raise ResetNeeded(_RESET_FIRST)
        if type(action) in _INTEGERS and 0 <= action < len(self._actions):
            actions = self._actions[action]
        elif (
            type(action) is np.ndarray  # the common case, without the detours of the general one
            and action.dtype == self._space.dtype
            and action.shape == self._shape
            and action.strides == self._layout
            and np.count_nonzero(np.isfinite(action)) == action.size
        ):
            actions = action[None]
        else:
            actions = check_actions(as_array(action)[None], self._space, 1)
        observation, reward, terminated, truncated, session_ended, success, diverged = simulator.step(actions)
        if self._face.expose_task:
            observation = self._face.expose(observation)
        info = {**self._episode, "session": simulator.session[0], "session_ended": session_ended[0], **self._calm}
        if success is not None:
            info["success"] = success[0]
        if diverged is not None:
            info["diverged"] = np.True_
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

    Autoreset is SAME_STEP by default: the observation at an episode's end is the next episode's first, the last one is
    in `info["final_obs"]` where `info["_final_obs"]`. In `info`, `session_ended` and `success` are of the step just
    taken; `task_id`, `episode_in_trial` and `session` are of the episode that goes on, and those of the one that ended
    are in `info["final_info"]`. With `autoreset_mode="NextStep"` the last observation is returned, and the next step
    begins the slot's next episode instead of moving it, as Gymnasium's vector wrappers want it. Slot i equals the
    single environment reset with `seed + i`. Per-slot tasks: `reset(options={"task": [3, 1, 4, 1]})`. A simulation that
    diverges ends its slot's episode, with `info["diverged"]` and a warning that names slot and task; the others go on.
    """

    metadata = {  # noqa: RUF012  Gymnasium's own annotation
        "render_modes": ["rgb_array", "ansi"],
        "render_fps": 10,
        "autoreset_mode": AutoresetMode.SAME_STEP,
    }

    def __init__(
        self,
        trials: Trials,
        num_envs: int,
        *,
        expose_task: bool = False,
        render_mode: str | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
    ):
        count = whole_number(num_envs)
        if count is None or count < 1:
            raise ValueError(f"num_envs must be at least 1, got {num_envs!r}")
        num_envs = count
        self.autoreset_mode = check_autoreset_mode(autoreset_mode)
        self._face = _Face(trials, expose_task, render_mode)
        self._trials = trials
        self.metadata = {**_metadata(type(self).metadata, trials), "autoreset_mode": self.autoreset_mode}
        self._spec: Any = None
        self._space = trials.family.action_space
        self._over: Array | None = None  # [B] bool: under NEXT_STEP, the slots whose next step begins an episode
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

    @property
    def spec(self) -> Any:
        """Gymnasium's spec; None if it was not made by `gymnasium.make_vec`."""
        return self._spec

    @spec.setter
    def spec(self, spec: Any) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        self._spec = _told(spec, self._trials)

    @property
    def episodes_per_task(self) -> int:
        """Episodes of a trial."""
        return self._trials.episodes_per_task

    def _info(self, outcome: Outcome | None = None, begun: Array | None = None) -> dict[str, Any]:
        """What is known after a step, or after a reset if there is no outcome; `begun`: slots that it did not move."""
        trials = self._trials
        nowhere = np.zeros(self.num_envs, dtype=bool)
        moved: dict[str, Array | None] = {"session_ended": nowhere if outcome is None else outcome.session_ended}
        if self._face.succeeds:
            moved["success"] = nowhere if outcome is None else outcome.success
        if self.family.diverges or (outcome is not None and outcome.diverged is not None):
            moved["diverged"] = nowhere if outcome is None else outcome.diverged
        info: dict[str, Any] = {
            "task_id": trials.tasks.row.copy(),
            "episode_in_trial": trials.episode.copy(),
            "session": trials.running.session.copy(),
        }
        for name, values in moved.items():
            info[name] = (nowhere if values is None else values).copy()
            if begun is not None:
                info[name][begun] = False
        return info | {f"_{key}": np.ones(self.num_envs, dtype=bool) for key in info}  # Gymnasium's masks

    def reset(
        self, *, seed: int | Sequence[int | None] | Array | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Begins an episode in every slot, or in those that Gymnasium's option `reset_mask` names.

        Args:
            seed: A non-negative integer, which gives slot i the stream of seed + i; or one per slot.
            options: `task`: a row number, a mapping of parameters or a `Task`, for all slots or one per slot; a mapping
                may have columns `[B]`. `reset_mask` `[B]` bool: the slots that begin; the others go on.

        Raises:
            ValueError: One sentence for what is none of that; the episodes that are being played go on.
        """
        tasks = self._face.pick(options, self.num_envs, ("task", "reset_mask"))
        mask, seeds = self._face.masked(options, self.num_envs), check_seeds(seed, self.num_envs)
        rng = None
        if seeds is not None:
            super().reset(seed=int(seeds[0]))
            rng = SlotRng.from_seeds(seeds)
        elif self._trials.simulator is None:
            rng = SlotRng.from_seeds([int(s) for s in self.np_random.integers(2**63, size=self.num_envs)])
        self._face.restart(rng, tasks, None if mask is None else np.flatnonzero(mask))
        info = self._info()
        if mask is None:
            self._over = None
            return self._face.observe(), info
        if self._over is not None:
            self._over &= ~mask
        return self._face.observe(), info | {key: mask.copy() for key in info if key.startswith("_")}

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """One step in every slot; ValueError in one sentence for actions that do not fit the action space."""
        self._face.require_reset()
        checked = check_actions(actions, self._space, self.num_envs)
        if self._over is not None and self._over.any():
            return self._step_and_begin(checked, np.flatnonzero(self._over))
        outcome = self._trials.running.step(checked)
        observation = self._face.expose(outcome.observation)
        terminated, truncated = outcome.terminated.copy(), outcome.truncated.copy()  # the simulator's may be read-only
        done = terminated | truncated
        finished = np.count_nonzero(done)
        if not finished:
            return observation, outcome.reward, terminated, truncated, self._info(outcome)
        final = self._info(outcome)
        if self.autoreset_mode == AutoresetMode.NEXT_STEP:
            self._over = done
            return observation, outcome.reward, terminated, truncated, final
        self._trials.advance(None if finished == self.num_envs else np.flatnonzero(done))
        info = self._info(outcome)
        info |= {"final_obs": observation, "_final_obs": done, "final_info": final, "_final_info": done.copy()}
        return self._face.observe(), outcome.reward, terminated, truncated, info

    def _step_and_begin(self, actions: Array, slots: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """Under NEXT_STEP: begins the next episode in these slots, where the last one is over, and moves the others.

        A simulator moves all of its slots. Those that are over are begun anew for that, because nobody's episode goes
        on beyond its end, and their streams are taken back afterwards: what they give next is their next episode.
        """
        trials = self._trials
        reward, terminated, truncated = np.zeros(self.num_envs), *np.zeros((2, self.num_envs), dtype=bool)
        self._over, outcome = None, None
        if len(slots) == self.num_envs:
            trials.advance(None)
        else:
            actions, positions = actions.copy(), trials.rng.positions(slots)
            actions[slots] = 0
            trials.running.begin(slots, TaskBatch(trials.tasks.row[slots], trials.tasks.values[slots]))
            outcome = trials.running.step(actions)
            trials.rng.rewind(slots, positions)
            trials.advance(slots)
            reward, terminated, truncated = (part.copy() for part in outcome[1:4])
            reward[slots], terminated[slots], truncated[slots] = 0.0, False, False
            self._over = terminated | truncated
        return self._face.observe(), reward, terminated, truncated, self._info(outcome, slots)

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
