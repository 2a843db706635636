"""Offline episodes: rows, windows, histories and prompts against the plainest code there is."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from metabench_agents.sequence import episodes as data
from metabench_agents.sequence.episodes import Actions, Episodes

import metabench
from metabench.datasets import generate

BOX = spaces.Box(np.array([-0.1, 0.0], np.float32), np.array([0.1, 4.0], np.float32))
LENGTHS = [7, 3, 5, 7, 4, 6]
TASKS = [0, 1, 0, 1, 2, 0]


def raw(lengths=LENGTHS):
    rng = np.random.default_rng(0)
    return (
        [rng.normal(size=(n + 1, 3)) for n in lengths],
        [rng.uniform(BOX.low, BOX.high, (n, 2)) for n in lengths],
        [rng.normal(size=n) for n in lengths],
    )


@pytest.fixture
def episodes():
    return Episodes.of(*raw(), TASKS, Actions(BOX))


def test_rows_hold_every_step_once(episodes):
    seen, _, got = raw()
    rows, first = episodes.rows()
    assert len(rows) == sum(LENGTHS)
    assert torch.allclose(episodes.observation[rows], torch.tensor(np.concatenate([s[:-1] for s in seen])).float())
    assert torch.allclose(episodes.observation[rows + 1], torch.tensor(np.concatenate([s[1:] for s in seen])).float())
    assert torch.equal(episodes.reward[rows], torch.tensor(np.concatenate(got)).float())
    expected = np.concatenate([np.cumsum(r[::-1])[::-1] for r in got])
    assert torch.allclose(episodes.togo[rows], torch.tensor(expected).float(), atol=1e-6)
    assert torch.equal(rows - first, torch.cat([torch.arange(n) for n in LENGTHS]))
    assert torch.allclose(episodes.returns, torch.tensor([r.sum() for r in got]).float(), atol=1e-6)
    mean, std = episodes.scale()
    flat = np.concatenate([s[:-1] for s in seen])
    assert np.allclose(mean, flat.mean(0), atol=1e-6) and np.allclose(std, flat.std(0), atol=1e-6)
    best = [max(r.sum() for r, k in zip(got, TASKS, strict=True) if k == task) for task in range(3)]
    assert np.allclose(episodes.best(), best, atol=1e-6)


def test_actions_are_encoded_and_back(episodes):
    codec, done = Actions(BOX), np.concatenate(raw()[1]).astype(np.float32)
    code = codec.encode(torch.tensor(done))
    assert (code.abs() <= 1).all() and torch.allclose(code[:, 0], torch.tensor(done[:, 0] / 0.1))
    assert np.allclose(codec.to_env(code), done, atol=1e-6)
    assert BOX.contains(codec.to_env(torch.tensor([9.0, -9.0])))
    assert torch.equal(Actions(BOX, raw=True).encode(torch.tensor(done)), torch.tensor(done))
    for space in (spaces.Discrete(3), spaces.Box(-np.inf, np.inf, (2,))):
        with pytest.raises(ValueError, match="act in a bounded Box"):
            Actions(space)


def test_a_window_is_its_steps_and_says_where_the_episode_is_over(episodes):
    seen, _, got = raw()
    context = torch.arange(len(episodes.reward))[:, None].float()
    window = data.window_of(episodes, torch.tensor([1, 3]), torch.tensor([0, 2]), 4, context)
    assert window.valid.tolist() == [[True, True, True, False], [True] * 4]
    assert torch.allclose(window.observation[1], torch.tensor(seen[3][2:6]).float())
    assert torch.allclose(window.togo[0, :3], torch.tensor(np.cumsum(got[1][::-1])[::-1].copy()).float(), atol=1e-6)
    assert window.time.tolist() == [[0, 1, 2, 3], [2, 3, 4, 5]]
    assert window.context[1, :, 0].tolist() == (episodes.first[3] + torch.arange(2, 6)).tolist()
    assert torch.allclose(window.last_reward[1], torch.tensor(got[3][1:5]).float())
    assert window.last_reward[0].tolist()[0] == 0.0, "nothing came before the episode's first step"


@pytest.mark.parametrize("short", [False, True])
def test_every_window_is_as_likely_as_any_other(episodes, short):
    draws = 40_000
    which, start = data.draw_windows(episodes, draws, 4, torch.Generator().manual_seed(0), short=short)
    starts = [max(1, n - 1 if short else n - 3) for n in LENGTHS]
    expected = {(e, s) for e, n in enumerate(starts) for s in range(n)}
    pairs, counts = np.unique(np.stack([which, start], 1), axis=0, return_counts=True)
    assert {tuple(pair) for pair in pairs.tolist()} == expected
    even = draws / len(expected)
    assert (abs(counts - even) < 5 * np.sqrt(even)).all()


def test_history_stays_inside_the_episode(episodes):
    rows, first = episodes.rows()
    before, inside = data.history(rows, first, 4)
    for row, start, history, real in zip(rows.tolist(), first.tolist(), before.tolist(), inside.tolist(), strict=True):
        expected = list(range(max(start, row - 4), row))
        assert [r for r, ok in zip(history, real, strict=True) if ok] == expected
        assert real == [False] * (4 - len(expected)) + [True] * len(expected)


def test_siblings_are_other_episodes_of_the_task(episodes):
    siblings, generator = data.Siblings(episodes), torch.Generator().manual_seed(0)
    which = torch.arange(6).repeat(3000)
    drawn = siblings.draw(which, generator)
    assert torch.equal(episodes.task[which], episodes.task[drawn])
    counts = torch.zeros(6, 6).index_put((which, drawn), torch.ones(()), accumulate=True)
    assert (counts.diagonal() == torch.tensor([0, 0, 0, 0, 3000, 0])).all()  # task 2 has one episode only
    assert ((counts[0, [2, 5]] - 1500).abs() < 150).all() and counts[1, 3] == 3000


def test_a_prompt_is_its_segment(episodes):
    seen, _, got = raw()
    prompt = data.prompt_of(episodes, torch.tensor([0]), torch.tensor([2]), 3)
    assert torch.allclose(prompt.observation[0], torch.tensor(seen[0][2:5]).float())
    assert torch.allclose(prompt.togo[0], torch.tensor([got[0][t:].sum() for t in (2, 3, 4)]).float(), atol=1e-6)
    assert prompt.time.tolist() == [[2, 3, 4]]


def test_ranks_are_the_shares_of_the_tasks_other_episodes_that_are_worse():
    seen, done, got = raw([2, 2, 2, 2, 2, 2])
    returns = [3.0, 5.0, 1.0, 5.0, 9.0, 3.0]
    got = [np.array([value, 0.0]) for value in returns]
    episodes = Episodes.of(seen, done, got, TASKS, Actions(BOX))
    for index, task in enumerate(TASKS):
        others = [returns[i] for i in range(6) if i != index and TASKS[i] == task]
        worse = sum(1.0 if r < returns[index] else 0.5 if r == returns[index] else 0.0 for r in others)
        assert episodes.ranks[index] == (worse / len(others) if others else 1.0)
    window = data.window_of(episodes, torch.tensor([5, 2]), torch.tensor([0, 1]), 2, torch.zeros(18, 0))
    assert torch.equal(window.rank, episodes.ranks[torch.tensor([5, 2])][:, None].expand(2, 2))


def test_segment_sums():
    value = torch.rand(3, 9)
    expected = torch.stack([value[:, s : s + 4].sum(-1) for s in range(6)], dim=1)
    assert torch.allclose(data.segment_sums(value, 4), expected, atol=1e-6)


def test_episodes_that_do_not_fit_together_are_refused():
    seen, done, got = raw()
    with pytest.raises(ValueError, match="episode 2 has 5 actions, 4 rewards and 6 observations"):
        Episodes.of(seen, done, [*got[:2], got[2][:4], *got[3:]], TASKS, Actions(BOX))
    with pytest.raises(ValueError, match="there is no episode"):
        Episodes.of([], [], [], [], Actions(BOX))


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A folder of data sets with one small set in it."""
    monkeypatch.setenv("METABENCH_DATA", str(tmp_path))
    generate("metabench/point-robot/mixed-v0", "train", episodes=4)


def test_a_data_set_is_loaded_row_by_row(library):
    codec = Actions(metabench.spec("PointRobot-v0").family().action_space)
    episodes = data.load_episodes("PointRobot-v0", "mixed", "train", codec)
    found = metabench.load_dataset("metabench/point-robot/mixed-v0", "train")
    assert len(episodes) == len(found) == 45 * 4 and episodes.horizon == 20
    for index in (0, 7, 179):
        episode, first = found[index], int(episodes.first[index])
        rows = slice(first, first + 20)
        assert np.array_equal(episodes.observation[rows], episode.observations)
        assert np.array_equal(episodes.observation[first + 20], episode.final_observation)
        assert np.allclose(episodes.action[rows] * 0.1, episode.actions, atol=1e-7)
        assert np.array_equal(episodes.reward[rows], episode.rewards)
        assert np.allclose(episodes.togo[rows], episode.returns_to_go, atol=1e-4)
        assert episodes.task[index] == episode.task


def test_a_set_of_another_benchmark_is_refused(library):
    codec = Actions(metabench.spec("SparsePointRobot-v0").family().action_space)
    with pytest.raises(ValueError, match="was played on PointRobot-v0, not on SparsePointRobot-v0"):
        data.load_episodes("SparsePointRobot-v0", "metabench/point-robot/mixed-v0", "train", codec)
    with pytest.raises(ValueError, match="make it: metabench dataset generate"):
        data.load_episodes("SparsePointRobot-v0", "expert", "train", codec)
