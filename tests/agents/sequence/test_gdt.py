"""GDT is told the future of a step and nothing else, at play that of a demonstration; a run is its seed."""

import json

import numpy as np
import pytest
import torch
from metabench_agents.parts.config import with_settings
from metabench_agents.parts.run import Run, load_checkpoint
from metabench_agents.sequence import gdt
from metabench_agents.sequence.episodes import Actions, Episodes, draw_windows, window_of

import metabench
from metabench.plugins import load_plugin

ID = "PointRobot-v0"
SMALL = {
    "transformer.layers": 1,
    "transformer.width": 16,
    "transformer.window": 6,
    "fitting.updates": 30,
    "fitting.batch": 8,
    "fitting.warmup": 5,
    "statistic.bins": 7,
    "statistic.size": 5,
}
KINDS = ("categorical", "bidirectional")


def small(kind, **changes):
    return with_settings(gdt.Config(), SMALL | {"statistic.kind": kind} | changes)


def walks(benchmark, quality, split, codec, per=4):
    """Episodes of 20 steps that walk to each task's goal, some slower."""
    goals, rng = metabench.spec(benchmark).table().rows[split], np.random.default_rng(0)
    columns = [], [], [], []
    for task, goal in enumerate(goals):
        for number in range(per):
            place, seen, done, got = np.zeros(2), [np.zeros(2)], [], []
            for _ in range(20):
                action = np.clip((goal - place) * (number + 1) / per, -0.1, 0.1) + rng.normal(0.0, 0.01, 2)
                action = np.clip(action, -0.1, 0.1)
                place = place + action
                seen.append(place), done.append(action), got.append(-np.hypot(*(place - goal)))
            for column, value in zip(columns, (seen, done, got, task), strict=True):
                column.append(np.asarray(value))
    return Episodes.of(*columns[:3], np.array(columns[3]), codec)


@pytest.fixture(autouse=True)
def splits(monkeypatch):
    read = []

    def load(benchmark, quality, split, codec):
        read.append(split)
        return walks(benchmark, quality, split, codec)

    monkeypatch.setattr(gdt, "load_episodes", load)
    monkeypatch.setattr("metabench_agents.parts.run.BLOCK", 10)
    return read


def trained(folder, kind, seed=1):
    return gdt.train(ID, small(kind), seed=seed, run=Run(folder, show=False))


def comparable(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows], load_checkpoint(
        folder
    ).tensors


def assert_equal_runs(a, b):
    (rows_a, tensors_a), (rows_b, tensors_b) = comparable(a), comparable(b)
    assert rows_a == rows_b and tensors_a.keys() == tensors_b.keys()
    assert all(torch.equal(tensors_a[name], tensors_b[name]) for name in tensors_a)


def test_histograms_are_counted():
    reward, length = torch.tensor([[0.1, 0.9, 0.5, 7.0], [-3.0, 0.2, 9.0, 9.0]]), torch.tensor([4, 2])
    edges = torch.linspace(0.0, 1.0, 5)
    found = gdt.future_histograms(reward, length, edges)
    for e in range(2):
        for t in range(4):
            counts = [0.0] * 4
            for later in range(t, int(length[e])):
                counts[min(3, max(0, int(np.floor(float(reward[e, later]) * 4))))] += 1.0
            total = max(1.0, sum(counts))
            assert found[e, t].tolist() == pytest.approx([c / total for c in counts]), (e, t)


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_is_told_the_future_and_no_past(kind):
    """What is told of step 3 depends on what comes from there to the end, not on what was before or lies behind it."""
    torch.manual_seed(0)
    _, network = gdt._untrained(ID, small(kind).settled(ID))
    network.eval()
    seen, reward, length = torch.randn(1, 6, 2), torch.rand(1, 6) * 2 - 1, torch.tensor([5])
    with torch.no_grad():
        base = network.statistics(seen, reward, length)[0, 3]
        for step, changes in ((0, False), (2, False), (5, False), (4, True)):
            other, got = seen.clone(), reward.clone()
            other[0, step] += 1.0
            got[0, step] = -got[0, step] + 0.5
            found = network.statistics(other, got, length)[0, 3]
            assert torch.allclose(found, base, atol=1e-6) != changes, step


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_is_its_seed_and_loads_as_it_was(kind, tmp_path, splits):
    agent = trained(tmp_path / "a", kind)
    assert set(splits) == {"train", "test", "ood"}, "demonstrations of test tasks are its privilege"
    trained(tmp_path / "b", kind)
    assert_equal_runs(tmp_path / "a", tmp_path / "b")
    results = [metabench.evaluate(a, ID, seed=1) for a in (agent, gdt.load(tmp_path / "a"))]
    assert results[0].returns == results[1].returns
    assert (results[0].track, results[0].agent) == ("prompt-k", "gdt") and agent.privileged


@pytest.mark.parametrize("kind", KINDS)
def test_a_stopped_run_continues_to_the_same_bits(kind, tmp_path, monkeypatch):
    monkeypatch.setattr("metabench_agents.parts.run.SAVE_SECONDS", -1.0)
    trained(tmp_path / "whole", kind)
    save = Run.save

    def stopping(self, *arguments):
        save(self, *arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Run, "save", stopping)
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path / "stopped", kind)
    trained(tmp_path / "stopped", kind)
    assert_equal_runs(tmp_path / "whole", tmp_path / "stopped")


@pytest.mark.parametrize("kind", KINDS)
def test_at_play_it_is_told_the_best_episodes_statistics(kind, tmp_path):
    agent = trained(tmp_path, kind)
    episodes = walks(ID, "", "test", agent.codec)
    goals = metabench.spec(ID).table().rows["test"]
    belief, env = agent.begin(5), metabench.make_vec(ID, 5, split="test", expose_task=True)
    env.reset(seed=0, options={"task": np.arange(5)})
    for time in range(4):
        step = metabench.Timestep(
            np.concatenate((np.zeros((5, 2)), goals), 1),
            np.zeros((5, 2)),
            np.zeros(5),
            np.full(5, time == 0),
            np.zeros((5, 4)),
        )
        _, belief = agent.act(step, belief)
    for task in range(5):
        mine = torch.nonzero(episodes.task == task)[:, 0]
        best = mine[episodes.returns[mine].argmax()]
        window = window_of(episodes, best[None], torch.tensor([3]), 6, episodes.reward[:, None])
        reward = window.context[..., 0]
        if kind == "categorical":
            rows = episodes.first[best] + torch.arange(20)
            want = gdt.future_histograms(episodes.reward[rows][None], torch.tensor([20]), agent.network.edges)[0, 3]
        else:
            with torch.no_grad():
                seen = agent.network.scaled(window.observation)
                want = agent.network.statistics(seen, reward, torch.tensor([6]))[0, 0]
        assert torch.allclose(belief.ticks[3].context[task], want, atol=1e-5)


def test_the_context_of_windows_is_that_of_whole_episodes():
    codec = Actions(metabench.spec(ID).family().action_space)
    episodes = walks(ID, "", "test", codec)
    _, network = gdt._untrained(ID, small("categorical").settled(ID))
    network.learn_scales(episodes, torch.zeros(0))
    told = gdt.statistics_of(network, episodes)
    which, start = draw_windows(episodes, 9, 6, torch.Generator().manual_seed(0))
    window = window_of(episodes, which, start, 6, told)
    for row in range(9):
        rows = episodes.first[which[row]] + torch.arange(20)
        want = gdt.future_histograms(episodes.reward[rows][None], torch.tensor([20]), network.edges)[0]
        assert torch.allclose(window.context[row], want[start[row] : start[row] + 6])


def test_it_is_a_plugin():
    assert load_plugin("gdt") is gdt
