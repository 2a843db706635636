"""Meta-DT and its baselines: prompts are the worst foretold segments, nothing of a test task is read, runs continue."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from metabench_agents.parts.config import read_config
from metabench_agents.parts.run import Run, load_checkpoint
from metabench_agents.sequence import bc, dt, meta_dt, prompt_dt, world_model
from metabench_agents.sequence.decision_transformer import DecisionTransformer
from metabench_agents.sequence.episodes import Actions, Episodes, hold_out, segment_sums
from metabench_agents.sequence.playing import SequenceTick
from metabench_agents.sequence.prompts import SegmentSettings, SiblingPrompts, Surprise
from metabench_agents.sequence.targets import TargetSettings, flat_target
from metabench_agents.sequence.trials.model import TrialSurprise

import metabench
from metabench import Timestep

ID = "PointRobot-v0"
SIZES = {
    "window": 20,
    "layers": 1,
    "width": 16,
    "updates": 200,
    "warmup": 20,
    "batch": 8,
}  # flat, as settings once were
WORLD = {"world_updates": 300, "world_width": 16, "context": 4, "world_batch": 16}
FLAT = {
    meta_dt: SIZES | WORLD | {"prompt_length": 5},
    prompt_dt: SIZES | {"prompt_length": 5},
    dt: SIZES,
    bc: {"updates": 300, "batch": 16, "width": 16},
}


def small(module, **changes):
    """Small settings of an algorithm with some of them changed, by their flat names."""
    return read_config(module.Config, flat_target(FLAT[module] | changes), getattr(module, "RENAMED", None))


SMALL = {module: small(module) for module in FLAT}


def point_robot(benchmark, data, split, codec, per=10, far=0.1):
    """Episodes that walk straight to each task's goal, noisily."""
    goals, rng = metabench.spec(benchmark).table().rows[split], np.random.default_rng(0)
    seen, done, got, tasks = [], [], [], []
    for task, goal in enumerate(goals):
        place = np.zeros((per, 2))
        columns = [place], [], []
        for _ in range(20):
            action = np.clip(goal - place, -far, far) + rng.normal(size=(per, 2)) * 0.02
            place = place + np.clip(action, -0.1, 0.1)
            for column, value in zip(
                columns, (place, np.clip(action, -0.1, 0.1), -np.hypot(*(place - goal).T)), strict=True
            ):
                column.append(value)
        seen += list(np.stack(columns[0], 1))
        done += list(np.stack(columns[1], 1))
        got += list(np.stack(columns[2], 1))
        tasks += [task] * per
    return Episodes.of(seen, done, got, tasks, codec)


@pytest.fixture(autouse=True)
def splits(monkeypatch):
    """The data are made in memory; which splits were read is written down."""
    read = []

    def load(benchmark, data, split, codec):
        read.append(split)
        return point_robot(benchmark, data, split, codec)

    for module in SMALL:
        monkeypatch.setattr(module, "load_episodes", load)
    return read


def trained(module, folder, config=None, seed=3):
    return module.train(ID, config or SMALL[module], seed=seed, run=Run(folder, show=False))


def comparable(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows], load_checkpoint(
        folder
    ).tensors


def assert_equal_runs(a, b):
    (rows_a, tensors_a), (rows_b, tensors_b) = comparable(a), comparable(b)
    assert rows_a == rows_b and tensors_a.keys() == tensors_b.keys()
    assert all(torch.equal(tensors_a[name], tensors_b[name]) for name in tensors_a)


@pytest.mark.parametrize("module", SMALL, ids=lambda m: m.NAME)
def test_a_run_is_its_seed_and_loads_as_it_was(module, tmp_path):
    agent = trained(module, tmp_path / "a")
    trained(module, tmp_path / "b")
    assert_equal_runs(tmp_path / "a", tmp_path / "b")
    results = [metabench.evaluate(a, ID, seed=1) for a in (agent, module.load(tmp_path / "a"))]
    assert results[0].returns == results[1].returns
    assert agent.protocol == module.load(tmp_path / "a").protocol == results[0].protocol.version == "slots-2"
    assert results[0].track == {"prompt-dt": "prompt-k"}.get(module.NAME, "offline")
    assert results[0].agent == module.NAME


@pytest.mark.parametrize("module", SMALL, ids=lambda m: m.NAME)
@pytest.mark.parametrize("saves", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_a_stopped_run_continues_to_the_same_bits(module, saves, tmp_path, monkeypatch):
    """Stopped right after its n-th checkpoint, in either phase."""
    monkeypatch.setattr("metabench_agents.parts.run.SAVE_SECONDS", -1.0)  # a checkpoint after every block
    trained(module, tmp_path / "whole")
    save, count = Run.save, [0]

    def stopping(self, *arguments):
        save(self, *arguments)
        count[0] += 1
        if count[0] == saves:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Run, "save", stopping)
        if saves <= {"meta-dt": 5, "bc": 3}.get(module.NAME, 2):
            with pytest.raises(KeyboardInterrupt):
                trained(module, tmp_path / "stopped")
    trained(module, tmp_path / "stopped")
    assert_equal_runs(tmp_path / "whole", tmp_path / "stopped")


@pytest.mark.parametrize("module", [meta_dt, dt, bc], ids=lambda m: m.NAME)
def test_no_test_task_is_read(module, tmp_path, splits):
    agent = trained(module, tmp_path)
    assert set(splits) == {"train"} and not agent.privileged


@pytest.mark.parametrize(("target", "reduce"), [("mean", np.mean), ("best", np.max)])
def test_the_return_asked_for_comes_from_the_training_tasks(target, reduce, tmp_path):
    config = small(meta_dt, updates=1, world_updates=1, target=target)
    agent = trained(meta_dt, tmp_path, config)
    episodes = point_robot(ID, "", "train", agent.codec)
    best = [float(episodes.returns[episodes.task == task].max()) for task in range(45)]
    assert float(agent.asking.value) == pytest.approx(reduce(best), rel=1e-5)
    step = Timestep(np.zeros((2, 2)), np.zeros((2, 2)), np.zeros(2), np.ones(2, dtype=bool), np.zeros((2, 2)))
    belief = agent.act(step, agent.begin(2))[1]
    assert torch.allclose(belief.ticks[0].togo * agent.network.return_scale, agent.asking.value)


def test_the_world_model_is_selected_on_episodes_it_did_not_learn_from(tmp_path, monkeypatch):
    seen = []
    original = world_model.EpisodeSteps

    class Spy(original):
        def __init__(self, episodes, model, **keywords):
            seen.append(set(episodes.first.tolist()))
            super().__init__(episodes, model, **keywords)

    for module in (world_model, meta_dt):
        monkeypatch.setattr(module, "EpisodeSteps", Spy)
    trained(meta_dt, tmp_path)
    learn, select = seen[:2]
    assert not learn & select and len(select) == 45
    rows = comparable(tmp_path)[0]
    found = [row["held_out_loss"] for row in rows if "held_out_loss" in row]
    assert float(comparable(tmp_path)[1]["best"]) == 0.0 and found, "of the last phase: the world model is settled"


def test_every_tenth_episode_of_a_task_is_held_out():
    episodes = point_robot(ID, "", "test", Actions(metabench.spec(ID).family().action_space), per=20)
    learn, held = hold_out(episodes)
    assert torch.bincount(episodes.task[held]).tolist() == [2] * 5
    assert sorted([*learn.tolist(), *held.tolist()]) == list(range(100))


# --- prompts ------------------------------------------------------------------------------------------------------


def model_and_config(**changes):
    torch.manual_seed(0)
    config = small(meta_dt, **changes)
    _, model, _ = meta_dt._models(ID, config)
    torch.manual_seed(1)
    for bias in (p for n, p in model.named_parameters() if "bias" in n):
        torch.nn.init.normal_(bias)
    return model, config


def surprise_of(model, config, protocol="slots-2"):
    return Surprise(model, config.world_model, config.prompt, config.released, protocol)


def ticks_of(episodes, which):
    """Whole episodes as an agent would have played them, side by side."""
    rows = episodes.first[which, None] + torch.arange(20)
    ticks = []
    for t in range(20):
        reward = torch.zeros(len(which)) if t == 0 else episodes.reward[rows[:, t - 1]]
        first = torch.full((len(which),), t == 0)
        time = torch.full((len(which),), t)
        parts = (episodes.observation[rows[:, t]], reward, first, time, reward * 0, torch.zeros(len(which), 4))
        ticks.append(SequenceTick(*parts, episodes.action[rows[:, t]], torch.zeros(len(which), 2)))
    return tuple(ticks)


def after(episodes, which, steps=20):
    """The tick that begins the next episode, where these ended after so many steps; under slots-2 it says how."""
    rows, nothing = episodes.first[which] + steps, torch.zeros(len(which))
    first, time = torch.ones(len(which), dtype=torch.bool), nothing.long()
    seen = torch.full((len(which), 2), 9.0)  # of another start than the end
    parts = (seen, episodes.reward[rows - 1], first, time, nothing, torch.zeros(len(which), 4), seen * 0)
    return SequenceTick(*parts, episodes.observation[rows])


@pytest.fixture
def episodes():
    return point_robot(ID, "", "test", Actions(metabench.spec(ID).family().action_space))


@pytest.mark.parametrize("protocol", ["slots-1", "slots-2"])
def test_the_prompt_is_the_worst_foretold_segment(episodes, protocol):
    """By brute force over all segments of the episode that are known whole and begin at step h or later."""
    model, config = model_and_config(prompt_length=3)
    which = torch.arange(50)
    now = after(episodes, which)
    if protocol == "slots-1":
        now = now._replace(reward=now.reward * 0, final=now.final * 0)
    choice = surprise_of(model, config, protocol).choose(ticks_of(episodes, which), now)
    errors, last = world_model.errors(model, episodes), 17 if protocol == "slots-2" else 16
    for row, episode in enumerate(which.tolist()):
        first = int(episodes.first[episode])
        sums = {start: float(errors[first + start : first + start + 3].sum()) for start in range(4, last + 1)}
        start = max(sums, key=sums.__getitem__)  # 16 + 3 = 19: under slots-1 the last step's reward is never shown
        assert choice.prompt.time[row].tolist() == [start, start + 1, start + 2]
        assert torch.equal(choice.prompt.observation[row], episodes.observation[first + start : first + start + 3])
        assert torch.equal(choice.prompt.action[row], episodes.action[first + start : first + start + 3])
        reward = episodes.reward[first : first + 20].clone()
        if protocol == "slots-1":
            reward[19] = reward[18]
        else:
            assert choice.merit[row] == pytest.approx(float(episodes.returns[episode]), rel=1e-5)
        assert choice.merit[row] == pytest.approx(float(reward.sum()), rel=1e-5)
        assert choice.prompt.togo[row, 0] == pytest.approx(float(reward[start:].sum()), rel=1e-5)
    assert choice.possible.all()
    assert protocol == "slots-1" or (choice.prompt.time[:, 0] == 17).any(), "the last step is never in a prompt"


@pytest.mark.parametrize("decoders", ["reward", "state", "both"])
def test_the_error_at_play_is_that_while_learning(episodes, decoders):
    """At every step of an episode, the last one included: its reward and where it led are told at the next's first."""
    model, config = model_and_config(decoders=decoders)
    model.mean, model.std = episodes.scale()
    which = torch.tensor([0, 13, 27])
    found = surprise_of(model, config).errors(ticks_of(episodes, which), after(episodes, which))
    rows = episodes.first[which, None] + torch.arange(20)
    assert torch.allclose(found, world_model.errors(model, episodes)[rows], atol=1e-5)


def test_z_at_play_is_z_while_learning(episodes):
    model, config = model_and_config()
    surprise, which = surprise_of(model, config), torch.tensor([2, 30])
    z, ticks = world_model.contexts(model, episodes), ticks_of(episodes, which)
    late = surprise_of(model, model_and_config(released=("late-context",))[1])
    empty = model.encoder(torch.zeros(4, 1, 5))[0]
    for t in range(20):
        expected = z[episodes.first[which] + t]
        assert torch.allclose(surprise.recall(ticks[:t], ticks[t]).context, expected, atol=1e-6)
        released = torch.zeros(2, 4) if t == 0 else empty.expand(2, -1) if t < 4 else expected
        assert torch.allclose(late.recall(ticks[:t], ticks[t]).context, released, atol=1e-6)


def test_the_second_episode_forgets_the_first_in_z(episodes):
    model, config = model_and_config()
    ticks = ticks_of(episodes, torch.tensor([4]))
    again = tuple(t._replace(reward=t.reward * 0 if t.time[0] == 0 else t.reward) for t in ticks)
    surprise = surprise_of(model, config)
    for t in range(6):
        after, alone = surprise.recall(ticks + again[:t], again[t]), surprise.recall(again[:t], again[t])
        assert torch.allclose(after.context, alone.context)


@pytest.mark.parametrize(("protocol", "enough"), [("slots-1", 10), ("slots-2", 9)])
def test_segments_of_an_episode_that_was_too_short_are_none(episodes, protocol, enough):
    """Steps 4 to 8 hold five; under slots-1 the reward of the last is unknown."""
    model, config = model_and_config()
    surprise, one = surprise_of(model, config, protocol), torch.tensor([0])
    for steps in (3, enough - 1, enough):
        choice = surprise.choose(ticks_of(episodes, one)[:steps], after(episodes, one, steps))
        assert choice.possible.tolist() == [steps == enough]


def test_prompts_while_learning_are_of_another_episode_of_the_task(episodes):
    model, config = model_and_config(prompt_length=3)
    prompter = SiblingPrompts(episodes, model, config.world_model, config.prompt, config.released, seed=0)
    errors = world_model.errors(model, episodes)
    rows = episodes.first[:, None] + torch.arange(20)
    expected = segment_sums(errors[rows], 3)[:, 4:].argmax(1) + 4
    assert torch.equal(prompter.start, expected)
    which = torch.arange(50)
    prompt = prompter.draw(which, torch.Generator().manual_seed(0))
    last = prompt.observation[:, 0] - 0.0
    for row in range(50):
        mates = [e for e in range(50) if e // 10 == row // 10 and e != row]
        candidates = torch.stack([episodes.observation[episodes.first[e] + expected[e]] for e in mates])
        assert (candidates == last[row]).all(1).any()


def test_random_and_released_choices(episodes):
    model, _ = model_and_config()
    ticks, now = ticks_of(episodes, torch.arange(50)), after(episodes, torch.arange(50))
    for changes in ({"prompt": "random"}, {"released": ("sampled-prompt",)}, {"world_model": False}):
        config = small(meta_dt, **changes)
        choice = surprise_of(model if "world_model" not in changes else None, config).choose(ticks, now)
        starts = choice.prompt.time[:, 0]
        assert choice.possible.all() and starts.min() >= 4 and starts.max() <= 15 and len(starts.unique()) > 5
        prompter = SiblingPrompts(episodes, model, config.world_model, config.prompt, config.released, seed=0)
        drawn = prompter.draw(torch.arange(50), torch.Generator().manual_seed(0)).time[:, 0]
        assert drawn.min() >= 4 and drawn.max() <= 15 and len(drawn.unique()) > 5


def test_demonstrations_are_the_last_steps_of_the_best_episodes(episodes):
    tasks, best = prompt_dt.best_episodes(episodes, 3)
    assert tasks.tolist() == [0, 1, 2, 3, 4]
    for task in range(5):
        mine = episodes.returns[task * 10 : task * 10 + 10]
        assert best[task].tolist() == (torch.argsort(mine, descending=True)[:3] + task * 10).tolist()
    prompt = prompt_dt.cut(episodes, best[:, 0], 5)
    assert (prompt.time == torch.arange(14, 19)).all()
    with pytest.raises(ValueError, match="a prompt of 30 steps does not fit an episode of 20"):
        prompt_dt.cut(episodes, best[:, 0], 30)


def test_prompt_dt_shows_the_network_no_task(tmp_path):
    """The context it is shown finds the demonstration, and goes nowhere else."""
    agent = trained(prompt_dt, tmp_path)
    goals = metabench.spec(ID).table().rows["test"][:2]
    step = Timestep(
        np.concatenate((np.zeros((2, 2)), goals), 1),
        np.zeros((2, 2)),
        np.zeros(2),
        np.ones(2, dtype=bool),
        np.zeros((2, 4)),
    )
    belief = agent.act(step, agent.begin(2))[1]
    assert belief.ticks[0].observation.shape == (2, 2) and not torch.equal(*belief.prompt.observation)


# --- switches and bad input -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in meta_dt.get_args(meta_dt.Released) if not n.startswith("test-")])
def test_every_released_way_trains(name, tmp_path):
    tiny = {"updates": 4, "world_updates": 4, "released": (name,)}
    agent = trained(meta_dt, tmp_path, small(meta_dt, **tiny))
    assert agent.codec.half.tolist() == ([1.0, 1.0] if name == "raw-actions" else pytest.approx([0.1, 0.1]))
    assert not agent.privileged
    again = metabench.evaluate(meta_dt.load(tmp_path), ID)
    assert again.returns == metabench.evaluate(agent, ID).returns


def test_test_targets_are_the_tasks_own_and_privileged(tmp_path, splits):
    tiny = {"updates": 1, "world_updates": 1, "released": ("test-targets", "test-selection")}
    agent = trained(meta_dt, tmp_path, small(meta_dt, **tiny))
    assert "test" in splits and agent.privileged
    agent = meta_dt.load(tmp_path)
    own = point_robot(ID, "", "test", agent.codec).best()
    goals = torch.tensor(metabench.spec(ID).table().rows["test"]).float()
    assert torch.allclose(agent.asking.value(goals), own)
    assert metabench.evaluate(agent, ID).track == "oracle"


@pytest.mark.parametrize(
    "changes", [{"world_model": False}, {"prompt": "none"}, {"prompt": "random"}, {"history": 2, "prompt_length": 3}]
)
def test_every_ablation_trains(changes, tmp_path):
    tiny = {"updates": 4, "world_updates": 4} | changes
    agent = trained(meta_dt, tmp_path, small(meta_dt, **tiny))
    assert metabench.evaluate(meta_dt.load(tmp_path), ID).returns == metabench.evaluate(agent, ID).returns
    assert (agent.recall is None) == ("world_model" in changes) and (agent.choose is None) == (
        "none" in changes.values()
    )


def test_the_warm_up_is_the_first_fifth():
    config = read_config(meta_dt.Config, {"updates": 100, "released": ("warm-up",)}, meta_dt.RENAMED)
    made = [meta_dt._with_prompt(config, i, torch.Generator()) for i in range(100)]
    assert made == [False] * 20 + [True] * 80
    generator = torch.Generator().manual_seed(0)
    share = np.mean([meta_dt._with_prompt(meta_dt.Config(), i, generator) for i in range(2000)])
    assert share == pytest.approx(0.5, abs=0.05)


def test_sizes_left_open_are_the_released_ones_of_the_family():
    for benchmark, sizes in {"HopperParam-v0": (8, 3), "metabench/WalkerParam-v0": (8, 3), ID: (20, 5)}.items():
        for module in (meta_dt, prompt_dt):
            config = module.Config().settled(benchmark)
            assert (config.transformer.window, config.prompt.length) == sizes
        assert dt.Config().settled(benchmark).transformer.window == sizes[0]
    config = small(meta_dt, window=7, prompt_length=4).settled(ID)
    assert (config.transformer.window, config.prompt.length) == (7, 4)


def test_bad_settings_are_told():
    with pytest.raises(ValueError, match="unknown way 'late' of the released code; available: sampled-prompt"):
        meta_dt.Config(released=("late",))
    with pytest.raises(ValueError, match=r"the share of the updates with a prompt must lie in \[0, 1\], got 2"):
        SegmentSettings(share=2)
    with pytest.raises(ValueError, match="test-targets are returns, and the"):
        meta_dt.Config(target=TargetSettings("rank"), released=("test-targets",))


def test_discrete_actions_are_refused(tmp_path):
    with pytest.raises(ValueError, match="act in a bounded Box"):
        meta_dt.train("GridNavigation-v0", SMALL[meta_dt], seed=0, run=Run(tmp_path, show=False))


def test_a_run_that_has_no_transformer_yet_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(DecisionTransformer, "forward", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        trained(meta_dt, tmp_path)
    with pytest.raises(ValueError, match="has not come to its transformer yet"):
        meta_dt.load(tmp_path)


TRIAL = {"sees": "trial", "trial": world_model.TrialModelFitting(updates=300, trials=8)}
AVERAGE = {"average": True}
FORGETS = {"lasts": "episode"}


@pytest.mark.parametrize(
    "changes", [TRIAL, AVERAGE, AVERAGE | FORGETS], ids=["trial", "average", "average of the episode"]
)
def test_a_world_model_of_trials_is_its_seed_continues_and_loads(changes, tmp_path, monkeypatch):
    """Stopped in either phase, with prompts; and what z tells is logged once."""
    monkeypatch.setattr("metabench_agents.parts.run.SAVE_SECONDS", -1.0)
    config = small(meta_dt)
    config = replace(config, world_model=replace(config.world_model, **changes))
    agent = trained(meta_dt, tmp_path / "whole", config)
    save, count = Run.save, [0]

    def stopping(self, *arguments):
        save(self, *arguments)
        count[0] += 1
        if count[0] in (2, 4):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Run, "save", stopping)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                trained(meta_dt, tmp_path / "stopped", config)
    trained(meta_dt, tmp_path / "stopped", config)
    assert_equal_runs(tmp_path / "whole", tmp_path / "stopped")
    told = [row for row in comparable(tmp_path / "whole")[0] if row["phase"] == "invariance"]
    assert [row["behaviour"] for row in told] == ["behaviour"] and set(told[0]["r2"]) == {"1", "2", "4", "8", "16"}
    result = metabench.evaluate(agent, ID, seed=1)
    assert metabench.evaluate(meta_dt.load(tmp_path / "whole"), ID, seed=1).returns == result.returns
    assert np.isfinite(result.array()).all()


def test_running_means_are_those_of_the_trial_so_far(episodes):
    """By hand, over an episode, and over one with two others before it."""
    z = torch.randn(len(episodes.reward), 3, generator=torch.Generator().manual_seed(0))
    before = [torch.arange(len(episodes)) - 1, torch.arange(len(episodes)) - 2]
    tables = meta_dt.running_means(z, episodes, before)
    own = lambda e, t: [z[episodes.first[e] + s] for s in range(1, t + 1)]  # noqa: E731
    for t in (0, 1, 7, 19):
        row = int(episodes.first[11]) + t
        first = torch.stack(own(11, t)).mean(0) if t else z[row]
        assert torch.allclose(tables[0][row], first, atol=1e-5)
        assert torch.allclose(tables[1][row], torch.stack(own(10, 19) + own(11, t)).mean(0), atol=1e-5)
        # one before 11 is 10; that one's own predecessor, by the second order, is 8
        assert torch.allclose(tables[2][row], torch.stack(own(8, 19) + own(9, 19) + own(11, t)).mean(0), atol=1e-5)


def test_the_running_mean_at_play_is_that_while_learning(episodes):
    model, config = model_and_config()
    config = replace(config, world_model=replace(config.world_model, average=True))
    surprise, which = surprise_of(model, config), torch.tensor([2, 30])
    z = world_model.contexts(model, episodes)
    tables = meta_dt.running_means(z, episodes, [torch.arange(len(episodes))])  # of an episode, the same before it
    played = []
    for table in tables:
        for t, tick in enumerate(ticks_of(episodes, which)):
            played.append(surprise.recall(tuple(played), tick))
            assert torch.allclose(played[-1].context, table[episodes.first[which] + t], atol=1e-5)


@pytest.mark.parametrize("sees", ["window", "trial"])
def test_a_z_that_lasts_an_episode_begins_anew_with_each(sees, episodes):
    """At play every episode has the z of a trial's first, and while learning nothing is carried over."""
    config = small(meta_dt)
    changes = FORGETS | (TRIAL if sees == "trial" else AVERAGE)
    config = replace(config, world_model=replace(config.world_model, **changes))
    torch.manual_seed(0)
    model = meta_dt._models(ID, config)[1]
    ways = (config.world_model, config.prompt, config.released)
    surprise = TrialSurprise.of(model, *ways) if sees == "trial" else Surprise(model, *ways)
    which = torch.tensor([2, 30])
    alone = meta_dt.Beliefs(model, episodes, config, 0)
    assert len(alone.tables) == 1 and alone.carried == 0.0
    played = []
    for _ in range(3):
        for t, tick in enumerate(ticks_of(episodes, which)):
            played.append(surprise.recall(tuple(played), tick))
            assert torch.allclose(played[-1].context, alone.alone[episodes.first[which] + t], atol=1e-5)


@pytest.mark.parametrize("kind", ["rank", "return", "expectile"])
@pytest.mark.parametrize("module", [dt, prompt_dt, meta_dt], ids=lambda m: m.NAME)
def test_every_way_of_asking_trains_and_loads(module, kind, tmp_path):
    tiny = {"updates": 4} | ({"world_updates": 4} if module is meta_dt else {})
    agent = trained(module, tmp_path, replace(small(module, **tiny), target=TargetSettings(kind)))
    assert metabench.evaluate(module.load(tmp_path), ID).returns == metabench.evaluate(agent, ID).returns
    assert agent.privileged == (module is prompt_dt)
    row = comparable(tmp_path)[0][-1]
    assert ("aspiration_loss" in row) == (kind != "rank"), "where ranks are asked for nobody aspires to returns"
