"""The replay of many tasks: order, rings, contexts, memory, and going on from a checkpoint."""

import pytest
import torch
from metabench_agents.context.replay import TaskReplay, Transitions
from metabench_agents.parts.run import stream


def rows(start, count, observation=2, action=1):
    """Transitions whose every number tells which one it is."""
    index = torch.arange(start, start + count, dtype=torch.float32)
    columns = (index[:, None].expand(-1, observation), index[:, None].expand(-1, action), index)
    return Transitions(*columns, index[:, None].expand(-1, observation) + 0.5, index % 2).pack()


def seen(batch):
    return sorted(set(batch.reward.flatten().tolist()))


def test_columns_come_back():
    packed = rows(3, 2)
    assert packed.dtype == torch.float32 and packed.shape == (2, 7)
    batch = Transitions.unpack(packed, 2, 1)
    assert batch.observation.tolist() == [[3.0, 3.0], [4.0, 4.0]]
    assert batch.action.tolist() == [[3.0], [4.0]] and batch.reward.tolist() == [3.0, 4.0]
    assert batch.next_observation.tolist() == [[3.5, 3.5], [4.5, 4.5]] and batch.terminal.tolist() == [1.0, 0.0]


def test_tasks_are_kept_apart_and_the_context_is_recent_only():
    replay = TaskReplay(3, 2, 1, capacity=100)
    for task in range(3):
        replay.begin_context(task)
        replay.add(task, rows(1000 * task, 10), context=True)
        replay.add(task, rows(1000 * task + 10, 5), context=False)
    replay.begin_context(1)
    replay.add(1, rows(1500, 4), context=True)
    replay.add(1, rows(1600, 3), context=False)
    batch = replay.sample([0, 1], 2000, stream(0))
    assert seen(Transitions(*(c[:1] for c in batch))) == list(range(15))
    assert seen(Transitions(*(c[1:] for c in batch))) == [*range(1000, 1015), *range(1500, 1504), *range(1600, 1603)]
    assert seen(replay.sample_context([1], 500, stream(1))) == [1500, 1501, 1502, 1503]
    assert seen(replay.sample_context([2], 500, stream(1))) == list(range(2000, 2010))
    with pytest.raises(ValueError, match="context of task 2 must be added before"):
        replay.add(2, rows(0, 1), context=True)


def test_windows_are_consecutive():
    replay = TaskReplay(2, 2, 1, capacity=50)
    for task in range(2):
        replay.begin_context(task)
        replay.add(task, rows(100 * task, 20), context=True)
        replay.add(task, rows(100 * task + 20, 7), context=False)
    starts = set()
    for n in range(200):
        window, lengths = replay.windows([0, 1], 6, stream(n))
        window = window.reward
        assert lengths.tolist() == [6, 6]
        assert (window.diff(dim=1) == 1).all()
        starts.add(int(window[0, 0]))
    assert starts == set(range(15))
    window, lengths = replay.windows([0, 1], 23, stream(0))  # a short context is taken whole, its end repeated
    assert lengths.tolist() == [20, 20] and window.reward[1].tolist() == [*range(100, 120), 119, 119, 119]


def test_the_oldest_are_overwritten():
    replay = TaskReplay(1, 2, 1, capacity=10)
    for start in range(0, 28, 7):
        replay.begin_context(0)
        replay.add(0, rows(start, 7), context=True)
    assert seen(replay.sample([0], 500, stream(0))) == list(range(18, 28))
    assert replay.windows([0], 7, stream(0))[0].reward.tolist() == [list(range(21, 28))]  # across the ring's seam
    assert len(replay.tensors()["rows"]) == 10
    with pytest.raises(ValueError, match="do not fit"):
        replay.add(0, rows(0, 11), context=False)


def test_memory_grows_with_the_data():
    replay = TaskReplay(200, 20, 6, capacity=1_000_000)  # oyster's cheetah: 77 GB of zeros
    assert sum(table.nbytes for table in replay.rows) < 50e6
    replay.add(3, rows(0, 50_000, 20, 6), context=False)
    assert sum(table.nbytes for table in replay.rows) < 50e6 + 2 * 50_000 * 48 * 4
    assert all(table.dtype == torch.float32 for table in replay.rows)


def test_empty_tasks_are_refused():
    with pytest.raises(ValueError, match="no transitions"):
        TaskReplay(2, 2, 1, 10).sample([1], 3, stream(0))


@pytest.mark.parametrize("capacity", [10, 5000])
def test_a_checkpoint_goes_on(capacity):
    replay = TaskReplay(2, 2, 1, capacity)
    replay.add(0, rows(0, 8), context=False)
    replay.begin_context(0)
    replay.add(0, rows(8, 5), context=True)
    if capacity > 2000:
        replay.add(1, rows(50, 1500), context=False)
    replay.add(1, rows(0, 3), context=False)
    again = TaskReplay(2, 2, 1, capacity)
    again.restore(replay.tensors())
    for one in (replay, again):
        one.add(1, rows(90, 4), context=False)
    for a, b in zip(replay.sample([0, 1], 50, stream(4)), again.sample([0, 1], 50, stream(4)), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(replay.sample_context([0], 9, stream(5)).reward, again.sample_context([0], 9, stream(5)).reward)
