"""The property tests every family must pass, for ours and for third parties': `check_family("MyFamily-v0")`."""

from __future__ import annotations

import copy
import json
import pickle
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils.env_checker import check_env

from metabench.envs import MetaVectorEnv
from metabench.registry import NAMESPACE, Spec, make, make_vec, spec
from metabench.rng import Array

BATCH = 5  # slots compared with single environments
BEYOND = 10  # steps played beyond the first trial: enough to see the next one begin
LONGEST = 600  # steps played at most: of episodes of 500 steps, enough to see the second begin


def check_family(id: str) -> None:
    """Checks one registered benchmark; AssertionError in one sentence for the first property that fails.

    Gymnasium's own checker; JSON specs; named and varying observation columns; bounds; frozen tables whose evaluation
    splits share no task with `train`; the same seed giving the same bytes; rows of a batch equal to single environments
    across resets; no memory shared between steps; pickling and deep-copying in mid-episode.
    """
    chosen = spec(id)
    _check_spec(chosen)
    _check_tables(chosen)
    check_gymnasium(chosen.id)
    _check_observations(chosen)
    _check_determinism(chosen)
    _check_rows(chosen)
    _check_memory(chosen)
    _check_copies(chosen)


def check_gymnasium(id: str, render_mode: str | None = None) -> None:
    """Gymnasium's `check_env`; that a bound is infinite is no fault where physics knows none."""
    env = gym.make(NAMESPACE + id, render_mode=render_mode, disable_env_checker=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*A Box observation space (minimum|maximum) value is .?infinity")
        check_env(env.unwrapped, skip_render_check=render_mode is None)
    env.close()


def _steps(chosen: Spec) -> int:
    return min(chosen.horizon * chosen.episodes + BEYOND, LONGEST)


def _actions(env: MetaVectorEnv, steps: int, seed: int = 0) -> list[Array]:
    space = copy.deepcopy(env.action_space)
    space.seed(seed)
    return [space.sample() for _ in range(steps)]


def _check_spec(chosen: Spec) -> None:
    family = chosen.family()
    assert Spec.from_json(chosen.to_json()) == chosen, f"{chosen.id}: the spec does not survive JSON"
    assert chosen.horizon == family.horizon, (
        f"{chosen.id}: the spec's horizon {chosen.horizon} is not the family's {family.horizon}"
    )
    assert chosen.sources, f"{chosen.id}: the spec names no source"
    gym_spec = gym.spec(NAMESPACE + chosen.id)
    assert gym_spec.max_episode_steps == chosen.horizon, f"{chosen.id}: Gymnasium was told another horizon"
    assert json.loads(gym_spec.to_json())["kwargs"] == {"benchmark": chosen.id}, (
        f"{chosen.id}: Gymnasium's spec is not plain JSON"
    )
    names = [f.name for f in family.observation_fields]
    assert len(names) == len(set(names)), f"{chosen.id}: two observation columns have one name"
    count = getattr(family.action_space, "n", None) or family.action_space.shape[0]  # pyright: ignore[reportOptionalSubscript]
    assert len(family.action_meanings) == count, f"{chosen.id}: action_meanings do not name every action"


def _check_tables(chosen: Spec) -> None:
    table = chosen.table()
    for split in ("train", "test", "ood"):
        assert split in table.splits, f"{chosen.id}: there is no split {split!r}"
    for split in table.splits:
        table.check_values(table.rows[split])
        rows = [task.context for task in table.fixed(split)]
        assert len(rows) == len(set(rows)), f"{chosen.id}: a task stands twice in the split {split!r}"
    if chosen.shared_tasks:
        return
    train = {task.context for task in table.fixed("train")}
    for split in ("test", "ood"):
        shared = train & {task.context for task in table.fixed(split)}
        assert not shared, f"{chosen.id}: {len(shared)} tasks of {split!r} are training tasks"


def _check_observations(chosen: Spec) -> None:
    env = make_vec(chosen.id, 64, split="train")
    observation, _ = env.reset(seed=0)
    seen = [observation]
    for action in _actions(env, _steps(chosen)):
        observation, reward, *_ = env.step(action)
        assert env.observation_space.contains(observation), f"{chosen.id}: an observation is outside the space"
        assert reward.dtype == np.float64, f"{chosen.id}: rewards are {reward.dtype}, not float64"
        assert np.isfinite(reward).all(), f"{chosen.id}: a reward is not finite"
        seen.append(observation)
    spread = np.ptp(np.concatenate(seen), axis=0)
    columns = zip(chosen.family().observation_fields, spread, strict=True)
    constant = [f.name for f, s in columns if s == 0 and not f.constant]
    assert not constant, f"{chosen.id}: the observation columns {constant} never change"


def _rollout(chosen: Spec, seed: int, **kwargs: Any) -> list[Array]:
    env = make_vec(chosen.id, BATCH, **kwargs)
    record = [env.reset(seed=seed)[0]]
    for action in _actions(env, _steps(chosen)):
        observation, reward, terminated, truncated, info = env.step(action)
        record += [observation, reward, terminated, truncated, info["task_id"], info["session_ended"]]
    return record


def _equal(a: list[Array], b: list[Array]) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def _check_determinism(chosen: Spec) -> None:
    first = _rollout(chosen, seed=3)
    np.random.rand(7)  # noqa: NPY002  somebody else's use of the global stream must not matter
    assert _equal(first, _rollout(chosen, seed=3)), f"{chosen.id}: the same seed gave other numbers"
    assert not _equal(first, _rollout(chosen, seed=4)), f"{chosen.id}: another seed gave the same numbers"


def _check_rows(chosen: Spec) -> None:
    for split in (*chosen.table().splits, "fresh"):
        env, singles = make_vec(chosen.id, BATCH, split=split), [make(chosen.id, split=split) for _ in range(BATCH)]
        observation, _ = env.reset(seed=11)
        alone = [single.reset(seed=11 + i)[0] for i, single in enumerate(singles)]
        assert np.array_equal(observation, np.stack(alone)), f"{chosen.id}: a batch starts otherwise than its singles"
        for action in _actions(env, _steps(chosen)):
            observation, reward, terminated, truncated, info = env.step(action)
            for i, single in enumerate(singles):
                o, r, end, cut, own = single.step(action[i])
                assert (r, end, cut) == (reward[i], terminated[i], truncated[i]), (
                    f"{chosen.id}: row {i} differs from its single"
                )
                if end or cut:
                    assert np.array_equal(o, info["final_obs"][i]), (
                        f"{chosen.id}: final_obs of row {i} differs from its single"
                    )
                    o, own = single.reset()
                assert np.array_equal(o, observation[i]), f"{chosen.id}: row {i} observes otherwise than its single"
                assert own["task_id"] == info["task_id"][i], f"{chosen.id}: row {i} plays another task than its single"


def _check_memory(chosen: Spec) -> None:
    env = make_vec(chosen.id, BATCH)
    held = [env.reset(seed=0)[0]]
    copies = [held[0].copy()]
    for action in _actions(env, _steps(chosen)):
        given = action.copy()
        observation, reward, *_, info = env.step(action)
        assert np.array_equal(action, given), f"{chosen.id}: step changed the actions it was given"
        held += [observation, reward, info["task_id"], info["episode_in_trial"]]
        copies += [x.copy() for x in held[-4:]]
    assert _equal(held, copies), f"{chosen.id}: a later step changed an array that an earlier one returned"


def _check_copies(chosen: Spec) -> None:
    env = make_vec(chosen.id, BATCH)
    env.reset(seed=5)
    actions = _actions(env, _steps(chosen))
    for action in actions[: chosen.horizon // 2]:
        env.step(action)
    twins = [env, copy.deepcopy(env), pickle.loads(pickle.dumps(env))]
    for action in actions:
        observations = [twin.step(action)[0] for twin in twins]
        assert all(np.array_equal(observations[0], o) for o in observations), (
            f"{chosen.id}: a copied environment goes its own way"
        )
