"""HighwayMerge: point masses by Euler steps, drivers that give way or close up, rewards and errors by hand."""

import numpy as np
import pytest

from metabench import SlotRng, make, make_vec, spec
from metabench.families.highway_merge import CARS, DT, LENGTH, MAX_ACCELERATION, natural_gap
from metabench.physics.highway_merge import HEADWAY, HURRY, JAM_DISTANCE, ZONE, driver

IDS = ["HighwayMerge-v0", "HighwayMergeDiscrete-v0", "HighwayMergeHidas-v0"]


def columns(id):
    """The names of the observation's columns, and where positions and speeds of the vehicles lie among them."""
    names = [f.name for f in spec(id).family().observation_fields]
    vehicles = [n.removesuffix("_position") for n in names if n.endswith("_position")]
    return [names.index(f"{v}_position") for v in vehicles], [names.index(f"{v}_speed") for v in vehicles]


@pytest.mark.parametrize("id", IDS)
def test_a_physics_decoder_describes_it_exactly(id):
    """p' = p + v dt and v' = v + a dt with |a| <= 3 m/s^2, for every vehicle, found by the names of the columns."""
    position, speed = columns(id)
    assert len(position) == len(speed) == 1 + CARS
    family, rng = spec(id).family(), np.random.default_rng(0)
    tasks = np.concatenate([spec(id).table().rows[split] for split in ("train", "test", "ood")])
    context = family.context_type(*tasks.T)
    state = family.initial(context, SlotRng.from_seeds(np.arange(len(tasks))))
    largest = 0.0
    for _ in range(family.horizon):
        action = rng.integers(3, size=len(tasks)) if family.discrete else rng.uniform(-2, 2, (len(tasks), 1))
        after = family.transition(state, action, context, SlotRng.from_seeds([]))
        live = ~state.crashed
        if not live.any():
            break
        assert np.array_equal(after.position[live], (state.position + state.speed * DT)[live])
        acceleration = (after.speed - state.speed)[live] / family.dt
        largest = max(largest, abs(acceleration).max())
        assert (after.speed >= 0).all()
        observed = family.observation(after)
        assert np.array_equal(observed[:, position], after.position.astype(np.float32))
        assert np.array_equal(observed[:, speed], after.speed.astype(np.float32))
        state = after
    assert largest <= MAX_ACCELERATION + 1e-9 and largest > 2.9


def test_the_driver_model_by_hand():
    assert driver.py_func(10.0, 1e9, 0.0, 14.0, 2.0, 0.25, 2.0) == pytest.approx(2 * (1 - (10 / 14) ** 4))
    wish = 2 + 10 * 0.25 + 10 * 3 / (2 * 2)  # jam distance, headway, approach at 3 m/s with sqrt(a b) = 2
    expected = 2 * (1 - (10 / 14) ** 4 - (wish / 8) ** 2)
    assert driver.py_func(10.0, 8.0, 7.0, 14.0, 2.0, 0.25, 2.0) == pytest.approx(expected)
    speed = np.array([13.0])  # in a column with natural gaps nobody brakes or accelerates
    gap = float(natural_gap(speed)[0])
    assert driver.py_func(13.0, gap, 13.0, HURRY * 13.0, 2.0, HEADWAY, JAM_DISTANCE) == pytest.approx(0.0, abs=1e-12)


def scene(family, ego, ego_speed=13.0, speed=13.0, gap=None, first=20.0):
    """A column at one speed whose first car is at `first`, and the ego."""
    gap = float(natural_gap(np.array([speed]))[0]) if gap is None else gap
    cars = first - np.arange(CARS) * (gap + LENGTH)
    return family.place(np.array([[ego, *cars]]), np.array([[ego_speed, *[speed] * CARS]]))


def follower(family, state):
    """The car behind the ego."""
    return 1 + int(np.flatnonzero(state.position[0, 1:] < state.position[0, 0])[0])


@pytest.mark.parametrize(("courtesy", "sign"), [(-1.0, 1), (-0.3, 1), (0.3, -1), (1.0, -1)])
def test_courtesy_opens_or_closes_the_gap(courtesy, sign):
    family = spec("HighwayMerge-v0").family()
    context = family.context_type(np.array([13.0]), np.array([courtesy]))
    before = scene(family, ego=-20.0)
    answers = follower(family, before)
    after = family.transition(before, np.zeros((1, 1)), context, SlotRng.from_seeds([]))
    change = (after.speed - before.speed)[0] / DT
    assert np.sign(change[answers]) == sign
    others = [i for i in range(1, 1 + CARS) if i != answers]
    assert abs(change[others]).max() < 1e-9  # nobody else sees the ego
    unseen = scene(family, ego=-ZONE - 0.1)
    after = family.transition(unseen, np.zeros((1, 1)), context, SlotRng.from_seeds([]))
    assert abs(after.speed - unseen.speed).max() < 1e-9  # nor does anybody before the last 30 m


def test_more_courtesy_more_room():
    family = spec("HighwayMerge-v0").family()
    courtesies = np.linspace(-1, 1, 9)
    context = family.context_type(np.full(9, 13.0), courtesies)
    one = scene(family, ego=-29.0, first=20.0)
    state = type(one)(*(np.repeat(a, 9, axis=0) for a in one))
    car = follower(family, one)
    for _ in range(10):
        state = family.transition(state, np.zeros((9, 1)), context, SlotRng.from_seeds([]))
    room = state.position[:, car - 1] - state.position[:, car] - LENGTH
    assert (np.diff(room) >= -1e-9).all()
    natural = natural_gap(np.array([13.0]))[0]
    assert room[0] < natural - 1.0 and natural + 2.0 < room[-1]


@pytest.mark.parametrize(
    ("decrease", "deceleration", "brakes"), [(4.0, 1.0, True), (0.5, 1.0, False), (4.0, 3.0, False)]
)
def test_hidas_drivers_brake_if_it_makes_the_gap_and_else_close_up(decrease, deceleration, brakes):
    family = spec("HighwayMergeHidas-v0").family()
    context = family.context_type(np.array([decrease]), np.array([deceleration]))
    before = scene(family, ego=-17.0, first=-20.0 + 3 * 11.0)
    answers = follower(family, before)
    changes, state = [], before
    for _ in range(6):
        after = family.transition(state, np.zeros((1, 1)), context, SlotRng.from_seeds([]))
        changes.append((after.speed - state.speed)[0, answers] / DT)
        state = after
    if brakes:
        assert min(changes) == pytest.approx(-deceleration, abs=1e-6)
        assert state.speed[0, answers] >= 13.0 - decrease - 1e-9
    else:  # it closes up
        assert changes[0] > 1.0


def test_rewards_by_hand():
    family = spec("HighwayMerge-v0").family()
    context = family.context_type(np.array([13.0]), np.array([0.0]))

    def reward(state, action):
        after = family.transition(state, np.array([[action]]), context, SlotRng.from_seeds([]))
        return family.reward(state, np.array([[action]]), after, context)[0], after

    value, _ = reward(scene(family, ego=-60.0), 0.5)  # 2.6 m of ramp, 1.5 m/s^2 for 0.2 s
    assert value == pytest.approx(0.02 * 2.6 - 0.02 * 0.2 * 1.5**2)
    value, after = reward(scene(family, ego=-1.0, first=-40.0), 0.0)
    assert value == pytest.approx(0.02 * 2.6 + 2.0) and not after.crashed[0]
    value, after = reward(scene(family, ego=1.0, first=-40.0), 0.0)
    assert value == pytest.approx(0.1 * 2.6) and not family.success(after)[0]
    value, after = reward(scene(family, ego=4.0, first=-40.0), 0.0)
    assert family.success(after)[0]
    value, after = reward(scene(family, ego=-1.0, first=4.4), 0.0)  # merges within 1 m of bumpers
    assert value == pytest.approx(0.02 * 2.6 + 2.0 - 5.0) and after.crashed[0] and family.terminal(after)[0]


def test_the_ego_keeps_its_limits():
    env = make("HighwayMerge-v0", split="test")
    env.reset(seed=0)
    speeds = [env.step(np.array([100.0]))[0][1 + CARS] for _ in range(15)]  # clipped
    assert max(speeds) == pytest.approx(16.0)
    env.reset(seed=0)
    speeds = [env.step(np.array([-1.0]))[0][1 + CARS] for _ in range(40)]
    assert min(speeds) == 0.0


def test_discrete_actions_move_a_set_speed():
    env = make("HighwayMergeDiscrete-v0")
    observation, _ = env.reset(seed=1)
    start = observation[-1]
    assert start == observation[1 + CARS]
    observation, *_ = env.step(0)
    assert observation[-1] == pytest.approx(start - 2.0)
    assert observation[1 + CARS] == pytest.approx(start - MAX_ACCELERATION * DT, abs=1e-5)
    for _ in range(10):
        observation, *_ = env.step(1)
    assert observation[1 + CARS] == pytest.approx(start - 2.0, abs=0.1)


def test_parts_on_threads_give_the_same_numbers():
    def play(threads):
        env = make_vec("HighwayMerge-v0", 300)
        env.family.threads, env.family.least_slots = threads, 64
        env.reset(seed=0)
        env.action_space.seed(0)
        record = [env.step(env.action_space.sample())[:2] for _ in range(70)]
        env.family.threads, env.family.least_slots = None, type(env.family).least_slots
        return record

    assert all(
        np.array_equal(a, b) for one, two in zip(play(1), play(3), strict=True) for a, b in zip(one, two, strict=True)
    )


def test_splits():
    """R16 is a grid, R8 half of it; tests lie inside it, the rest outside, on the table as by name."""
    for id in IDS:
        table = spec(id).table()
        assert [table.size(s) for s in ("train", "R16", "R8", "test", "ood")] == [16, 16, 8, 20, 20]
        assert np.array_equal(table.rows["train"], table.rows["R16"])
        low, high = table.rows["train"].min(axis=0), table.rows["train"].max(axis=0)
        inside = ((table.rows["test"] > low) & (table.rows["test"] < high)).all(axis=1)
        outside = ((table.rows["ood"] < low) | (table.rows["ood"] > high)).any(axis=1)
        assert inside.all() and outside.all()
        assert {tuple(r) for r in table.rows["R8"].tolist()} < {tuple(r) for r in table.rows["R16"].tolist()}


def test_bad_input():
    env = make("HighwayMerge-v0")
    for task, words in (
        ({"traffic_speed": 13.0, "courtesy": 1.5}, "courtesy=1.5 is outside what HighwayMerge-v0 allows: -1 to 1"),
        ({"traffic_speed": float("nan"), "courtesy": 0.0}, "traffic_speed=nan is outside"),
        ({"traffic_speed": 13.0}, "lacks courtesy"),
    ):
        with pytest.raises(ValueError, match=words):
            env.reset(options={"task": task})
    env.reset(seed=0)
    with pytest.raises(ValueError, match="not finite"):
        env.step(np.array([np.nan]))
    with pytest.raises(ValueError, match="unknown control 'fly'; available: continuous, discrete"):
        type(env.family)("fly")


def test_impossible_traffic():
    family = spec("HighwayMerge-v0").family()
    with pytest.raises(ValueError, match="cars 1 and 2 overlap or are not in order"):
        scene(family, ego=-20.0, gap=-1.0)
    with pytest.raises(ValueError, match="the ego and car 2 overlap on the main road"):
        scene(family, ego=20.0 - 11.0, gap=6.0)
    with pytest.raises(ValueError, match="finite"):
        scene(family, ego=np.nan)
    with pytest.raises(ValueError, match="0 to 30 m/s"):
        scene(family, ego=-20.0, ego_speed=-1.0)
    with pytest.raises(ValueError, match=r"must be \[B, 9\]"):
        family.place(np.zeros((1, 3)), np.zeros((1, 3)))
