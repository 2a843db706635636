"""The bridge to Minari: nothing is lost either way, and Minari itself reads what is exported."""

import os
import warnings

import gymnasium as gym
import numpy as np
import pytest

from metabench.datasets import load_dataset
from metabench.datasets.format import hash_file
from metabench.datasets.verify import verify

minari = pytest.importorskip("minari")
pytest.importorskip("h5py")
from metabench.datasets import minari as bridge  # noqa: E402


@pytest.fixture(autouse=True)
def minari_root(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path / "minari"


def tree(folder):
    return {path.name: hash_file(path) for path in sorted(folder.iterdir())}


@pytest.mark.parametrize(
    ("path", "id"),
    [
        ("point-robot/mixed-v0/test", "metabench/point-robot/mixed-test-v0"),
        ("grid-switch/medium-v0/test", "metabench/grid-switch/medium-test-v0"),  # discrete, with sessions and states
    ],
)
def test_out_and_back_is_the_same_bytes(sets, tmp_path, path, id):
    assert bridge.to_minari(sets / path) == id
    back = bridge.from_minari(id, root=tmp_path / "back")
    assert back == tmp_path / "back" / path
    assert tree(back) == tree(sets / path) and not verify(back)


def test_minari_reads_the_export(sets, minari_root):
    id = bridge.to_minari(sets / "point-robot/mixed-v0/test")
    loaded = minari.load_dataset(id)
    ours = load_dataset("point-robot/mixed-v0", "test", root=sets)
    assert loaded.total_episodes == len(ours) and loaded.total_steps == ours.num_steps
    details = list(loaded.storage.get_episode_metadata(range(len(ours))))
    for theirs, mine, detail in zip(loaded, ours, details, strict=True):
        assert (theirs.observations[:-1] == mine.observations).all()
        assert (theirs.observations[-1] == mine.final_observation).all()
        assert (theirs.actions == mine.actions).all() and (theirs.rewards == mine.rewards).all()
        assert (theirs.terminations == mine.terminated).all() and theirs.truncations[-1]
        assert (theirs.infos["session_ended"][1:] == mine.session_ended).all()
        assert int(detail["options"]["task"]) == mine.task and detail["seed"] == mine.record["seed"]
    env = loaded.recover_environment()
    assert env.spec.id == "metabench/PointRobot-v0" and env.spec.kwargs["split"] == "test"
    observation, info = env.reset(seed=details[5]["seed"], options={"task": int(details[5]["options"]["task"])})
    assert info["task_id"] == details[5]["options"]["task"]
    assert (observation == loaded[5].observations[0]).all()
    assert minari.get_normalized_score(loaded, np.array([loaded.storage.metadata["ref_max_score"]])) == 1.0
    assert not list(minari_root.glob(".metabench-*"))


def test_what_minari_has_is_never_overwritten(sets):
    bridge.to_minari(sets / "point-robot/mixed-v0/test")
    with pytest.raises(ValueError, match="has metabench/point-robot/mixed-test-v0 already"):
        bridge.to_minari(sets / "point-robot/mixed-v0/test")


def test_a_changed_export_does_not_come_back(sets, tmp_path):
    import h5py

    id = bridge.to_minari(sets / "point-robot/mixed-v0/test")
    with h5py.File(tmp_path / "minari" / id / "data" / "main_data.hdf5", "a") as file:
        file["episode_3"]["rewards"][2] += 1.0
    with pytest.raises(ValueError, match=r"was changed since it was exported: steps.npy"):
        bridge.from_minari(id, root=tmp_path / "back")
    assert not (tmp_path / "back" / "point-robot/mixed-v0/test").exists()


def foreign(id, *, discrete, infos=True, episodes=7):
    """A dataset as a user of Minari would make it: float64, uneven episodes, seeds and options here and there."""
    from minari.data_collector import EpisodeBuffer

    rng, buffers = np.random.default_rng(0), []
    for number in range(episodes):
        n = int(rng.integers(1, 9))
        buffers.append(
            EpisodeBuffer(
                id=number,
                seed=number * 11 if number % 2 else None,
                options={"task": number % 3, "wind": 0.5} if number % 3 else None,
                observations=rng.normal(size=(n + 1, 4)),
                actions=rng.integers(3, size=n) if discrete else rng.normal(size=(n, 2)),
                rewards=rng.normal(size=n),
                terminations=np.arange(n) == n - 1,
                truncations=np.zeros(n, dtype=bool),
                infos={"x": rng.normal(size=(n + 1, 3)), "deep": {"k": rng.integers(5, size=n + 1)}} if infos else None,
            )
        )
    minari.create_dataset_from_buffers(
        id,
        buffers,
        env=gym.spec("CartPole-v1") if discrete else None,
        eval_env=gym.spec("CartPole-v1") if discrete else None,
        observation_space=gym.spaces.Box(-9, 9, (4,), np.float64),
        action_space=gym.spaces.Discrete(3) if discrete else gym.spaces.Box(-9, 9, (2,), np.float64),
        algorithm_name="dice",
        author={"a", "b"},
        author_email="a@b",
        code_permalink="here",
        description="rolled",
        ref_min_score=0.0,
        ref_max_score=9.0,
        data_format="hdf5",
    )
    return minari.load_dataset(id)


def flat(infos, prefix=""):
    for name, value in (infos or {}).items():
        yield from flat(value, f"{prefix}{name}/") if isinstance(value, dict) else [(f"{prefix}{name}", value)]


@pytest.mark.filterwarnings("ignore:`eval_env` is set to None", "ignore:env_spec is None")
@pytest.mark.parametrize("discrete", [True, False])
def test_in_and_out_again_is_the_same_dataset(tmp_path, discrete):
    before = foreign("lab/rolls-v2", discrete=discrete)
    folder = bridge.from_minari("lab/rolls-v2", "lab-rolls/human-v2", root=tmp_path / "here")
    assert not verify(folder)
    data = load_dataset(folder)
    assert data[3].observations.dtype == np.float64 and len(data) == 7
    window = next(data.windows(3, 16, np.random.default_rng(0)))
    assert window.to_torch().observations.shape == (16, 3, 4)
    assert len(list(data.trials())) == 7
    other = tmp_path / "minari2"
    assert bridge.to_minari(folder, root=other) == "lab/rolls-v2"
    os.environ["MINARI_DATASETS_PATH"] = str(other)
    after = minari.load_dataset("lab/rolls-v2")
    for a, b in zip(before, after, strict=True):
        for name in ("observations", "actions", "rewards", "terminations", "truncations"):
            one, two = getattr(a, name), getattr(b, name)
            assert one.dtype == two.dtype and (one == two).all(), name
        one, two = dict(flat(a.infos)), dict(flat(b.infos))
        assert one.keys() == two.keys() and all((one[key] == two[key]).all() for key in one)
    for a, b in zip(
        before.storage.get_episode_metadata(range(7)), after.storage.get_episode_metadata(range(7)), strict=True
    ):
        assert a == b
    a, b = before.storage.metadata, after.storage.metadata
    volatile = {"dataset_size"}
    assert {k: v for k, v in a.items() if k not in volatile} == {k: v for k, v in b.items() if k not in volatile}


def test_what_has_no_place_is_refused(tmp_path):
    from minari.data_collector import EpisodeBuffer

    common = {"author": "a", "author_email": "a", "code_permalink": "a", "algorithm_name": "a", "description": "a"}

    def make(id, observation_space, observations, infos=None):
        buffer = EpisodeBuffer(
            observations=observations,
            actions=np.zeros(2, dtype=np.int64),
            rewards=np.zeros(2),
            terminations=np.zeros(2, dtype=bool),
            truncations=np.array([False, True]),
            infos=infos,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that there is no environment
            minari.create_dataset_from_buffers(
                id, [buffer], observation_space=observation_space, action_space=gym.spaces.Discrete(2), **common
            )

    flat_space = gym.spaces.Box(-1, 1, (2,), np.float64)
    make("lab/nested-v0", gym.spaces.Dict(a=flat_space), {"a": np.zeros((3, 2))})
    make("lab/words-v0", flat_space, np.zeros((3, 2)), {"word": ["a", "b", "c"]})
    for id, words in (("lab/nested-v0", "only flat boxes"), ("lab/words-v0", "the info 'word'")):
        with pytest.raises(ValueError, match=words):
            bridge.from_minari(id, "lab/human-v0", root=tmp_path / "here")
    with pytest.raises(ValueError, match="give it an id"):
        bridge.from_minari("lab/words-v0")
    with pytest.raises(ValueError, match="Minari cannot load 'lab/nothing-v0'"):
        bridge.from_minari("lab/nothing-v0", "lab/human-v0")
    assert not list((tmp_path / "here").rglob("manifest.json"))
