"""The four agents: a run is its seed and survives a kill, nothing of a test task is read unless it is to be shown."""

import json

import numpy as np
import pytest
import torch
from metabench_agents.context.actor_critic import ActionScale
from metabench_agents.context.offline import agents, corro, csro, data, focal, playing, unicorn
from metabench_agents.context.offline.data import TaskData
from metabench_agents.context.offline.fitting import OfflineTrainer
from metabench_agents.context.offline.network import OfflineNetwork
from metabench_agents.context.replay import Transitions
from metabench_agents.parts.config import with_settings
from metabench_agents.parts.device import Device
from metabench_agents.parts.run import Run, load_checkpoint

import metabench
from metabench.plugins import load_plugin

ID = "PointRobot-v0"
ALGORITHMS = (focal, unicorn, csro, corro)
SMALL = {
    "encoder.hidden": 16,
    "learning.hidden": 16,
    "fitting.updates": 20,
    "fitting.ahead": 15,
    "fitting.tasks": 4,
    "fitting.batch": 8,
    "fitting.context": 16,
}


def small(module, **changes):
    return with_settings(module.Config(), SMALL | {name.replace("__", "."): v for name, v in changes.items()})


def point_robot(benchmark, quality, split, actions, per=40):
    """Transitions from anywhere near the start, with actions drawn evenly."""
    goals, rng = metabench.spec(benchmark).table().rows[split], np.random.default_rng(0)
    tasks = np.repeat(np.arange(len(goals)), per)
    place = rng.uniform(-1, 1, (len(tasks), 2))
    action = rng.uniform(-0.1, 0.1, (len(tasks), 2)).astype(np.float32)
    reward = -np.linalg.norm(place + action - goals[tasks], axis=1)
    seen, led_to, got = (torch.as_tensor(x).float() for x in (place, place + action, reward))
    transitions = Transitions(seen, actions.from_env(action), got, led_to, torch.zeros(len(tasks)))
    return TaskData.of(transitions, torch.as_tensor(tasks))


@pytest.fixture(autouse=True)
def splits(monkeypatch):
    """The data are made in memory; which splits were read is written down."""
    read = []

    def load(benchmark, quality, split, actions):
        read.append(split)
        return point_robot(benchmark, quality, split, actions)

    for module in (agents, playing):
        monkeypatch.setattr(module, "load_task_data", load)
    monkeypatch.setattr("metabench_agents.parts.run.BLOCK", 10)
    return read


def trained(module, folder, config=None, seed=3):
    return module.train(ID, config or small(module), seed=seed, run=Run(folder, show=False))


def comparable(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows], load_checkpoint(
        folder
    ).tensors


def assert_equal_runs(a, b):
    (rows_a, tensors_a), (rows_b, tensors_b) = comparable(a), comparable(b)
    assert rows_a == rows_b and tensors_a.keys() == tensors_b.keys()
    assert all(torch.equal(tensors_a[name], tensors_b[name]) for name in tensors_a)


@pytest.mark.parametrize("kind", ["iql", "brac"])
@pytest.mark.parametrize("module", ALGORITHMS, ids=lambda m: m.NAME)
def test_a_run_is_its_seed_and_loads_as_it_was(module, kind, tmp_path):
    config = small(module, learning__kind=kind)
    agent = trained(module, tmp_path / "a", config)
    trained(module, tmp_path / "b", config)
    assert_equal_runs(tmp_path / "a", tmp_path / "b")
    results = [metabench.evaluate(a, ID, seed=1) for a in (agent, module.load(tmp_path / "a"))]
    assert results[0].returns == results[1].returns
    assert (results[0].track, results[0].agent, results[0].protocol.version) == ("offline", module.NAME, "slots-2")


@pytest.mark.parametrize("kind", ["iql", "brac"])
@pytest.mark.parametrize("saves", [1, 3])
@pytest.mark.parametrize("module", ALGORITHMS, ids=lambda m: m.NAME)
def test_a_stopped_run_continues_to_the_same_bits(module, saves, kind, tmp_path, monkeypatch):
    """Stopped right after its n-th checkpoint: while the encoder learns alone, and while the policy learns."""
    monkeypatch.setattr("metabench_agents.parts.run.SAVE_SECONDS", -1.0)  # one after every block
    config = small(module, learning__kind=kind)
    trained(module, tmp_path / "whole", config)
    save, count = Run.save, [0]

    def stopping(self, *arguments):
        save(self, *arguments)
        count[0] += 1
        if count[0] == saves:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Run, "save", stopping)
        with pytest.raises(KeyboardInterrupt):
            trained(module, tmp_path / "stopped", config)
    trained(module, tmp_path / "stopped", config)
    assert_equal_runs(tmp_path / "whole", tmp_path / "stopped")


@pytest.mark.parametrize("module", ALGORITHMS, ids=lambda m: m.NAME)
def test_no_test_task_is_read(module, tmp_path, splits):
    agent = trained(module, tmp_path)
    assert set(splits) == {"train"} and not agent.privileged


@pytest.mark.parametrize("module", ALGORITHMS, ids=lambda m: m.NAME)
def test_what_is_shown_is_of_the_task_and_named_as_a_privilege(module, tmp_path, splits):
    config = small(module, playing__context="shown", playing__shown=12, playing__explore=0)
    agent = trained(module, tmp_path, config)
    assert set(splits) == {"train", "test", "ood"} and agent.privileged and agent.track == "prompt-k"
    result = metabench.evaluate(module.load(tmp_path), ID)
    assert result.returns == metabench.evaluate(agent, ID).returns and result.track == "prompt-k"
    kept = load_checkpoint(tmp_path).tensors
    goals = metabench.spec(ID).table().rows
    assert kept["shown/rows"].shape[1] == 12
    place, reward = kept["shown/rows"][..., :2], kept["shown/rows"][..., 4]
    moved = place + kept["shown/rows"][..., 2:4] * 0.1
    assert torch.allclose(-(moved - kept["shown/tasks"][:, None].float()).norm(dim=-1), reward, atol=1e-5)
    assert len(kept["shown/tasks"]) == sum(len(goals[name]) for name in ("train", "test", "ood"))


def test_a_task_without_data_is_refused(tmp_path):
    agent = trained(focal, tmp_path, small(focal, playing__context="shown", fitting__updates=1, fitting__ahead=0))
    stranger = metabench.Timestep(
        np.full((1, 4), 7.0), np.zeros((1, 2)), np.zeros(1), np.ones(1, dtype=bool), np.zeros((1, 4))
    )
    with pytest.raises(ValueError, match="a task for which it has no data"):
        agent.act(stranger, agent.begin(1))


def test_the_policy_teaches_the_encoder_nothing(tmp_path):
    """With the encoder's own rate at zero it stays as it began, however long the policy learns."""
    for name, together in (("on", True), ("off", False)):
        config = small(focal, fitting__learning_rate=0.0, fitting__together=together, fitting__ahead=0)
        trained(focal, tmp_path / name, config)
    one, other = (load_checkpoint(tmp_path / name).tensors for name in ("on", "off"))
    encoder = [name for name in one if name.startswith("network/encoder.")]
    assert encoder and all(torch.equal(one[name], other[name]) for name in encoder)


def test_an_encoder_that_was_trained_ahead_is_left_alone(tmp_path):
    short, long = (small(corro, fitting__updates=n) for n in (10, 20))
    for name, config in (("short", short), ("long", long)):
        trained(corro, tmp_path / name, config)
    one, other = (load_checkpoint(tmp_path / name).tensors for name in ("short", "long"))
    assert all(torch.equal(one[n], other[n]) for n in one if n.startswith("network/encoder."))
    assert not all(torch.equal(one[n], other[n]) for n in one if n.startswith("network/core."))


@pytest.mark.parametrize("outcomes", ["noise", "vae"])
def test_corro_makes_other_outcomes_either_way(outcomes, tmp_path):
    config = small(corro, contrast__outcomes=outcomes, encoder__sees="step")
    trained(corro, tmp_path, config)
    rows = comparable(tmp_path)[0]
    assert ("vae_loss" in rows[0]) == (outcomes == "vae") and np.isfinite(rows[-1]["policy_loss"])
    assert rows[-1].keys().isdisjoint({"encoder_loss"}), "the encoder is left alone by then"


def test_corros_policy_is_given_z_in_standard_deviations(tmp_path):
    """Its raw codes lie next to each other on the sphere; what the policy gets has mean 0 and deviation 1."""
    network = trained(corro, tmp_path / "a").network
    found = point_robot(ID, "mixed", "train", network.actions)
    numbers = torch.arange(len(found)).repeat(30)
    context = found.draw(numbers, 16, torch.Generator().manual_seed(1))
    z = network.z(context)
    assert torch.allclose(z.mean(0), torch.zeros(z.shape[1]), atol=0.3)
    assert torch.allclose(z.std(0), torch.ones(z.shape[1]), atol=0.25)
    raw = network.encoder(network.encoder.facts(context))
    assert torch.allclose(raw.norm(dim=-1), torch.ones(()), atol=1e-5)
    by_hand = (raw.mean(1) - network.encoder.code_center) / network.encoder.code_scale
    assert torch.allclose(z, by_hand, atol=1e-4)
    with pytest.raises(ValueError, match="left alone"):
        trained(corro, tmp_path / "b", small(corro, fitting__together=True))


def test_too_small_contexts_are_told():
    config = small(corro, fitting__context=6, contrast__pairs=4)
    with pytest.raises(ValueError, match=r"4 pairs need contexts of 8 transitions, and fitting.context is 6"):
        corro.train(ID, config, seed=0, run=_nowhere())


def _nowhere():
    class Nowhere:
        def begin(self, *arguments):
            return None

        def progress(self, *arguments):
            import contextlib

            return contextlib.nullcontext(lambda *_: None)

    return Nowhere()


def test_discrete_actions_are_refused(tmp_path):
    with pytest.raises(ValueError, match="acts in bounded Box spaces only"):
        focal.train("GridNavigation-v0", small(focal), seed=0, run=Run(tmp_path, show=False))


def test_they_are_plugins_and_what_a_family_hides_decides_what_is_seen():
    for module in ALGORITHMS:
        assert load_plugin(module.NAME) is module
    for id, sees in (("PointRobot-v0", "reward"), ("CheetahVel-v0", "reward"), ("HopperParam-v0", "step")):
        assert focal.Config().encoder.settled(id).sees == sees
        assert with_settings(focal.Config(), {"encoder.sees": "step"}).encoder.settled(id).sees == "step"


def test_loading_keeps_tasks_apart(monkeypatch, tmp_path):
    """From a set on the disk: rewards are those of each transition's own goal."""
    monkeypatch.setenv("METABENCH_DATA", str(tmp_path))
    metabench.datasets.generate("point-robot/medium-v0", "test", episodes=3)
    actions = ActionScale(metabench.spec(ID).family().action_space)
    found = data.load_task_data(ID, "medium", "test", actions)
    goals = torch.tensor(metabench.spec(ID).table().rows["test"]).float()
    drawn = found.draw(torch.tensor([4, 0, 4]), 50, torch.Generator().manual_seed(0))
    want = -(drawn.next_observation - goals[[4, 0, 4], None]).norm(dim=-1)
    assert torch.allclose(drawn.reward, want, atol=1e-5) and drawn.observation.shape == (3, 50, 2)
    assert drawn.action.abs().max() <= 1.0 and found.count.tolist() == [60] * 5
    with pytest.raises(ValueError, match="was played on PointRobot-v0, not on CheetahVel-v0"):
        data.load_task_data("CheetahVel-v0", "metabench/point-robot/medium-v0", "test", actions)


@pytest.mark.parametrize(("kind", "ahead", "updates"), [("iql", 3, 11), ("brac", 1, 2)])
def test_an_update_is_a_pure_function_of_what_it_is_given(kind, ahead, updates):
    """Captured as for a graph, which is rehearsed on the CPU, it learns what it learns eagerly."""
    ends = []
    for form in ("eager", "captured"):
        torch.manual_seed(0)
        config = small(csro, learning__kind=kind, fitting__updates=updates, fitting__ahead=ahead)
        network = OfflineNetwork(ID, config.encoder, config.learning)
        own = point_robot(ID, "", "train", network.actions)
        network.fit_scales(own)
        objective = csro.Club(network.encoder, 10.0, 25.0)
        trainer = OfflineTrainer(network, objective, own, config.fitting, Device("cpu", "fp32", form))
        means = trainer.block(0, ahead + updates, seed=1)
        trainer.settle()
        ends.append((means, {name: tensor.clone() for name, tensor in network.state_dict().items()}))
    (means, one), (others, other) = ends
    assert means.keys() == others.keys()
    assert all(means[name] == pytest.approx(others[name], rel=1e-4, abs=1e-5) for name in means)
    assert all(torch.allclose(one[name], other[name], atol=1e-5) for name in one)
