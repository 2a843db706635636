"""Streams: keyed per slot, independent of the batch, and random enough."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from metabench.rng import SlotRng


def reference_splitmix64(state: int, count: int) -> list[int]:
    """SplitMix64 as its authors give it, in Python integers."""
    out, mask = [], (1 << 64) - 1
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) & mask
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        out.append(z ^ (z >> 31))
    return out


def test_streams_are_splitmix64():
    rng = SlotRng.from_seeds([0, 7, 2**63])
    keys = rng.state()[0]
    words = np.concatenate([rng.bits(3), rng.bits(1), rng.bits(4)], axis=1)
    for key, row in zip(keys, words, strict=True):
        assert row.tolist() == reference_splitmix64(int(key), 8)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.integers(0, 2**70))
def test_a_row_does_not_depend_on_the_batch(counts, seed):
    batch, single = SlotRng.from_seeds([seed, seed + 1, seed + 2]), SlotRng.from_seeds([seed + 1])
    for count in counts:
        assert np.array_equal(batch.random(count)[1], single.random(count)[0])


def test_selections_advance_their_parents():
    rng, twin = SlotRng.from_seeds(range(6)), SlotRng.from_seeds(range(6))
    part = rng.at(np.array([4, 1])).at(np.array([1]))
    assert np.array_equal(part.random(), twin.random(1)[1])
    assert rng.random()[1] == twin.at(np.array([1])).random()[0]
    assert rng.random()[4] == SlotRng.from_seeds([4]).random((2,))[0, 1]


def test_counting_is_a_range_of_seeds():
    for seed in (0, 5 * 2**32, 2**64 - 3, 2**70):
        expected = SlotRng.from_seeds(range(seed, seed + 6)).state()[0]
        assert np.array_equal(SlotRng.counting(seed, 6).state()[0], expected)


def test_large_and_distinct_seeds():
    keys = SlotRng.from_seeds([0, 1, 2**64, 2**64 + 1, 2**128, 2**32]).state()[0]
    assert len(set(keys.tolist())) == 6
    assert np.array_equal(SlotRng.from_seeds(np.arange(9)).state()[0], SlotRng.from_seeds(range(9)).state()[0])


def test_distributions():
    rng = SlotRng.from_seeds(range(4000))
    assert stats.kstest(rng.random(5).ravel(), "uniform").pvalue > 1e-3
    assert stats.kstest(rng.normal(2.0, 5).ravel() / 2.0, "norm").pvalue > 1e-3
    assert stats.chisquare(np.bincount(rng.integers(7, 5).ravel(), minlength=7)).pvalue > 1e-3
    assert stats.kstest(rng.uniform(-1.0, 3.0).ravel(), "uniform", args=(-1, 4)).pvalue > 1e-3
    first, second = rng.random(2).T
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.06
    neighbours = SlotRng.from_seeds(range(4001)).random()
    assert abs(np.corrcoef(neighbours[1:], neighbours[:-1])[0, 1]) < 0.06


@pytest.mark.parametrize("size", [(), 1, 3, (2, 3)])
def test_shapes(size):
    rng, tail = SlotRng.from_seeds(range(5)), ((size,) if isinstance(size, int) else size)
    assert rng.random(size).shape == rng.normal(1.0, size).shape == rng.integers(3, size).shape == (5, *tail)
    assert rng.integers(np.arange(1, 6)).max() < 5


def test_state_continues_the_streams():
    rng = SlotRng.from_seeds(range(3))
    rng.random(4)
    twin = SlotRng(*rng.state())
    pickled = pickle.loads(pickle.dumps(rng))
    expected = rng.random(4)
    assert np.array_equal(twin.random(4), expected)
    assert np.array_equal(pickled.random(4), expected)


def test_another_process_draws_the_same():
    code = "from metabench.rng import SlotRng; print(SlotRng.from_seeds([3, 4]).normal(1.0, 3).tobytes().hex())"
    there = subprocess.check_output([sys.executable, "-c", code], text=True).strip()
    assert there == SlotRng.from_seeds([3, 4]).normal(1.0, 3).tobytes().hex()
