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


def made(id, episodes, observation=2, action_space=None):
    """A dataset of the given episodes, each a mapping of what `EpisodeBuffer` takes."""
    from minari.data_collector import EpisodeBuffer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is no environment
        return minari.create_dataset_from_buffers(
            id,
            [EpisodeBuffer(id=number, **episode) for number, episode in enumerate(episodes)],
            observation_space=gym.spaces.Box(-9, 9, (observation,), np.float64),
            action_space=action_space or gym.spaces.Box(-9, 9, (1,), np.float64),
            **{"author": "a", "author_email": "a", "code_permalink": "a", "algorithm_name": "a", "description": "a"},
        )


def plain(dtype=np.float32, steps=3, **changes):
    """An episode as the format wants it, but for the changes."""
    episode = {
        "observations": np.full((steps + 1, 2), 0.1, dtype),
        "actions": np.full((steps, 1), 0.1, dtype),
        "rewards": np.full(steps, 0.1, dtype),
        "terminations": np.arange(steps) == steps - 1,
        "truncations": np.zeros(steps, dtype=bool),
    }
    return {**episode, **changes}


@pytest.mark.parametrize("order", [(np.float32, np.float64), (np.float64, np.float32)])
def test_every_episode_keeps_its_precision(tmp_path, order):
    before = made("lab/mix-v0", [plain(dtype) for dtype in order])
    data = load_dataset(bridge.from_minari("lab/mix-v0", "mix/human-v0", root=tmp_path))
    for theirs, ours in zip(before, data, strict=True):
        assert (theirs.observations[:-1] == ours.observations).all()
        assert (theirs.observations[-1] == ours.final_observation).all()
        assert (theirs.actions == ours.actions).all() and (theirs.rewards == ours.rewards).all()


def test_task_labels_are_what_the_infos_say(tmp_path):
    told = [3, 0, 3, 17]
    episodes = [plain(infos={"task_id": np.full(4, task)}) for task in told]
    episodes[1] |= {"options": {"task": 5}}  # asked for, and not what was played
    made("lab/tasks-v0", episodes)
    folder = bridge.from_minari("lab/tasks-v0", "tasks/human-v0", root=tmp_path)
    data = load_dataset(folder)
    assert data.episodes["task"].tolist() == told and not verify(folder)
    assert [s.task for s in data.manifest.statistics] == [0, 3, 17]
    with pytest.raises(ValueError, match="of no benchmark here"):
        data.tasks  # noqa: B018
    made("lab/asked-v0", [plain(options={"task": 4}), plain(options={"task": 2})])
    asked = load_dataset(bridge.from_minari("lab/asked-v0", "asked/human-v0", root=tmp_path))
    assert asked.episodes["task"].tolist() == [4, 2]


ROW = np.array([False, True, True])
REFUSED = {
    "goes on after it": plain(terminations=ROW),
    "this one does not": plain(terminations=np.zeros(3, bool)),
    "rewards hold numbers that are not finite": plain(rewards=np.array([0, np.nan, 0], np.float32)),
    "observations hold numbers": plain(observations=np.full((4, 2), np.inf, np.float32)),
    "float16 have no place": plain(np.float16),
    "whole numbers in one episode": plain(actions=np.ones((3, 1), np.int64)),
    "of several tasks": plain(infos={"task_id": np.array([0, 0, 1, 1])}),
    "a task off the table": plain(infos={"task_id": np.full(4, -1)}),
    "actions have the shape": plain(actions=np.zeros((3, 2), np.float32)),
    "observations have the shape": plain(observations=np.zeros((4, 3), np.float32)),
}


@pytest.mark.parametrize("words", REFUSED)
def test_an_episode_that_does_not_fit_is_refused_and_leaves_nothing(tmp_path, words):
    made("lab/odd-v0", [plain(), REFUSED[words]])
    with pytest.raises(ValueError, match=words):
        bridge.from_minari("lab/odd-v0", "odd/human-v0", root=tmp_path / "here")
    assert not [path for path in (tmp_path / "here").rglob("*") if path.is_file() or "train" in path.name]


@pytest.mark.parametrize(
    ("space", "actions", "words"),
    [
        (gym.spaces.Discrete(3, start=1), np.array([1, 2, 3]), "begin with 1"),
        (gym.spaces.Discrete(3), np.array([0, 1, 3]), "an action is outside 0 to 2"),
    ],
)
def test_discrete_actions_that_verify_would_reject_are_refused(tmp_path, space, actions, words):
    made("lab/odd-v0", [plain(actions=actions)], action_space=space)
    with pytest.raises(ValueError, match=words):
        bridge.from_minari("lab/odd-v0", "odd/human-v0", root=tmp_path / "here")
    assert not list((tmp_path / "here").rglob("*.npy"))


@pytest.mark.filterwarnings("ignore:`eval_env` is set to None", "ignore:env_spec is None", "ignore:`env` is set")
def test_an_imported_set_is_used_by_its_id(tmp_path, monkeypatch, capsys):
    from metabench.cli.main import main

    monkeypatch.setenv("METABENCH_DATA", str(tmp_path / "here"))
    before = made("D4RL/pen/human-v2", [plain(), plain(np.float64, 5)])
    folder = bridge.from_minari("D4RL/pen/human-v2", "pen/human-v2")  # the example of the documentation
    data = load_dataset("pen/human-v2")
    assert data.folder == folder and len(data) == 2 and load_dataset("metabench/pen/human-v2", "train").folder == folder
    for arguments in (["info", "pen/human-v2"], ["verify", "pen/human-v2"], ["list"]):
        assert not main(["dataset", *arguments])
    assert "another origin" in capsys.readouterr().out
    assert not main(["dataset", "to-minari", "pen/human-v2", "--name", "back/pen-v0"])
    for one, two in zip(before, minari.load_dataset("back/pen-v0"), strict=True):
        assert (one.observations == two.observations).all() and (one.rewards == two.rewards).all()
    with pytest.raises(ValueError, match="no benchmark belongs to the dataset"):
        load_dataset("pen/human-v2", "test")


def test_a_set_of_ours_comes_back_under_the_name_it_is_given(sets, tmp_path):
    id = bridge.to_minari(sets / "point-robot/mixed-v0/test")
    folder = bridge.from_minari(id, "mine/robot-v0", root=tmp_path / "back")
    assert folder == tmp_path / "back" / "mine/robot-v0/test" and not verify(folder)
    data = load_dataset("mine/robot-v0", "test", root=tmp_path / "back")
    assert data.manifest.id == "metabench/mine/robot-v0" and data.manifest.benchmark == "PointRobot-v0"
    same = {name: digest for name, digest in tree(folder).items() if name != "manifest.json"}
    assert same.items() <= tree(sets / "point-robot/mixed-v0/test").items()
    assert bridge.to_minari(folder) == "metabench/mine/robot-test-v0"
    with pytest.raises(ValueError, match="holds the split test of PointRobot-v0: it cannot become ood"):
        bridge.from_minari(id, "mine/other-v0", split="ood", root=tmp_path / "back")
