"""Traces: the evaluator's evidence changes no result, is the same bytes every time, and is read with distrust."""

import dataclasses
import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import NamedTuple

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

import metabench
from metabench import Family, Field, Spec, evaluate, param, registry, specs, standard_protocol
from metabench.evaluation.evaluate import evaluate_traced
from metabench.evaluation.traces import EVERY, Trace, checkpoint_places, spec_digest
from metabench.leaderboard.replay import Fault, replay
from metabench.npz import SafeNpz, pack
from metabench.plugins import load_plugin
from metabench.registry import register
from metabench.rng import Array
from metabench.tasks import TaskTable

FAST = ("GridSwitch-v0", "GridNavigation-v0", "SparsePointRobot-v0", "CheetahVelSwitch-v0", "ReacherSwitch-v0")


@dataclasses.dataclass(frozen=True)
class Slope:
    slope: Array = param(-1.0, 1.0, "", "drift of the walk")


class Place(NamedTuple):
    place: Array  # [B]


class NoisyWalk(Family[Place, Slope]):
    """A random walk with a hidden drift; ends early, at a random time, successfully when it leaves to the right."""

    context_type = Slope
    observation_fields = (Field("place", -50, 50),)
    action_space = spaces.Box(-1, 1, (1,), np.float32)
    action_meanings = ("push",)
    horizon = 37

    def initial(self, context, rng):
        return Place(rng.normal(1.0))

    def transition(self, state, action, context, rng):
        return Place(state.place + action[:, 0] + context.slope + rng.normal(1.0))

    def observation(self, state):
        return state.place[:, None].astype(np.float32)

    def reward(self, state, action, next_state, context):
        return -np.abs(next_state.place - context.slope)

    def terminal(self, state):
        return np.abs(state.place) > 6.0

    def success(self, state):
        return state.place > 6.0


@pytest.fixture(scope="module")
def walk(tmp_path_factory):
    """The id of a benchmark with early ends, noise in its dynamics and a hidden task that drifts."""
    folder = tmp_path_factory.mktemp("walk")
    (folder / "tables").mkdir()
    splits = {split: {"source": "made up", "rows": [[v], [-v]]} for split, v in (("train", 0.1), ("test", 0.4))}
    splits["ood"] = {"source": "made up", "rows": [[0.9], [-0.8]]}
    path = folder / "tables" / "NoisyWalk-v0.json"
    path.write_text(json.dumps({"fields": ["slope"], "splits": splits}))
    table = TaskTable.load("NoisyWalk-v0", Slope, path)
    module = sys.modules[__name__]
    sys.modules["noisy_walk"], old = module, module.__file__
    module.__file__ = str(folder / "noisy_walk.py")  # where its tables are looked for
    register(
        Spec(
            id="NoisyWalk-v0",
            entry_point="noisy_walk:NoisyWalk",
            summary="A noisy walk.",
            sources=("this file",),
            horizon=NoisyWalk.horizon,
            episodes=3,
            repeats=12,
            sessions={"kind": "geometric", "p": 0.1},
            digests={split: table.digest(split) for split in table.splits},
        )
    )
    yield "NoisyWalk-v0"
    module.__file__ = old
    del registry._SPECS["NoisyWalk-v0"], gym.registry["metabench/NoisyWalk-v0"], sys.modules["noisy_walk"]


def traced(benchmark, agent="random", split="test", seed=3, episodes=None, **kwargs):
    protocol = standard_protocol(benchmark, split, seed)
    if episodes:
        protocol = protocol.model_copy(update={"episodes": episodes})
    return evaluate_traced(load_plugin(agent).build(benchmark, split, 0), protocol, **kwargs)


@pytest.mark.parametrize("id", FAST)
def test_an_honest_trace_replays_exactly(id):
    result, trace = traced(id)
    assert np.array_equal(trace.returns().reshape(result.array().shape), result.array())
    seen = replay(trace)
    assert (seen.state_error, seen.reward_error) == (0.0, 0.0)
    assert seen.steps == trace.lengths.sum()


@pytest.mark.parametrize("agent", ["random", "oracle"])
def test_meta_world_replays_exactly(agent):
    """Its smallest split, one episode a task: the scene of a class has state outside MuJoCo's."""
    trace = traced("MetaWorld-DoorLock-v0", agent, split="meta_dt_test", episodes=1).trace
    seen = replay(trace)
    assert (seen.state_error, seen.reward_error) == (0.0, 0.0)
    assert seen.steps == 5 * 500 and trace.successes.all() == (agent == "oracle")


@pytest.mark.slow
@pytest.mark.parametrize("id", [s.id for s in specs() if not s.id.startswith("MetaWorld-")])
@pytest.mark.parametrize("split", ["test", "ood"])
def test_every_benchmark_replays_exactly(id, split):
    seen = replay(traced(id, split=split).trace)
    assert (seen.state_error, seen.reward_error) == (0.0, 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("id", [s.id for s in specs() if s.id.startswith("MetaWorld-") and "-ML" not in s.id])
def test_every_class_of_meta_world_replays_exactly(id):
    seen = replay(traced(id, episodes=1).trace)
    assert (seen.state_error, seen.reward_error) == (0.0, 0.0)


def test_early_ends_noise_and_drift_replay_exactly(walk):
    result, trace = traced(walk)
    assert trace.lengths.min() < trace.lengths.max()
    assert trace.terminated.any() and trace.successes is not None and trace.successes.any()
    assert np.array_equal(trace.returns().reshape(result.array().shape), result.array())
    assert np.array_equal(trace.successes.reshape(-1), np.array(result.successes).reshape(-1))
    assert replay(trace).state_error == 0.0


@pytest.mark.parametrize("slots", [1, 5, 1024])
def test_the_batch_leaves_no_mark(walk, tmp_path, slots):
    whole, parts = traced(walk, "zero").trace, traced(walk, "zero", slots=slots).trace
    whole.save(tmp_path / "whole.npz")
    parts.save(tmp_path / "parts.npz")
    assert (tmp_path / "whole.npz").read_bytes() == (tmp_path / "parts.npz").read_bytes()


def test_a_trace_changes_no_result_and_survives_its_file(tmp_path):
    agent = load_plugin("random").build("CheetahVelSwitch-v0", "test", 0)
    plain = evaluate(agent, "CheetahVelSwitch-v0", seed=3)
    assert evaluate(agent, "CheetahVelSwitch-v0", seed=3, trace=tmp_path / "trace.npz") == plain
    trace, direct = Trace.load(tmp_path / "trace.npz"), traced("CheetahVelSwitch-v0").trace
    assert trace.header == direct.header
    assert np.array_equal(trace.actions, direct.actions) and trace.actions.dtype == np.float32
    assert np.array_equal(trace.rewards, direct.rewards)
    assert all(np.array_equal(trace.checkpoints[n], direct.checkpoints[n]) for n in direct.checkpoints)
    with np.load(tmp_path / "trace.npz", allow_pickle=False) as plain_numpy:
        assert np.array_equal(plain_numpy["rewards"], direct.rewards)


def test_two_processes_write_the_same_bytes(tmp_path):
    code = (
        "import sys, pathlib, metabench; from metabench.plugins import load_plugin; "
        "agent = load_plugin('random').build('GridSwitch-v0', 'test', 0); "
        "metabench.evaluate(agent, 'GridSwitch-v0', trace=pathlib.Path(sys.argv[1]))"
    )
    for name in ("a", "b"):
        subprocess.run([sys.executable, "-c", code, str(tmp_path / name)], check=True)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_places_against_a_loop():
    rng = np.random.default_rng(0)
    for _ in range(50):
        lengths = rng.integers(1, 35, size=(rng.integers(1, 5), rng.integers(1, 4)))
        expected, step = [], 0
        for trial, row in enumerate(lengths):
            clock = 0
            for episode, length in enumerate(row):
                marks = [t for t in range(length) if t == 0 or (clock + t) % EVERY == 0]
                for mark, until in zip(marks, [*marks[1:], length], strict=True):
                    expected.append((trial, episode, mark, step + mark, until - mark, until == length))
                clock, step = clock + length, step + length
        assert list(zip(*(column.tolist() for column in checkpoint_places(lengths, EVERY)), strict=True)) == expected


OTHER_LIBM = "glibc.cpu.hwcaps=-AVX512F,-AVX2,-FMA,-AVX2_Usable,-FMA_Usable,-AVX512F_Usable"
REPLAY = """
import sys, pathlib
from metabench.leaderboard.replay import replay
from metabench.evaluation.traces import Trace
for name in sys.argv[1:]:
    print(*replay(Trace.load(pathlib.Path(name)))[2:])
"""


@pytest.mark.parametrize("environment", [{"GLIBC_TUNABLES": OTHER_LIBM}, {"METABENCH_THREADS": "2"}])
def test_honest_traces_replay_with_another_libm_and_other_threads(tmp_path, environment):
    paths = []
    for benchmark in ("CheetahVel-v0", "GridSwitch-v0", "SparsePointRobot-v0"):
        path = tmp_path / f"{benchmark}.npz"
        evaluate(load_plugin("random").build(benchmark, "test", 0), benchmark, seed=5, trace=path)
        paths.append(str(path))
    ran = subprocess.run(
        [sys.executable, "-c", REPLAY, *paths],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    errors = np.array([line.split() for line in ran.stdout.splitlines()], dtype=float)
    assert (errors <= 1e-10).all()
    if "GLIBC_TUNABLES" not in environment:
        assert (errors == 0).all()


def forge(trace, **changes):
    """The trace with some of its arrays changed by functions that work on copies."""
    new = {}
    for name, change in changes.items():
        value = getattr(trace, name)
        value = {k: v.copy() for k, v in value.items()} if isinstance(value, dict) else value.copy()
        change(value)
        new[name] = value
    return trace._replace(**new)


def put(where, value):
    def change(array):
        array[where] = value

    return change


def add(where, value):
    def change(array):
        array[where] += value

    return change


@pytest.fixture(scope="module")
def cheetah():
    return traced("CheetahVel-v0").trace


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rewards": add(1234, 1e-6)}, "task 0, repeat 3, episode 0, step 34: the trace has the reward"),
        ({"actions": put((777, 2), 0.25)}, "the (actions do not lead|trace has the reward)"),
        ({"actions": put((777, 2), 1.5)}, "the action 1.5 of step 777 lies outside the space"),
        ({"checkpoints": lambda c: add((95, 3), 1e-6)(c["state.physics"])}, "task 0, repeat 2, episode 0, step 150"),
        ({"checkpoints": lambda c: add((0, 3), 1e-6)(c["state.physics"])}, "does not start as its task and seed"),
        ({"checkpoints": lambda c: add((20, 3), 1e-6)(c["state.physics"])}, "episode 1, step 0"),
        ({"checkpoints": lambda c: put((0, 3), 1e12)(c["state.physics"])}, "beyond 1e\\+09"),
        ({"checkpoints": lambda c: add(55, 0.1)(c["context.speed"])}, "(context.speed differs|has the reward)"),
        ({"checkpoints": lambda c: add(55, 1)(c["counter"])}, "counter is another one"),
        ({"checkpoints": lambda c: put(55, 3)(c["remaining"])}, "remaining is another one"),
        ({"checkpoints": lambda c: c.pop("counter")}, "counter stand on one side only"),
        ({"checkpoints": lambda c: c.update(extra=c["counter"])}, "extra stand on one side only"),
        ({"terminated": put((3, 1), True)}, "another kind of end"),
        ({"lengths": add((3, 1), -1)}, "task 0, repeat 3, episode 1"),
    ],
)
def test_what_is_forged_does_not_replay(cheetah, changes, words):
    with pytest.raises((Fault, ValueError, IndexError), match=words):
        replay(forge(cheetah, **changes))


def test_a_trace_of_another_seed_or_split_does_not_replay(cheetah):
    for changed in ({"seed": 4}, {"split": "ood"}):
        protocol = cheetah.header.protocol.model_copy(update=changed)
        with pytest.raises(Fault):
            replay(cheetah._replace(header=cheetah.header.model_copy(update={"protocol": protocol})))


def test_actions_outside_a_discrete_space_and_wrong_successes(walk):
    grid = traced("GridSwitch-v0").trace
    with pytest.raises(Fault, match="the actions 0 to 4"):
        replay(forge(grid, actions=put(5, 9)))
    with pytest.raises(Fault, match="the space has whole numbers"):
        replay(grid._replace(actions=grid.actions.astype(np.float32)))
    noisy = traced(walk).trace
    with pytest.raises(Fault, match="another success"):
        replay(noisy._replace(successes=~noisy.successes))
    with pytest.raises(Fault, match="exactly where the benchmark has none"):
        replay(grid._replace(successes=np.ones(grid.lengths.shape, dtype=bool)))


def nested_zip(members, **kinds):
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", **kinds) as file:
        for name, content in members:
            file.writestr(name, content)
    return target.getvalue()


def npy(array, **kwargs):
    target = io.BytesIO()
    np.lib.format.write_array(target, array, **kwargs)
    return target.getvalue()


def header_only(shape, descr="<f8"):
    target = io.BytesIO()
    np.lib.format.write_array_header_1_0(target, {"descr": descr, "fortran_order": False, "shape": shape})
    return target.getvalue()


def _broken():
    """An archive whose content is no longer what its checksum says."""
    content = bytearray(pack({"a": np.random.default_rng(0).random(1000)}))
    content[len(content) // 2] ^= 1
    return bytes(content)


MALICIOUS = {
    "no archive": (b"PK\x03\x04 nonsense", "is no .npz file"),
    "empty": (b"", "is no .npz file"),
    "object array": (nested_zip([("a.npy", npy(np.array([{}], dtype=object)))]), "holds object"),
    "text array": (nested_zip([("a.npy", npy(np.array(["x"])))]), "only booleans, integers and floats"),
    "structured array": (nested_zip([("a.npy", npy(np.zeros(2, dtype=[("x", "f8")])))]), "only booleans"),
    "complex array": (nested_zip([("a.npy", npy(np.zeros(2, dtype=complex)))]), "only booleans"),
    "path traversal": (nested_zip([("../../a.npy", npy(np.zeros(2)))]), "which is no array's"),
    "absolute path": (nested_zip([("/etc/a.npy", npy(np.zeros(2)))]), "which is no array's"),
    "other member": (nested_zip([("run.sh", b"rm")]), "which is no array's"),
    "twice": (
        nested_zip([("a.npy", npy(np.zeros(2))), ("b.npy", npy(np.zeros(2)))]).replace(b"b.npy", b"a.npy"),
        "twice",
    ),
    "lying header": (nested_zip([("a.npy", header_only((2**33,)))]), "declares 68,719,476,736 bytes"),
    "overflow": (nested_zip([("a.npy", header_only((2**62, 2**62)))]), "impossible type or shape"),
    "negative": (nested_zip([("a.npy", header_only((-1,)))]), "impossible type or shape|is no array"),
    "bzip2": (nested_zip([("a.npy", npy(np.zeros(2)))], compression=zipfile.ZIP_BZIP2), "another way than stored"),
    "bomb": (nested_zip([("a.npy", npy(np.zeros(2**26)))], compression=zipfile.ZIP_DEFLATED), "would unpack to more"),
    "broken content": (_broken(), "cannot be unpacked"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", MALICIOUS)
def test_malicious_archives_are_refused_in_words(tmp_path, kind):
    content, words = MALICIOUS[kind]
    path = tmp_path / "x.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=words):
        file = SafeNpz(path, max_content=2**28)
        for name in file.entries:
            file.read(name)


def test_a_huge_file_is_not_opened(tmp_path):
    path = tmp_path / "x.npz"
    with path.open("wb") as file:
        file.truncate(2**26 + 1)
    with pytest.raises(ValueError, match="more than the 67,108,864 allowed"):
        SafeNpz(path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"header": None}, "it has no array 'header'"),
        ({"header": np.zeros(4, np.uint8)}, "no valid trace header"),
        ({"header": np.full(4, 255, np.uint8)}, "the header is no text"),
        ({"more": np.zeros(3)}, "has an array 'more', which no trace has"),
        ({"lengths": np.zeros((40, 4), np.int8)}, "fewer than 1"),
        ({"lengths": np.full((40, 3), 5)}, "lengths are not whole numbers"),
        ({"rewards": np.zeros(7)}, "ask for 6000 rows"),
        ({"rewards": np.full(6000, np.nan)}, "rewards has a value that is not finite"),
        ({"rewards": np.full(6000, np.inf)}, "rewards has a value that is not finite"),
        ({"rewards": np.zeros(6000, np.float32)}, "not a column of float64"),
        ({"terminated": np.zeros(3, bool)}, "terminated are not booleans"),
        ({"checkpoint.counter": np.zeros(3, np.int8)}, "the episodes' lengths ask for 800 rows"),
    ],
)
def test_a_file_that_is_no_whole_trace_is_refused(tmp_path, changes, words):
    path = tmp_path / "trace.npz"
    evaluate(load_plugin("zero").build("GridNavigation-v0", "test", 0), "GridNavigation-v0", trace=path)
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files} | changes
    path.write_bytes(pack({name: array for name, array in arrays.items() if array is not None}))
    with pytest.raises(ValueError, match=words):
        Trace.load(path)
    with pytest.raises(ValueError, match="there is no trace"):
        Trace.load(Path("nowhere.npz"))


def test_the_digest_of_a_benchmark_is_for_ever():
    """It is of what is played: words and fields that a benchmark does not use leave it alone."""
    spec = metabench.spec("PointRobot-v0")
    digest = spec_digest(spec)
    assert digest == "fab6e406b1940576e02624253fcc8950fa095bef85f60888112335a1bccbc91a"
    assert spec_digest(dataclasses.replace(spec, summary="other words", sources=(), group="another")) == digest
    for changed in (
        {"horizon": 21},
        {"episodes": 3},
        {"kwargs": {"x": 1}},
        {"sessions": {"kind": "fixed", "length": 5}},
    ):
        assert spec_digest(dataclasses.replace(spec, **changed)) != digest
