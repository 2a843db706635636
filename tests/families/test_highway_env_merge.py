"""HighwayEnvMerge against highway-env itself: state, observation, reward and end, step for step."""

import gymnasium as gym
import numpy as np
import pytest

from metabench import SlotRng, make, make_vec, spec
from metabench.families.highway_env_merge import Drivers, HighwayEnvMerge, ReferenceMerge, Scene, discrete_controls
from metabench.physics.highway_env_merge import LANE, SPEED, TIMER, X, Y, nearest_lane
from metabench.physics.highway_env_world import LANES, World

CONTROLS = {"meta": "HighwayEnvMerge-v0", "discrete": "HighwayEnvMergeDiscrete-v0"}
TOLERANCE = 1e-12
STANDING = 1.0  # m/s; highway-env divides by speeds: of a car that stands, steering magnifies rounding without limit


def own_drivers(count):
    return Drivers(*(np.full(count, value) for value in (1.5, 10.0, 0.0, 20.0)))


def scene(world):
    return Scene(*(rows[None] for rows in world.get()))


def compare_episodes(control, episodes, seed, longest=40):
    """Episodes of highway-env from its own resets, ours beside it, to their end or until a car stands; the steps."""
    world, family, rng, steps = World(control), HighwayEnvMerge(control), np.random.default_rng(seed), 0
    drivers = own_drivers(1)
    for episode in range(episodes):
        first, _ = world.env.reset(seed=seed + episode)
        state = scene(world)
        assert np.array_equal(family.observation(state)[0], first.ravel())
        for _ in range(longest):
            action = rng.integers(family.action_space.n, size=1)
            observation, reward, terminated, _, _ = world.env.step(int(action[0]))
            after, theirs = family.transition(state, action, drivers, SlotRng.from_seeds([])), scene(world)
            assert np.array_equal(after.status, theirs.status), f"episode {episode}"
            # Of two cars in parallel, a crash pushes along either's axis: which of the two is a matter of rounding.
            near = 1e-6 if after.status[:, :, 2].any() else TOLERANCE
            assert abs(after.motion - theirs.motion).max() <= near, f"episode {episode}"
            assert np.allclose(family.observation(after)[0], observation.ravel(), rtol=0, atol=1e-7)
            assert family.reward(state, action, after, drivers)[0] == pytest.approx(reward, abs=TOLERANCE)
            assert family.terminal(after)[0] == terminated
            state, steps = after, steps + 1
            if terminated or abs(theirs.motion[0, :, SPEED]).min() < STANDING:
                break
    return steps


@pytest.mark.parametrize("control", CONTROLS)
def test_episodes_equal_highway_env(control):
    assert compare_episodes(control, 5, seed=0) > 30


@pytest.mark.slow
@pytest.mark.parametrize("control", CONTROLS)
def test_hundreds_of_episodes_equal_highway_env(control):
    assert compare_episodes(control, 240, seed=1000) > 1800


def compare_steps(control, episodes, steps, seed):
    """Other drivers, and on beyond crashes: every step from highway-env's state.

    Not whole episodes: where cars come to a stand, highway-env divides by their speed, and a difference in the last
    digit of one step is one of centimetres a few steps later.
    """
    ours, theirs, rng = HighwayEnvMerge(control), ReferenceMerge(control), np.random.default_rng(seed)
    low, high = (0.5, 5.0, 0.0, 15.0), (3.0, 20.0, 1.0, 32.0)
    drivers = Drivers(*rng.uniform(low, high, (episodes, 4)).T)
    state, streams = ours.initial(drivers, SlotRng.from_seeds(seed + np.arange(episodes))), SlotRng.from_seeds([])
    crashed = 0
    for _ in range(steps):
        action = rng.integers(ours.action_space.n, size=episodes)
        a, b = (family.transition(state, action, drivers, streams) for family in (ours, theirs))
        assert np.array_equal(a.status, b.status)
        assert abs(a.motion - b.motion).max() <= 1e-9
        assert np.allclose(ours.observation(a), theirs.observation(b), rtol=0, atol=1e-6)
        rewards = (family.reward(state, action, b, drivers) for family in (ours, theirs))
        assert np.allclose(*rewards, rtol=0, atol=TOLERANCE)
        state, crashed = b, crashed + a.status[:, :, 2].sum()
    return crashed


@pytest.mark.parametrize("control", CONTROLS)
def test_steps_with_other_drivers_and_beyond_crashes(control):
    assert compare_steps(control, 4, 14, seed=7) > 0


@pytest.mark.slow
@pytest.mark.parametrize("control", CONTROLS)
def test_many_steps_with_other_drivers_and_beyond_crashes(control):
    assert compare_steps(control, 80, 25, seed=70) > 100


@pytest.mark.parametrize("control", CONTROLS)
def test_the_reference_backend_is_the_same_environment(control):
    envs = [make_vec(CONTROLS[control], 3, backend=backend) for backend in ("batched", "reference")]
    observations = [env.reset(seed=4)[0] for env in envs]
    assert np.array_equal(*observations)
    envs[0].action_space.seed(0)
    for _ in range(14):
        action = envs[0].action_space.sample()
        (o, r, end, cut, _), (p, s, stop, over, _) = (env.step(action) for env in envs)
        assert np.allclose(o, p, rtol=0, atol=1e-6) and np.allclose(r, s, rtol=0, atol=TOLERANCE)
        assert np.array_equal(end, stop) and np.array_equal(cut, over)


def test_starts_are_drawn_as_highway_env_draws_them():
    world, family = World("meta"), HighwayEnvMerge()
    drivers = own_drivers(400)
    ours = family.initial(drivers, SlotRng.from_seeds(np.arange(400)))
    theirs = []
    for seed in range(60):
        world.env.reset(seed=seed)
        theirs.append(world.get())
    motion, status = (np.stack(rows) for rows in zip(*theirs, strict=True))
    fixed = [(0, slice(None, 5)), (4, slice(None))]
    for car, columns in fixed:
        assert np.array_equal(ours.motion[0, car, columns], motion[0, car, columns])
    for car in (1, 2, 3):
        for values, expected in ((motion, ours.motion),):
            low, high = expected[:, car, :4].min(axis=0), expected[:, car, :4].max(axis=0)
            assert (values[:, car, :4] >= low - 0.3).all() and (values[:, car, :4] <= high + 0.3).all()
        assert set(status[:, car, LANE].tolist()) == set(ours.status[:, car, LANE].tolist()) == {0, 1}
    timers = (ours.motion[:, 1:, X] + ours.motion[:, 1:, Y]) * np.pi % 1.0
    assert np.array_equal(ours.motion[:, 1:, TIMER], timers)


def test_the_discrete_controls_are_highway_envs():
    world, seen = World("discrete"), []
    for action in range(9):
        world.env.reset(seed=0)
        world.env.action_type.act(action)
        seen.append([world.env.vehicle.action["steering"], world.env.vehicle.action["acceleration"]])
    assert np.array_equal(discrete_controls(), np.array(seen, dtype=np.float64))


def test_the_nearest_lane_is_highway_envs():
    network, rng = World("meta").env.road.network, np.random.default_rng(0)
    for lane in range(9):  # from every lane, near it and far off
        for _ in range(60):
            x, y, heading = rng.uniform(-20, 480), rng.uniform(-4, 18), rng.choice([0.0, rng.normal(0, 0.3)])
            expected = LANES.index(tuple(network.get_closest_lane_index(np.array([x, y]), heading)))
            assert nearest_lane(x, y, heading, lane) == expected, (x, y, heading, lane)


def test_pictures_are_alike():
    """Ours is drawn, the reference's is highway-env's own viewer."""
    pictures = []
    for backend in ("batched", "reference"):
        env = make("HighwayEnvMerge-v0", backend=backend, render_mode="rgb_array")
        env.reset(seed=0)
        pictures.append(env.render())
    assert [p.shape for p in pictures] == [(150, 600, 3), (150, 600, 3)]
    green = [((p[..., 1] > 150) & (p[..., 0] < 100) & (p[..., 2] < 60)) for p in pictures]
    middles = [np.argwhere(g).mean(axis=0) for g in green]
    assert abs(middles[0] - middles[1]).max() < 12  # the ego stands at the same place


def test_threads_give_the_same_numbers():
    def play(threads):
        env = make_vec("HighwayEnvMerge-v0", 40)
        env.family.threads, env.family.least_slots = threads, 8
        env.reset(seed=0)
        env.action_space.seed(0)
        record = [env.step(env.action_space.sample())[:2] for _ in range(15)]
        env.family.threads, env.family.least_slots = None, type(env.family).least_slots
        return record

    for one, two in zip(play(1), play(3), strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))


def test_bad_input():
    family = spec("HighwayEnvMerge-v0").family()
    cars = [np.array([[0, 1, 1]]), np.array([[90.0, 70.0, 5.0]]), np.array([[29.0, 31.0, 31.5]])]
    assert family.place(*cars).motion.shape == (1, 5, 8)
    with pytest.raises(ValueError, match="impossible traffic in slot 0: vehicles 0 and 3 overlap"):
        family.place(cars[0], np.array([[90.0, 70.0, 27.0]]), cars[2])
    with pytest.raises(ValueError, match="all finite"):
        family.place(cars[0], np.array([[90.0, 70.0, np.nan]]), cars[2])
    with pytest.raises(ValueError, match=r"must be \[B, 3\]"):
        family.place(cars[0][:, :2], *cars[1:])
    with pytest.raises(ValueError, match="unknown control 'wheel'; available: meta, discrete"):
        HighwayEnvMerge("wheel")
    with pytest.raises(ValueError, match="action 5 does not exist"):
        env = make("HighwayEnvMerge-v0")
        env.reset(seed=0)
        env.step(5)
    with pytest.raises(ValueError, match="politeness=2 is outside"):
        gym.make("metabench/HighwayEnvMerge-v0").reset(
            options={"task": {"time_wanted": 1.5, "distance_wanted": 10, "politeness": 2, "speed_limit": 20}}
        )
