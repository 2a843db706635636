"""Windows, transitions, trials and tensors against plain slicing."""

import numpy as np
import pytest
import torch

from metabench.datasets import gather, load_dataset
from metabench.datasets.trials import TrialDataset


@pytest.fixture(params=["point", "grid", "scattered"])
def data(request, sets) -> TrialDataset:
    if request.param == "grid":
        return load_dataset("grid-switch/medium-v0", "test", root=sets)
    whole = load_dataset("point-robot/mixed-v0", "train", root=sets)
    return whole if request.param == "point" else whole.select(tasks=[40, 3, 7], episodes=slice(1, None, 3))


@pytest.fixture(params=["compiled", "numpy alone"])
def copying(request, monkeypatch):
    """Both ways of copying."""
    if request.param == "numpy alone":
        monkeypatch.setattr(gather, "kernel", lambda: None)
    else:
        assert gather.kernel()


def episode_of(data, step):
    """The row of `data.episodes` that holds a row of steps.npy."""
    start = data.episodes["start"]
    return int(np.flatnonzero((start <= step) & (step < start + data.episodes["length"]))[0])


@pytest.mark.usefixtures("copying")
@pytest.mark.parametrize("length", [1, 5, 20, 33])
def test_windows_are_slices_that_end_at_their_step(data, length):
    batches = data.windows(length, 64, np.random.default_rng(0))
    for _ in range(3):
        w = next(batches)
        for b, step in enumerate(w.step.tolist()):
            index = episode_of(data, step)
            episode, t = data[index], step - int(data.episodes["start"][index])
            count = min(t + 1, length)
            assert w.task[b] == episode.task and w.mask[b].sum() == count and w.mask[b, -count:].all()
            expected = {
                "observations": episode.observations,
                "actions": episode.actions,
                "rewards": episode.rewards,
                "returns_to_go": episode.returns_to_go,
                "session_ended": episode.session_ended,
                "terminated": episode.terminated,
                "timesteps": np.arange(len(episode.rewards)),
            }
            for name, column in expected.items():
                ours = getattr(w, name)[b]
                assert (ours[length - count :] == column[t + 1 - count : t + 1]).all(), name
                assert not ours[: length - count].any(), name


def test_whole_windows_have_no_padding_and_can_be_whole_episodes(data):
    horizon = int(data.episodes["length"][0])
    w = next(data.windows(horizon, 32, np.random.default_rng(1), whole=True))
    assert w.mask.all() and (w.timesteps == np.arange(horizon)).all()
    assert w.returns_to_go[:, 0] == pytest.approx(w.rewards.sum(1), rel=1e-5)
    with pytest.raises(ValueError, match="no episode has"):
        next(data.windows(horizon + 1, 4, np.random.default_rng(0), whole=True))


def test_every_step_is_equally_likely(sets):
    data = load_dataset("point-robot/mixed-v0", "test", root=sets)  # 400 steps
    counts = np.zeros(data.num_steps)
    batches = data.windows(4, 512, np.random.default_rng(2))
    for _ in range(200):
        np.add.at(counts, next(batches).step, 1)
    expected = counts.sum() / len(counts)
    chi2 = ((counts - expected) ** 2 / expected).sum()
    assert abs(chi2 - (len(counts) - 1)) < 5 * np.sqrt(2 * (len(counts) - 1))


@pytest.mark.usefixtures("copying")
def test_batches_are_the_callers_own(data):
    batches = data.windows(6, 8, np.random.default_rng(0))
    kept = [next(batches) for _ in range(5)]
    copies = [[np.array(column) for column in w] for w in kept]
    for _ in range(200):
        next(batches).observations[:] = 99.0
    for w, copy in zip(kept, copies, strict=True):
        assert all((a == b).all() for a, b in zip(w, copy, strict=True))
    assert not (data.column("observation") == 99.0).any()


def test_the_same_generator_gives_the_same_batches(data):
    one, two = (next(data.windows(6, 8, np.random.default_rng(5))) for _ in range(2))
    assert all((a == b).all() for a, b in zip(one, two, strict=True))


def test_both_ways_of_copying_give_the_same_batches(data, monkeypatch):
    def batches():
        windows = data.windows(9, 40, np.random.default_rng(7))
        part = next(data.transitions(40, np.random.default_rng(8), history=30))
        return [next(windows) for _ in range(70)] + [part.history]

    compiled = batches()
    monkeypatch.setattr(gather, "kernel", lambda: None)
    for one, other in zip(compiled, batches(), strict=True):
        for a, b in zip(one, other, strict=True):
            assert a.dtype == b.dtype and (a == b).all()


def test_windows_as_tensors(data):
    w = next(data.windows(6, 8, np.random.default_rng(0)))
    t = w.to_torch()
    assert t.observations.dtype == torch.float32 and t.mask.dtype == torch.bool
    assert all((a.numpy() == b).all() for a, b in zip(t, w, strict=True))


@pytest.mark.usefixtures("copying")
@pytest.mark.parametrize("history", [0, 4])
def test_transitions(data, history):
    part = next(data.transitions(200, np.random.default_rng(3), history=history))
    steps, following = data.column("observation"), data.next_observations()
    for b in range(200):
        match = (steps == part.observations[b]).all(1) & (following == part.next_observations[b]).all(1)
        match &= data.column("reward") == part.rewards[b]
        assert match.any()
    if not history:
        assert part.history is None
        return
    past = part.history
    for b, step in enumerate((past.step + 1).tolist()):
        index = episode_of(data, step)
        episode, t = data[index], step - int(data.episodes["start"][index])
        count = min(t, history)
        assert past.mask[b].sum() == count
        assert (past.observations[b, history - count :] == episode.observations[t - count : t]).all()
        assert (past.timesteps[b][past.mask[b]] == np.arange(t - count, t)).all()
        assert not past.rewards[b, : history - count].any()
        last = t + 1 == len(episode.rewards)
        expected = episode.final_observation if last else episode.observations[t + 1]
        assert (part.next_observations[b] == expected).all()
    assert part.to_torch().history.rewards.shape == (200, history)


def test_trials_join_consecutive_episodes_of_a_task(data):
    for count in (1, 2, 3):
        seen = []
        for trial in data.trials(count):
            assert len(trial.episodes) <= count and (trial.episodes["task"] == trial.task).all()
            assert trial.first.sum() == len(trial.episodes) and trial.first[0]
            assert len(trial.rewards) == trial.episodes["length"].sum()
            seen += trial.episodes["start"].tolist()
        assert sorted(seen) == sorted(data.episodes["start"].tolist())
    assert len(next(data.trials()).episodes) == (1 if data.manifest.sessions else 2)


def test_everything_as_tensors(data):
    tensors = data.to_torch()
    assert len({len(t) for t in tensors.values()}) == 1
    index = 5
    episode, rows = data[index], tensors["episode"] == index
    assert (tensors["observations"][rows].numpy() == episode.observations).all()
    assert (tensors["next_observations"][rows][:-1].numpy() == episode.observations[1:]).all()
    assert (tensors["next_observations"][rows][-1].numpy() == episode.final_observation).all()
    assert (tensors["timesteps"][rows] == torch.arange(len(episode.rewards))).all()
    assert (tensors["task"][rows] == episode.task).all()


def test_moments(data):
    mean, deviation = data.observation_moments()
    everything = data.column("observation").astype(np.float64)
    assert mean == pytest.approx(everything.mean(0))
    assert deviation == pytest.approx(np.maximum(everything.std(0), 1e-6))


def test_selections(sets):
    data = load_dataset("point-robot/mixed-v0", "train", root=sets)
    few = data.select(tasks=[4, 9], episodes=slice(0, 3))
    assert few.episodes["task"].tolist() == [4] * 3 + [9] * 3 and few.num_steps == 120
    assert [task.index for task in few.tasks] == [4, 9] and few.tasks[0].split == "train"
    assert set(next(few.windows(3, 100, np.random.default_rng(0))).task.tolist()) == {4, 9}
    with pytest.raises(ValueError, match="no task 45; it has the tasks 0 to 44"):
        data.select(tasks=[45])
    with pytest.raises(ValueError, match="no episode"):
        data.select(episodes=slice(99, None))


def test_the_files_are_never_written(data):
    for array in (data.steps, data[0].observations, data.episodes):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0


def test_a_missing_set_says_how_to_make_it(tmp_path):
    with pytest.raises(ValueError, match="metabench dataset generate metabench/point-robot/medium-v0 --split test"):
        load_dataset("point-robot/medium-v0", "test", root=tmp_path)
    with pytest.raises(ValueError, match="did you mean 'test'"):
        load_dataset("point-robot/medium-v0", "tests", root=tmp_path)
