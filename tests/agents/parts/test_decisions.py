"""Views: what is shown, how long decisions stand, and that training and evaluation see the same."""

import numpy as np
import pytest
import torch
from metabench_agents.parts.decisions import DecidingAgent, deciding, make_viewed, merged, played
from metabench_agents.parts.view import NEAR, VIEWS, Sight, ViewConfig, extra_columns, near, sight_of, view_of

import metabench
from metabench.evaluation.play import Stream

ID = "HighwayMerge-v0"
FIELDS = metabench.spec(ID).family().observation_fields


def test_near_distances_are_those_of_the_nearest_masses():
    position = torch.tensor([[-10.0, 5.0, -2.0, -14.0, -40.0]])
    velocity = torch.tensor([[12.0, 11.0, 13.0, 10.0, 9.0]])
    told = dict(zip([f.name for f in NEAR], near(position, velocity)[0].tolist(), strict=True))
    assert told["ahead_gap"] == pytest.approx((8.0 - 6.0) / 3.0)
    assert told["ahead_speed"] == pytest.approx(0.5)
    assert told["ahead_closeness"] == pytest.approx(np.exp(6.0 - 8.0))
    assert told["behind_gap"] == pytest.approx((4.0 - 6.0) / 3.0)
    assert told["behind_speed"] == pytest.approx(-1.0)
    assert told["place"] == pytest.approx(np.tanh(-10.0 / 8.0))


def test_a_neighbour_that_is_not_there_is_far_and_as_fast():
    told = near(torch.tensor([[0.0, 50.0, 60.0]]), torch.tensor([[12.0, 11.0, 13.0]]))[0]
    names = [f.name for f in NEAR]
    assert told[names.index("behind_gap")] == pytest.approx((20.0 - 6.0) / 3.0)
    assert told[names.index("behind_speed")] == 0.0


def test_near_distances_need_point_masses():
    fields = metabench.spec("PointRobot-v0").family().observation_fields
    with pytest.raises(ValueError, match="near distances need point masses"):
        Sight(fields, ViewConfig(near=True), 20)


@pytest.mark.parametrize("view", [ViewConfig(), ViewConfig(near=True), ViewConfig(time=True), VIEWS[ID]])
def test_the_columns_are_named(view):
    sight = Sight(FIELDS, view, 55)
    shown = sight(torch.zeros(3, len(FIELDS)), torch.tensor([0, 27, 55]))
    assert shown.shape == (3, len(sight.fields)) and sight.extra == extra_columns(view)
    if view.time:
        assert shown[:, -1].tolist() == pytest.approx([-1.0, 27 / 55 * 2 - 1, 1.0], abs=1e-6)


def test_what_an_episode_paid_is_shown_but_for_its_last_reward():
    env = make_viewed("DarkKeyToDoor-v0", 16, ViewConfig(paid=True), episodes_per_task=3)
    shown, _ = env.reset(seed=0)
    assert [f.name for f in env.family.observation_fields] == ["column", "row", "paid"]
    draw, total, most = np.random.default_rng(0), np.zeros(16), 0.0
    assert (shown[:, -1] == 0).all()
    for tick in range(149):
        shown, reward, _, truncated, info = env.step(draw.integers(5, size=16))
        ended = (tick + 1) % 50 == 0
        assert (truncated == ended).all()
        last = np.stack(info["final_obs"]) if ended else shown
        assert np.array_equal(last[:, -1], total), "the sum before this step's reward"
        total, most = np.zeros(16) if ended else total + reward, max(most, last[:, -1].max())
        assert not ended or (shown[:, -1] == 0).all()
    assert most >= 1, "nothing was paid, so that nothing was tested"


def test_dreams_are_not_shown_what_was_paid():
    env = metabench.make_vec(ID, 1)
    with pytest.raises(ValueError, match=r"leave view\.paid out"):
        sight_of(env, ViewConfig(paid=True))
    with pytest.raises(ValueError, match=r"needs the episode's rewards"):
        Sight(FIELDS, ViewConfig(paid=True), 55)(torch.zeros(1, len(FIELDS)), torch.zeros(1))


def test_each_benchmark_has_one_view():
    assert view_of(ID) == ViewConfig(near=True, hold=5, time=True)
    assert view_of("GridSwitch-v0").plain


def test_a_held_decision_is_the_same_steps_played_one_by_one():
    view = ViewConfig(hold=5)
    slow, fast = (make_viewed(ID, 4, v) for v in (view, ViewConfig()))
    slow.reset(seed=3), fast.reset(seed=3)
    action = np.array([[0.5], [-1.0], [0.0], [1.0]], np.float32)
    for _ in range(2):
        shown, reward, *_ = slow.step(action)
        rewards = [fast.step(action) for _ in range(5)]
        assert np.allclose(reward, sum(step[1] for step in rewards))
        assert np.array_equal(shown, rewards[-1][0])
        assert played(slow, np.ones(4, bool)) == 20


def test_the_limit_is_a_true_end_where_time_is_shown():
    for view, ends in ((ViewConfig(hold=5), "truncated"), (ViewConfig(hold=5, time=True), "terminated")):
        env = make_viewed(ID, 2, view)
        env.reset(seed=0)
        for _ in range(11):
            _, _, terminated, truncated, _ = env.step(np.full((2, 1), -1.0, np.float32))
        assert {"truncated": truncated, "terminated": terminated}[ends].all()


class Recorder:
    """Acts by what it sees and writes down everything it is shown; its belief counts its decisions."""

    name, protocol = "recorder", "slots-2"

    def __init__(self):
        self.seen = []

    def begin(self, num_trials):
        return np.zeros(num_trials)

    def act(self, step, belief):
        self.seen.append((step, belief.copy()))
        return policy(step.observation), belief + 1


def policy(observation):
    return np.clip(np.sin(17 * observation[:, :1] + 3 * observation[:, -1:]), -0.2, 1).astype(np.float32)


def shown_in_training(view, count, decisions):
    """Timesteps of each slot, as a learner in `make_viewed`'s environment sees them."""
    env = make_viewed(ID, count, view, split="test", episodes_per_task=3)
    observation, _ = env.reset(seed=11, options={"task": np.arange(count)})
    stream, rows = Stream(observation, env.single_action_space), [[] for _ in range(count)]
    for _ in range(decisions):
        step = stream.timestep()
        action = policy(step.observation)
        for slot in range(count):
            rows[slot].append([np.asarray(column[slot], float) for column in step])
        observation, reward, terminated, truncated, info = env.step(action)
        stream.advance(action, observation, reward, terminated | truncated, info.get("final_obs"))
    return rows


SHOWN = [
    ViewConfig(hold=5),
    VIEWS[ID],
    ViewConfig(near=True, hold=4, time=True, whole=True),
    ViewConfig(hold=5, paid=True),
    ViewConfig(hold=4, time=True, whole=True, paid=True),
]


@pytest.mark.parametrize("view", SHOWN)
def test_an_agent_is_shown_in_evaluation_what_it_is_in_training(view):
    count, agent = 6, Recorder()
    playing = DecidingAgent(agent, Sight(FIELDS, view, 55), metabench.spec(ID).family().action_space)
    env = metabench.make_vec(ID, count, split="test", episodes_per_task=3)
    observation, _ = env.reset(seed=11, options={"task": np.arange(count)})
    stream, belief = Stream(observation, env.single_action_space), playing.begin(count)
    asked = [[] for _ in range(count)]
    for _ in range(110):
        step, before = stream.timestep(), len(agent.seen)
        action, belief = playing.act(step, belief)
        calls = agent.seen[before:]
        counts = [mine for _, mine in calls[1:]] + [belief.own] * bool(calls)  # after each of the calls
        for (told, mine), after in zip(calls, counts, strict=True):
            for slot in np.flatnonzero(after > mine):  # those that were asked in this call
                asked[slot].append([np.asarray(column[slot], float) for column in told])
        observation, reward, terminated, truncated, info = env.step(action)
        stream.advance(action, observation, reward, terminated | truncated, info.get("final_obs"))
    training = shown_in_training(view, count, 30)
    crashed = 0
    for slot in range(count):
        # the random streams of a slot differ once an episode has ended, so one episode is compared
        first = next(i for i, row in enumerate(training[slot]) if i and row[3])
        crashed += first < 11
        for ours, theirs in zip(asked[slot][: first + 1], training[slot][: first + 1], strict=True):
            for name, a, b in zip(("observation", "action", "reward", "first", "final"), ours, theirs, strict=True):
                if not (ours[3] and name == "observation"):
                    assert np.allclose(a, b, atol=1e-5), (slot, name)
    if not view.whole:
        assert crashed, "no episode ended early, so that nothing was tested of that"


def test_episodes_are_of_one_length_where_they_are_rested_out():
    rows = shown_in_training(ViewConfig(hold=5, time=True, whole=True), 20, 23)
    for row in rows:
        assert [bool(step[3]) for step in row] == [i % 11 == 0 for i in range(23)]


def test_a_belief_is_renewed_in_the_trials_that_decide():
    old = (np.zeros((2, 3)), torch.zeros(2), {"a": np.zeros(2)}, False)
    new = (np.ones((2, 3)), torch.ones(2), {"a": np.ones(2)}, True)
    a, b, c, d = merged(np.array([True, False]), new, old)
    assert a.tolist() == [[1, 1, 1], [0, 0, 0]] and b.tolist() == [1, 0] and c["a"].tolist() == [1, 0] and d


def test_the_plain_view_changes_nothing():
    agent = Recorder()
    assert deciding(agent, ID, ViewConfig()) is agent
    assert type(make_viewed(ID, 2, ViewConfig()).family) is type(metabench.spec(ID).family())
