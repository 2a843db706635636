"""Generated data is what the simulator gives, in the promised order; a killed generation ends in the same bytes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

import metabench
from metabench import Timestep
from metabench.datasets import DatasetId, generate, load_dataset
from metabench.datasets.format import ADVICE, MANIFEST, hash_file, read_manifest
from metabench.datasets.generation import episode_seed
from metabench.datasets.ids import family_slug
from metabench.datasets.record import record
from metabench.datasets.verify import verify
from metabench.plugins import load_oracle


def tree(folder):
    """Name to sha256 of every file."""
    return {path.name: hash_file(path) for path in sorted(folder.iterdir())}


@pytest.mark.parametrize(("id", "split"), [("point-robot/mixed-v0", "train"), ("grid-switch/medium-v0", "test")])
def test_every_episode_is_the_single_environments(sets, id, split):
    data = load_dataset(id, split, root=sets)
    for index in np.random.default_rng(0).permutation(len(data))[:12]:
        episode = data[int(index)]
        env = metabench.make(data.manifest.benchmark, split=split, episodes_per_task=1)
        observation, _ = env.reset(seed=int(episode.record["seed"]), options={"task": episode.task})
        for t in range(len(episode.rewards)):
            assert (observation.astype(np.float32) == episode.observations[t]).all()
            action = episode.actions[t]
            action = int(action) if action.ndim == 0 else action
            observation, reward, terminated, truncated, info = env.step(action)
            assert np.float32(reward) == episode.rewards[t]
            assert terminated == episode.terminated[t] and info["session_ended"] == episode.session_ended[t]
        assert truncated and (observation.astype(np.float32) == episode.final_observation).all()


def test_order_shares_and_seeds(sets):
    data = load_dataset("point-robot/mixed-v0", "train", root=sets)
    assert (data.episodes["task"] == np.repeat(np.arange(45), 10)).all()
    assert (data.episodes["policy"].reshape(45, 10) == [0] * 7 + [1] * 3).all()  # 70 % medium, then 30 % expert
    assert len(np.unique(data.episodes["seed"])) == len(data)
    returns = data.episodes["return"].reshape(45, 10)
    assert returns[:, 7:].mean() > returns[:, :7].mean() + 3
    assert read_manifest(data.folder).statistics[3].mean == pytest.approx(returns[3].mean())


def test_the_second_mixture_has_uniform_episodes_and_leaves_the_first_as_it_was(tmp_path):
    """40 % of it are the same medium policy's, 30 % the same expert's; what knows nothing of the task comes first."""
    sets = {q: load_dataset(f"point-robot/{q}-v0", "test", root=_made(q, tmp_path)) for q in ("mixed", "mixed-2")}
    assert (sets["mixed-2"].episodes["policy"].reshape(5, 10) == [0] * 3 + [1] * 4 + [2] * 3).all()
    names = [[policy.name for policy in data.manifest.policies] for data in sets.values()]
    assert names[1] == ["uniform actions", *names[0]]
    assert (sets["mixed"].episodes["policy"].reshape(5, 10) == [0] * 7 + [1] * 3).all()
    wild, known = (
        sets["mixed-2"].episodes["return"].reshape(5, 10)[:, part].mean() for part in (slice(3), slice(3, 7))
    )
    assert wild < known - 2
    assert not verify(sets["mixed-2"].folder, replay=4)


@pytest.fixture(scope="module")
def history(tmp_path_factory):
    root = tmp_path_factory.mktemp("history")
    return load_dataset("reacher-goal/sac-history-v0", "test", root=_made_of("reacher-goal/sac-history-v0", root))


def test_a_history_has_its_checkpoints_in_order_and_what_the_expert_would_have_done(history):
    """The oracle's own answer to what was seen, step by step; that of the last checkpoint is nearest to it."""
    policies = history.manifest.policies
    assert [policy.step for policy in policies] == sorted(policy.step for policy in policies) and len(policies) > 3
    tasks = len(np.unique(history.episodes["task"]))
    order = history.episodes["policy"].reshape(tasks, 6)
    assert (np.diff(order, axis=1) >= 0).all() and (order[:, -1] == len(policies) - 1).all()
    advice = history.expert_actions()
    assert advice.shape == history.column("action").shape and advice.dtype == np.float32
    oracle = load_oracle("ReacherGoal-v0", "test", 0)
    context = metabench.spec("ReacherGoal-v0").table().rows["test"].astype(np.float32)
    rows, seen = history[7], slice(7 * 50, 8 * 50)
    told = np.concatenate((rows.observations, np.repeat(context[rows.task][None], 50, 0)), axis=1)
    nothing = np.zeros(50)
    step = Timestep(told, rows.actions, nothing, nothing > 0, np.zeros_like(told))
    assert np.allclose(oracle.act(step, oracle.begin(50))[0], advice[seen], atol=1e-5)
    gap = np.abs(advice - history.column("action")).reshape(tasks, 6, -1).mean(axis=(0, 2))
    assert gap[-1] < gap[0], "the checkpoints come nearer to the oracle"
    part = history.select(tasks=[1])
    assert (part.expert_actions() == advice[6 * 50 : 12 * 50]).all()
    assert not verify(history.folder, replay=2)


def test_only_histories_know_what_the_expert_would_have_done(history, tmp_path):
    data = load_dataset("point-robot/mixed-v0", "test", root=_made("mixed", tmp_path))
    with pytest.raises(ValueError, match="does not know what the expert would have done"):
        data.expert_actions()
    with pytest.raises(ValueError, match="no learning history of soft actor-critic comes for GridSwitch-v0"):
        generate("grid-switch/sac-history-v0", "test", root=tmp_path)
    damaged = tmp_path / "damaged"
    shutil.copytree(history.folder, damaged)
    content = bytearray((damaged / ADVICE).read_bytes())
    content[-1] ^= 1
    (damaged / ADVICE).write_bytes(content)
    assert any("damaged" in fault for fault in verify(damaged))


def _made_of(id, root):
    generate(id, "test", episodes=6, root=root)
    return root


def _made(quality, root):
    generate(f"point-robot/{quality}-v0", "test", episodes=10, root=root)
    return root


def test_qualities_lie_where_they_should(tmp_path):
    """Medium a third to a half of the way from random to the oracle, expert near the oracle; replay rises."""
    for slug in ("point-robot", "grid-navigation"):
        benchmark = DatasetId.parse(f"{slug}/medium-v0").benchmark
        levels = benchmark.references("train")
        low, high = levels["random"]["mean"], levels["oracle"]["mean"]
        share = {}
        for quality in ("random", "medium", "expert", "replay"):
            generate(f"{slug}/{quality}-v0", episodes=20, root=tmp_path)
            data = load_dataset(f"{slug}/{quality}-v0", root=tmp_path)
            share[quality] = (data.episodes["return"] - low) / (high - low)
        assert abs(share["random"].mean()) < 0.05
        assert 1 / 3 < share["medium"].mean() < 1 / 2
        assert share["expert"].mean() > 0.9
        steps = data.episodes["policy_step"]
        stages = [share["replay"][steps == step].mean() for step in np.unique(steps)]
        assert len(stages) == 10 and np.corrcoef(stages, range(10))[0, 1] > 0.9
        per_task = steps.reshape(-1, 20)
        assert (np.diff(per_task, axis=1) >= 0).all()  # a learning history, in order


def test_generation_is_deterministic_and_depends_on_the_seed(sets, tmp_path):
    again = generate("point-robot/mixed-v0", "test", episodes=4, root=tmp_path)
    assert tree(again) == tree(sets / "point-robot" / "mixed-v0" / "test")
    other = generate("point-robot/mixed-v0", "test", episodes=4, seed=1, root=tmp_path / "other")
    assert tree(other) != tree(again)


def test_another_set_is_never_overwritten(sets):
    folder = generate("point-robot/mixed-v0", "test", episodes=4, root=sets)  # the same again: nothing to do
    before = tree(folder)
    with pytest.raises(ValueError, match="holds another dataset"):
        generate("point-robot/mixed-v0", "test", episodes=5, root=sets)
    assert tree(folder) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"id": "PointRobot/medium"}, "is no dataset id"),
        ({"id": "point-robots/medium-v0"}, "did you mean 'point-robot-v0'"),
        ({"id": "point-robot/medium-v7"}, "did you mean 'point-robot-v0'"),
        ({"id": "point-robot/better-v0"}, "no behaviour policy plays 'better'"),
        ({"split": "tests"}, "did you mean 'test'"),
        ({"split": "fresh"}, "has no table"),
        ({"episodes": 0}, "at least 1"),
        ({"seed": -1}, "seed of a dataset"),
        ({"state_every": 0}, "every k >= 1"),
        ({"agent": "randm"}, "did you mean 'random'"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, arguments, words):
    with pytest.raises(ValueError, match=words):
        generate(**{"id": "point-robot/medium-v0", "split": "test", "root": tmp_path, "episodes": 2, **arguments})


def test_any_agent_can_play(tmp_path):
    folder = generate("grid-navigation/zeros-v0", "test", episodes=8, root=tmp_path, agent="zero")
    data = load_dataset(folder)
    assert (data.column("action") == 0).all()
    assert (data.episodes["place"] == np.tile([0, 1, 2, 3], 10)).all()  # whole trials of four episodes
    assert not verify(folder, replay=5)
    with pytest.raises(ValueError, match="multiple"):
        generate("grid-navigation/zeros-v0", "ood", episodes=6, root=tmp_path, agent="zero")


def test_slugs():
    names = {
        "CheetahVel": "cheetah-vel",
        "MetaWorld-PickPlace": "metaworld-pick-place",
        "MetaWorld-ML10": "metaworld-ml10",
    }
    assert {name: family_slug(name) for name in names} == names
    assert str(DatasetId.of("GridSwitch-v0", "mixed")) == "metabench/grid-switch/mixed-v0"
    for id in metabench.registry.ids():
        assert DatasetId.of(id, "expert").benchmark.id == id


EARLY = '''
"""A family whose episodes end early, by the task's own rule."""
from dataclasses import dataclass
from typing import NamedTuple
import numpy as np
from gymnasium import spaces
from metabench import Family, Field, SlotRng, Spec, TaskTable, param, register

@dataclass(frozen=True)
class Fuse:
    length: np.ndarray = param(1, 9, "step", "how long it burns", integer=True)

class State(NamedTuple):
    left: np.ndarray  # [B] steps
    count: np.ndarray  # [B] steps so far

class Bomb(Family):
    context_type = Fuse
    observation_fields = (Field("count", 0, 20),)
    action_space = spaces.Discrete(3)
    action_meanings = ("a", "b", "c")
    horizon = 6
    def initial(self, context, rng):
        return State(context.length + rng.integers(2), np.zeros(len(rng), dtype=np.int64))
    def transition(self, state, action, context, rng):
        return State(state.left - 1, state.count + 1)
    def observation(self, state):
        return state.count[:, None].astype(np.float32)
    def reward(self, state, action, next_state, context):
        return action + 0.5 * next_state.count
    def terminal(self, state):
        return state.left <= 0

'''


@pytest.fixture
def early(tmp_path, monkeypatch):
    """The family registered as FuseBomb-v0."""
    (tmp_path / "tables").mkdir()
    rows = {"train": [[2], [5], [9]], "test": [[1], [3]], "ood": [[4]]}
    table = {"fields": ["length"], "splits": {name: {"source": "", "rows": r} for name, r in rows.items()}}
    (tmp_path / "tables" / "FuseBomb-v0.json").write_text(json.dumps({"family": "FuseBomb-v0", **table}))
    (tmp_path / "fuse_bomb.py").write_text(textwrap.dedent(EARLY))
    monkeypatch.syspath_prepend(str(tmp_path))
    import fuse_bomb

    from metabench import registry

    frozen = metabench.TaskTable.load("FuseBomb-v0", fuse_bomb.Fuse, tmp_path / "tables" / "FuseBomb-v0.json")
    digests = {name: frozen.digest(name) for name in rows}
    spec = metabench.Spec("FuseBomb-v0", "fuse_bomb:Bomb", "It ends.", ("here",), 6, digests, episodes=2)
    monkeypatch.setitem(registry._SPECS, spec.id, spec)
    yield spec
    sys.modules.pop("fuse_bomb")


def test_episodes_that_end_early(early, tmp_path):
    folder = generate("fuse-bomb/random-v0", "train", episodes=6, root=tmp_path / "data", state_every=2)
    assert not verify(folder, replay=18)
    data = load_dataset(folder)
    lengths = data.episodes["length"].reshape(3, 6)
    assert set(lengths[0]) <= {2, 3} and set(lengths[1]) <= {5, 6} and set(lengths[2]) == {6}
    for episode in data:
        count = len(episode.rewards)
        assert (episode.observations[:, 0] == np.arange(count)).all() and episode.final_observation == count
        assert episode.terminated.sum() == (0 if episode.task == 2 else episode.terminated[-1])
        assert not episode.terminated[:-1].any()
    assert len(data.states()) == sum(-(-int(n) // 2) for n in data.episodes["length"])
    rows = np.concatenate([np.arange(0, n, 2) for n in data.episodes["length"]])
    assert (data.states()[:, 1] == rows).all()  # the step count is the state's second column
    windows = next(data.windows(3, 500, np.random.default_rng(0)))
    assert (windows.observations[..., 0][windows.mask] == windows.timesteps[windows.mask]).all()


def test_agents_that_remember_play_whole_trials(early):
    class Counter:
        def begin(self, num_trials):
            return np.zeros(num_trials, dtype=np.int64)

        def act(self, step, belief):
            belief = belief + step.first
            return (belief - 1).clip(0, 2), belief

    tasks, seeds = np.array([0, 1, 2, 0]), np.arange(4, dtype=np.uint64)
    out = record(Counter(), "FuseBomb-v0", "train", tasks, seeds, place=2)
    assert (out.episodes["place"] == [0, 1] * 4).all()
    for row in out.episodes:
        assert (out.steps["action"][row["start"] : row["start"] + row["length"]] == row["place"]).all()


def test_seeds_do_not_collide():
    task, turn = np.meshgrid(np.arange(50), np.arange(1000))
    seeds = np.concatenate([episode_seed(seed, task.ravel(), turn.ravel()) for seed in (0, 1, 2**24 - 1)])
    assert len(np.unique(seeds)) == len(seeds)


KILLED = """
import sys, time
from pathlib import Path
import metabench.datasets.generation as g
from metabench.datasets import recipe, shards
recipe.SLOTS, shards.KEEP_SECONDS = 20, float(sys.argv[3])  # many small shards
play = g.play_shard
def slowly(*args):
    time.sleep(float(sys.argv[2]))
    return play(*args)
g.play_shard = slowly
print("begins", flush=True)
g.generate("grid-navigation/mixed-v0", "train", episodes=20, root=Path(sys.argv[1]))
"""


@pytest.mark.parametrize(
    ("kills", "pause", "keep"),
    [
        (3, 0.02, 0.0),
        pytest.param(20, 0.08, 0.0, marks=pytest.mark.slow),
        pytest.param(20, 0.08, 0.1, marks=pytest.mark.slow),
    ],
)
def test_killed_generations_end_in_the_same_bytes(tmp_path, kills, pause, keep):
    """kill -9 at random moments: finished shards stay, and the outcome does not change by a byte."""
    command = [sys.executable, "-c", KILLED]
    subprocess.run([*command, str(tmp_path / "whole"), "0", "1"], check=True)
    rng, part, early = np.random.default_rng(0), tmp_path / "part", 0
    work = part / "grid-navigation" / "mixed-v0" / ".train.generating"
    command += [str(part), str(pause), str(keep)]
    shards: set[str] = set()
    for _ in range(kills):
        child = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert child.stdout and child.stdout.readline() == b"begins\n"
        time.sleep(rng.uniform(0.0, 3 * pause))
        os.kill(child.pid, signal.SIGKILL)
        child.stdout.close()
        early += child.wait() == -signal.SIGKILL
        if work.exists():
            now = {path.name for path in work.glob("shard-?????")}
            assert shards <= now  # nothing finished is lost
            shards = now
    assert early > kills // 2  # else nothing was interrupted
    subprocess.run(command, check=True)
    name = "grid-navigation/mixed-v0/train"
    assert tree(part / name) == tree(tmp_path / "whole" / name)
    assert not work.exists() and not verify(part / name)
    assert (part / name / MANIFEST).is_file()


def test_an_unfinished_generation_with_other_settings_is_kept(tmp_path):
    target = tmp_path / "point-robot" / "medium-v0"
    work = target / ".test.generating"
    work.mkdir(parents=True)
    (work / "plan.json").write_text("{}")
    with pytest.raises(ValueError, match="unfinished generation"):
        generate("point-robot/medium-v0", "test", episodes=2, root=tmp_path)
    assert (work / "plan.json").read_text() == "{}"
