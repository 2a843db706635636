"""Training windows, random episodes and generation, each against what people use now or against the memory itself."""

import os
import time

import numpy as np
import pytest
from interleaving import interleaved

import metabench
from metabench.datasets import generate, load_dataset
from metabench.datasets.format import (
    EPISODE,
    EPISODES,
    FINAL,
    MANIFEST,
    STEPS,
    Manifest,
    PolicyRecord,
    returns_to_go,
    row_type,
    task_statistics,
    write_column,
)
from metabench.datasets.trials import TrialDataset

pytestmark = pytest.mark.benchmark
S, A, T, K, B = 17, 6, 200, 20, 128  # observation, action, steps, window, batch: a cheetah's


def synthetic(folder, count):
    """A set of `count` episodes of random numbers."""
    folder.mkdir(parents=True)
    rng, rows = np.random.default_rng(0), row_type(S, (A,))
    episodes = np.zeros(count, dtype=EPISODE)
    episodes["task"], episodes["length"], episodes["start"] = np.arange(count) * 45 // count, T, np.arange(count) * T

    def parts():
        for start in range(0, count, 500):
            n = min(500, count - start)
            block = np.zeros(n * T, rows)
            block["observation"] = rng.standard_normal((n * T, S), np.float32)
            block["action"] = rng.standard_normal((n * T, A), np.float32)
            block["reward"] = rng.standard_normal(n * T, np.float32)
            block["return_to_go"] = returns_to_go(block["reward"], np.full(n, T))
            sums = np.add.reduceat(block["reward"].astype(np.float64), np.arange(0, n * T, T))
            episodes["return"][start : start + n] = sums
            yield block

    files = [write_column(folder / STEPS, rows, (count * T,), parts())]
    files.append(write_column(folder / EPISODES, EPISODE, episodes.shape, [episodes]))
    final = np.zeros((count, S), np.float32)
    files.append(write_column(folder / FINAL, final.dtype, final.shape, [final]))
    manifest = Manifest(
        id="metabench/noise/random-v0",
        benchmark="",
        spec={},
        split="train",
        quality="random",
        task_digest="",
        observation=S,
        action=(A,),
        steps=count * T,
        episodes=count,
        seed=0,
        policies=(PolicyRecord(name="noise", step=0),),
        statistics=task_statistics(episodes),
        files=tuple(files),
        versions={},
        command="",
    )
    (folder / MANIFEST).write_bytes(manifest.to_bytes())
    return TrialDataset(folder)


def discounted(x):
    """Sums from the end, step by step, as Decision Transformer's code does."""
    out = np.zeros_like(x)
    out[-1] = x[-1]
    for t in reversed(range(x.shape[0] - 1)):
        out[t] = x[t] + out[t + 1]
    return out


class ListOfDicts:
    """The common loader: a list of dictionaries, window after window padded and joined (as `get_batch` of DT)."""

    def __init__(self, data, most=2000):
        self.trajectories = [
            {"observations": np.array(e.observations), "actions": np.array(e.actions), "rewards": np.array(e.rewards)}
            for e in (data[i] for i in range(min(len(data), most)))
        ]
        self.p = np.full(len(self.trajectories), 1 / len(self.trajectories))
        self.rng = np.random.default_rng(0)

    def batch(self):
        columns = [[] for _ in range(6)]
        for index in self.rng.choice(np.arange(len(self.trajectories)), size=B, replace=True, p=self.p):
            one = self.trajectories[int(index)]
            start = int(self.rng.integers(0, T - 1))
            s, a, r = (one[name][start : start + K] for name in ("observations", "actions", "rewards"))
            n = len(r)
            togo = discounted(one["rewards"][start:])[:n]
            pad = K - n
            parts = (
                np.concatenate([np.zeros((1, pad, S)), s[None]], axis=1),
                np.concatenate([np.ones((1, pad, A)) * -10.0, a[None]], axis=1),
                np.concatenate([np.zeros((1, pad)), r[None]], axis=1),
                np.concatenate([np.zeros((1, pad)), togo[None]], axis=1),
                np.concatenate([np.zeros((1, pad)), np.arange(start, start + n)[None]], axis=1),
                np.concatenate([np.zeros((1, pad)), np.ones((1, n))], axis=1),
            )
            for column, part in zip(columns, parts, strict=True):
                column.append(part)
        return [np.concatenate(column, axis=0).astype(np.float32) for column in columns]


# 213 and 152 times were measured: the larger set's goal is 150 too, and 10 times of that are left to the machine's mood
@pytest.mark.parametrize(("count", "times", "share"), [(2_000, 120, 0.4), (50_000, 100, 0.4)])
def test_windows(tmp_path, count, times, share):
    """Batches of 128 windows of 20 steps: against the list of dictionaries, and against a copy of the same bytes."""
    data = synthetic(tmp_path / "set", count)
    windows, loader = data.windows(K, B, np.random.default_rng(0)), ListOfDicts(data)
    np.asarray(data.steps).view(np.uint8).sum()  # into the page cache
    size = B * K * data.manifest.row_type.itemsize
    source, target = np.ones(1 << 26, np.uint8), np.ones(1 << 26, np.uint8)

    def ours():
        for _ in range(200):
            next(windows)

    def theirs():
        for _ in range(2):
            loader.batch()

    seconds = interleaved({"ours": ours, "theirs": theirs, "copy": lambda: np.copyto(target, source)}, rounds=15)
    rate, reference = 200 / seconds["ours"], 2 / seconds["theirs"]
    memory = source.nbytes / seconds["copy"] / size
    print(
        f"\n{count:,} episodes: {rate:,.0f} batches/s, list of dicts {reference:,.0f} ({rate / reference:.0f}x), ",
        end="",
    )
    print(f"copying the same bytes {memory:,.0f} ({rate / memory:.2f} of it)")
    assert rate > times * reference
    assert rate > share * memory


def anonymous():
    """Bytes of this process's own memory, mapped files not counted."""
    with open("/proc/self/status") as status:  # noqa: PTH123
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon"))


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs Linux")  # noqa: PTH110
def test_memory_stays_flat(tmp_path):
    """A set of 1 GB is sampled; nothing of it becomes the process's own."""
    data = synthetic(tmp_path / "set", 50_000)
    windows = data.windows(K, B, np.random.default_rng(0))
    next(windows)
    before = anonymous()
    for _ in range(20_000):
        next(windows)
    grown = anonymous() - before
    print(f"\n{data.manifest.bytes / 1e6:,.0f} MB sampled 20,000 times: {grown / 1e6:.1f} MB more")
    assert grown < 20e6


def test_random_episodes_against_minari(tmp_path, monkeypatch):
    """Single episodes at random, 2,000 in the set."""
    minari = pytest.importorskip("minari")
    from metabench.datasets.minari import to_minari

    monkeypatch.setenv("METABENCH_DATA", str(tmp_path))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    folder = generate("point-robot/random-v0", "train", episodes=45)
    data = load_dataset(folder)
    theirs = minari.load_dataset(to_minari(folder))
    rng = np.random.default_rng(0)

    def ours_many():
        for index in rng.integers(0, len(data), 2000).tolist():
            data[index]

    def theirs_few():
        for index in rng.integers(0, len(data), 20).tolist():
            theirs[index]

    seconds = interleaved({"ours": ours_many, "theirs": theirs_few}, rounds=7)
    ratio = (seconds["theirs"] / 20) / (seconds["ours"] / 2000)
    ours, other = seconds["ours"] / 2000 * 1e6, seconds["theirs"] / 20 * 1e6
    print(f"\na random episode: {ours:.1f} us, Minari {other:,.0f} us ({ratio:.0f}x)")
    assert ratio > 150


GENERATED = [("cheetah-vel/random-v0", 256), ("cheetah-vel/expert-v0", 256), ("point-robot/random-v0", 2048)]
GENERATED += [("highway-merge/random-v0", 2048), ("grid-switch/random-v0", 2048)]


@pytest.mark.parametrize(("id", "slots"), GENERATED)
def test_generation_against_the_bare_environment(tmp_path, id, slots):
    """Steps/s of a whole generation, files synced and hashed, against random actions in the same environment.

    Beside it the two parts: to play the episodes into memory, and to write, sync and hash the same bytes once.
    """
    from metabench.datasets import DatasetId
    from metabench.datasets.format import STEPS, write_column
    from metabench.datasets.generation import play_shard
    from metabench.datasets.recipe import plan

    benchmark = DatasetId.parse(id).benchmark
    env = metabench.make_vec(benchmark.id, slots)
    env.reset(seed=0)
    actions, ticks = env.action_space.sample(), max(20, 40_000 // slots)
    tasks = benchmark.table().size("test")
    numbers, count = iter(range(100)), 200 if benchmark.extra == "mujoco" else 4_000_000 // (benchmark.horizon * tasks)
    column = np.load(generate(id, "test", episodes=count, root=tmp_path / "warm") / STEPS)
    recipe = plan(DatasetId.parse(id), "test", count, 0, None, None)

    def bare():
        for _ in range(ticks):
            env.step(actions)

    functions = {
        "ours": lambda: generate(id, "test", episodes=count, root=tmp_path / str(next(numbers))),
        "bare": bare,
        "played": lambda: [play_shard(recipe, number) for number in range(len(recipe.shards))],
        "stored": lambda: write_column(tmp_path / "bare.npy", column.dtype, column.shape, [column]),
    }
    seconds = interleaved(functions, rounds=5)
    reference = ticks * slots / seconds.pop("bare")
    rates = {name: len(column) / took for name, took in seconds.items()}
    shares = {name: f"{rate:,.0f} steps/s, {rate / reference:.2f} of the bare" for name, rate in rates.items()}
    print(f"\n{id}: {shares}, which makes {reference:,.0f}")
    # Where a step takes tens of nanoseconds, to write and hash its row takes longer, whoever plays.
    least = {"ours": 0.5} if benchmark.extra == "mujoco" else {"played": 0.1}
    assert all(rates[name] > share * reference for name, share in least.items())


def test_a_second_is_enough_for_point_robot(tmp_path):
    """The README says so."""
    start = time.perf_counter()
    generate("point-robot/mixed-v0", root=tmp_path)
    assert time.perf_counter() - start < 10
