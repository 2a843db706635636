"""Sessions: their lengths, what follows them, and what a description may say."""

from dataclasses import dataclass

import numpy as np
import pytest

from metabench import SlotRng, TaskTable, make_vec, param, spec
from metabench.drift import NEVER, parse_sessions
from metabench.tasks import stack

GRID, POINT = spec("GridSwitch-v0").table(), spec("PointRobot-v0").table()
CHAIN = {"paying": [[0.2, 0.8], [0.8, 0.2]]}


def streams(count):
    return SlotRng.from_seeds(range(count))


@pytest.mark.parametrize("p", [0.07, 0.5, 1.0])
def test_lengths_are_geometric(p):
    lengths = parse_sessions({"kind": "geometric", "p": p}, POINT, "train").lengths(streams(40_000))
    assert lengths.min() >= 1
    for k in range(1, 6):
        expected = (1 - p) ** (k - 1) * p
        assert abs((lengths == k).mean() - expected) < 5 * np.sqrt(expected * (1 - expected) / 40_000) + 1e-12


def test_never_and_fixed():
    assert (parse_sessions({"kind": "geometric", "p": 0}, POINT, "train").lengths(streams(9)) == NEVER).all()
    assert (parse_sessions({"kind": "fixed", "length": 3}, POINT, "train").lengths(streams(9)) == 3).all()
    assert parse_sessions(None, POINT, "train").constant


def test_lengths_are_normal_and_no_shorter_than_the_shortest():
    """SeCBAD's int(max(N(80, 20), 10)); with a large deviation the shortest takes what lies below it."""
    told = {"kind": "normal", "mean": 80, "deviation": 20, "shortest": 10}
    lengths = parse_sessions(told, POINT, "train").lengths(streams(40_000))
    assert lengths.dtype == np.int64 and lengths.min() >= 10
    assert abs(lengths.mean() - 79.5) < 0.5 and abs(lengths.std() - 20.0) < 0.5  # rounded down: half a step less
    wide = parse_sessions(told | {"mean": 10, "deviation": 5}, POINT, "train").lengths(streams(40_000))
    assert abs((wide == 10).mean() - (0.5 + 0.0793)) < 0.01  # below 11: the half below 10, and [10, 11)
    assert (
        parse_sessions({"kind": "normal", "mean": -5, "deviation": 0}, POINT, "train").lengths(streams(9)) == 1
    ).all()


def test_a_family_can_have_normal_sessions():
    sessions = {"kind": "normal", "mean": 5, "deviation": 1, "shortest": 3}
    env = make_vec("PointRobot-v0", 50, sessions=sessions, expose_task=True)
    seen = [env.reset(seed=0)[0][:, -2:]]
    seen += [env.step(env.action_space.sample() * 0)[0][:, -2:] for _ in range(19)]
    changes = (np.diff(np.stack(seen), axis=0) != 0).any(2).sum(0)
    assert changes.min() >= 2 and changes.max() <= 6


def test_the_chain_follows_its_matrix():
    chain = {"paying": [[0.1, 0.9], [0.5, 0.5]]}
    drift = parse_sessions({"kind": "geometric", "p": 0.1, "chain": chain}, GRID, "train")
    rng = streams(20_000)
    context = drift.begin(stack(GRID.context_type, GRID.draw(rng, "train").values), rng)
    assert abs(context.paying.mean() - 0.5) < 0.02
    after = drift.change(context, rng)
    for state in (0, 1):
        share = after.paying[context.paying == state].mean()
        assert abs(share - chain["paying"][state][1]) < 0.02
    assert np.array_equal(after.goal_a, context.goal_a)


def test_resampling_draws_from_the_split():
    drift = parse_sessions({"kind": "fixed", "length": 2}, POINT, "test")
    context = stack(POINT.context_type, POINT.rows["train"][:5])
    after = drift.change(context, streams(5))
    goals = np.stack([after.goal_x, after.goal_y], axis=1)
    assert {tuple(g) for g in goals.tolist()} <= {t.context for t in POINT.fixed("test")}


def test_fixed_parameters_outlive_sessions():
    """A session may change the wish; the body that has it stays."""

    @dataclass(frozen=True)
    class Person:
        wish: np.ndarray = param(0, 9)
        body: np.ndarray = param(0, 9, fixed=True)

    rows = np.array([[k, 9 - k] for k in range(10)], dtype=float)
    drift = parse_sessions({"kind": "fixed", "length": 2}, TaskTable("Person", Person, {"train": rows}), "train")
    context = stack(Person, rows.repeat(40, axis=0))
    after = drift.change(context, streams(400))
    assert np.array_equal(after.body, context.body)
    assert len(set(after.wish.tolist())) == 10 and (after.wish != context.wish).mean() > 0.8


def test_any_family_drifts_and_the_observation_does_not_tell():
    env = make_vec("PointRobot-v0", 256, sessions={"kind": "geometric", "p": 0.3}, expose_task=True)
    observation, info = env.reset(seed=0)
    action, total = np.zeros((256, 2), np.float32), 0
    for _ in range(19):
        before, (observation, reward, _, _, info) = observation, env.step(action)
        changed = (before[:, 2:] != observation[:, 2:]).any(axis=1)
        assert not (changed & ~info["session_ended"]).any()
        expected = -np.hypot(before[:, 2], before[:, 3])  # the reward is of the session that was on
        assert np.allclose(reward, expected, atol=1e-6)
        assert (observation[:, :2] == 0).all()
        total += info["session_ended"].sum()
    assert np.array_equal(info["session"].sum(), total)
    assert abs(total / (256 * 19) - 0.3) < 0.03


def test_switches_come_after_the_reward_and_follow_p():
    env = make_vec("GridSwitch-v0", 4096, expose_task=True)
    observation, _ = env.reset(seed=1)
    ends = changes = 0
    for _ in range(59):
        before, (observation, _, _, _, info) = observation, env.step(np.zeros(4096, dtype=np.int64))
        ends += info["session_ended"].mean()
        changes += (before[:, -1] != observation[:, -1]).mean()
    assert abs(ends / 59 - 0.07) < 0.003
    assert abs(changes / ends - 0.8) < 0.02


@pytest.mark.parametrize(
    ("sessions", "words"),
    [
        ({"kind": "geometrical"}, "unknown kind of sessions 'geometrical'; did you mean 'geometric'"),
        ({}, "unknown kind of sessions None"),
        ({"kind": "geometric"}, r"need p, the probability of an end after each step, in \[0, 1\]; got None"),
        ({"kind": "geometric", "p": 1.5}, "got 1.5"),
        ({"kind": "geometric", "p": float("nan")}, "got nan"),
        ({"kind": "normal", "mean": 80}, "mean and deviation"),
        ({"kind": "normal", "mean": 80, "deviation": -1}, "deviation of at least 0"),
        ({"kind": "normal", "mean": 80, "deviation": 1, "shortest": 0}, "shortest length of at least 1"),
        ({"kind": "normal", "mean": 80, "deviation": 1, "length": 3}, "take no 'length'"),
        ({"kind": "normal", "mean": float("nan"), "deviation": 1}, "normal sessions need"),
        ({"kind": "fixed", "length": 0}, "whole number of steps of at least 1; got 0"),
        ({"kind": "fixed", "length": 2.5}, "got 2.5"),
        ({"kind": "constant", "p": 0.1}, "constant sessions take no 'p'; they take nothing"),
        ({"kind": "geometric", "p": 0.1, "chain": {"goal_x": [[1.0]]}}, r"exactly its latent fields \(none\)"),
    ],
)
def test_bad_descriptions(sessions, words):
    with pytest.raises(ValueError, match=words):
        parse_sessions(sessions, POINT, "train")


@pytest.mark.parametrize(
    ("sessions", "words"),
    [
        (None, "cannot be constant"),
        ({"kind": "geometric", "p": 0.1}, r"exactly its latent fields \(paying\)"),
        ({"kind": "geometric", "p": 0.1, "chain": {"paying": [[0.5, 0.6], [0.5, 0.5]]}}, "2 x 2 matrix"),
        ({"kind": "geometric", "p": 0.1, "chain": {"paying": [[1.0]]}}, "2 x 2 matrix"),
    ],
)
def test_bad_descriptions_of_latents(sessions, words):
    with pytest.raises(ValueError, match=words):
        parse_sessions(sessions, GRID, "train")
