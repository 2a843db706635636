"""What z tells is read off contexts of other tasks; own contexts are what was played; a table is of what there is."""

import json

import numpy as np
import torch
from metabench_agents.context.offline.actor_critic import ActorCriticConfig
from metabench_agents.context.offline.data import TaskData
from metabench_agents.context.offline.encoder import EncoderConfig
from metabench_agents.context.offline.network import OfflineNetwork
from metabench_agents.context.offline.playing import OfflineContextAgent, PlayingConfig
from metabench_agents.context.replay import Transitions

import metabench
from studies.offline_context import contrast, study, telling

ID = "PointRobot-v0"


def contexts_of(tasks, seed):
    """Contexts whose rewards are the task's parameters on average, and the parameters."""
    generator = torch.Generator().manual_seed(seed)
    reward = tasks[:, :1] + 0.01 * torch.randn(len(tasks), 30, generator=generator)
    nothing = torch.randn(len(tasks), 30, 2, generator=generator)
    return Transitions(nothing, nothing, reward, nothing, reward * 0), tasks


def test_a_z_that_is_the_task_tells_all_of_it_and_noise_none():
    train, test = (torch.linspace(-1, 1, n)[:, None] for n in (40, 9))
    learned, asked = contexts_of(train, 0), {"same": contexts_of(test, 1)}
    found = telling.tells(lambda c: c.reward.mean(1, keepdim=True) * 3.0 + 1.0, learned, asked)
    assert found["same"] > 0.99
    assert telling.tells(lambda c: c.observation.mean(1), learned, asked)["same"] < 0.1


def test_a_z_that_another_behaviour_shifts_misleads():
    train, test = (torch.linspace(-1, 1, n)[:, None] for n in (40, 9))
    other, task = contexts_of(test, 1)
    shifted = other._replace(reward=other.reward + 3.0)
    found = telling.tells(
        lambda c: c.reward.mean(1, keepdim=True), contexts_of(train, 0), {"as": (other, task), "else": (shifted, task)}
    )
    assert found["as"] > 0.99 and found["else"] < 0.0


def test_own_contexts_are_what_was_played():
    torch.manual_seed(0)
    network = OfflineNetwork(ID, EncoderConfig(latent=3, hidden=16), ActorCriticConfig(hidden=16))
    agent = OfflineContextAgent("x", network, PlayingConfig(explore=6))
    seen, task = telling.own_contexts(agent, ID, "test", 2, seed=0)
    assert seen.reward.shape == (5, 40) and task.tolist() == [0, 1, 2, 3, 4]
    goals = torch.tensor(metabench.spec(ID).table().rows["test"]).float()
    assert torch.allclose(seen.reward, -(seen.next_observation - goals[:, None]).norm(dim=-1), atol=1e-5)
    moved = seen.observation + seen.action * 0.1
    assert torch.allclose(moved, seen.next_observation, atol=1e-5)
    assert torch.equal(seen.observation[:, 20], torch.zeros(5, 2)), "the second episode starts anew"


def test_contexts_are_of_their_task():
    task = torch.arange(3).repeat_interleave(10)
    columns = torch.zeros(30, 2)
    data = TaskData.of(Transitions(columns, columns, task.float(), columns, columns[:, 0]), task)
    seen, whose = telling.contexts(data, 0)
    assert seen.reward.shape == (3 * telling.DRAWS, telling.CONTEXT)
    assert torch.equal(seen.reward, whose[:, None].float().expand_as(seen.reward))


def test_a_run_is_trained_once_and_played_four_ways(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("METABENCH_DATA", str(tmp_path / "data"))
    for split in ("train", "test"):
        metabench.datasets.generate("point-robot/mixed-v0", split, episodes=4)
    command = ["study", "--agents", "focal", "--seeds", "0", "--out", str(tmp_path / "out"), "--results"]
    command += [str(tmp_path / "kept"), "--set", "fitting.updates=3", "encoder.hidden=8", "learning.hidden=8"]
    monkeypatch.setattr("sys.argv", command)
    study.main()
    kept = tmp_path / "kept" / ID / "mixed" / "focal" / "s0"
    assert {path.stem for path in kept.iterdir()} == {*study.WAYS, "cost"}
    shown = metabench.Result.load(kept / "shown.json")
    assert shown.track == "prompt-k" and metabench.Result.load(kept / "step.json").track == "offline"
    assert json.loads((kept / "cost.json").read_text())["updates"] == 3
    printed = capsys.readouterr().out
    for way in study.WAYS:
        mean = metabench.Result.load(kept / f"{way}.json").trials().mean(0)
        assert f"| `focal` | 1 | {way} | {mean[0]:.2f} ± 0.00 |" in printed
    study.main()
    assert "there already" in capsys.readouterr().out
    found = telling.measure(
        metabench.plugins.load_run(tmp_path / "out" / ID / "mixed" / "focal" / "s0").agent, ID, "mixed"
    )
    assert found.keys() == {"mixed", "own"} and np.isfinite(list(found.values())).all()


def test_variants_have_folders_of_their_own():
    plain, brac = (study.Item(ID, "mixed", "focal", label, 1).path.as_posix() for label in ("", "brac"))
    assert (plain, brac) == (f"{ID}/mixed/focal/s1", f"{ID}/mixed/focal-brac/s1")
    assert study.setting("learning.kind=brac") == ("learning.kind", "brac")
    assert study.setting("fitting.updates=20") == ("fitting.updates", 20)


def test_what_exact_inference_tells_of_corros_contrast():
    """A distance by hand; rewards that no goal explains are told from right ones, hardly wrong ones are not."""
    goals = np.array([[1.0, 0.0], [0.0, 0.5]])
    by_hand = contrast.likelihood(np.zeros((1, 2)), np.array([-1.0 - contrast.WIDTH]), goals)
    assert np.allclose(by_hand, [[np.exp(-0.5), np.exp(-0.5 * ((0.5 + contrast.WIDTH) / contrast.WIDTH) ** 2)]])
    rng = np.random.default_rng(0)
    task = np.repeat(np.arange(20), 50)
    place, goal = rng.uniform(-1, 1, (len(task), 2)), rng.uniform(-1, 1, (20, 2))
    seen, reward = (torch.as_tensor(x).float() for x in (place, -np.linalg.norm(place - goal[task], axis=1)))
    transitions = Transitions(seen, seen, reward, seen, reward * 0)
    data = TaskData.of(transitions, torch.as_tensor(task))
    shares = [contrast.told_apart(data, noise, pairs=200) for noise in (0.01, 0.5, 100.0)]
    assert shares[0] < 0.15 < shares[1] < 0.4 and shares[2] > 0.9
