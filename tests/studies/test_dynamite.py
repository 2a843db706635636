"""The numbers that diagnose an agent on switching benchmarks, and figure 7's change of p, on cases known otherwise."""

from types import SimpleNamespace

import numpy as np
import pytest
from metabench_agents.belief import dynamite
from metabench_agents.parts.config import with_settings
from metabench_agents.parts.losses import PPO
from metabench_agents.parts.run import Run

import metabench
from studies.dynamite import diagnose, figure7


class Told:
    """Does nothing, and believes what it is handed at every tick."""

    name, privileged = "told", False

    def __init__(self):
        self.coordinates = np.eye(1)

    def begin(self, num_trials):
        return SimpleNamespace(posterior=np.zeros((num_trials, 1)), tick=0)

    def act(self, step, belief):
        action = np.zeros((len(step.reward), 6), np.float32)
        return action, SimpleNamespace(
            posterior=np.full((len(step.reward), 1), float(belief.tick)), tick=belief.tick + 1
        )


@pytest.fixture(scope="module")
def played():
    return diagnose.play(Told(), "CheetahVelSwitch-v0", 20)


def test_since_counts_the_transitions_of_the_session_that_were_seen(played):
    task, since = played.task[..., 0], played.since
    assert not since[0].any() and (since[1] == 1).all()
    for b in range(20):
        for t in range(2, 200):
            assert since[t, b] == (since[t - 1, b] + 1 if task[t, b] == task[t - 1, b] else 1)
    assert (since[2:] == 1).any(), "no session ended"
    assert played.returns == pytest.approx(-played.task[1:, :, 0].sum(0), rel=0.2, abs=60)  # it stands still


def test_a_belief_that_is_the_task_has_an_r_squared_of_one_and_the_clock_none(played):
    exact = played._replace(belief=np.repeat(np.sin(played.task / 2), 3, axis=2))  # a nonlinear code of it
    found = diagnose.latent_is_right(exact)
    assert found["all"] > 0.98 and found["1"] > 0.95 and found["20"] > 0.95
    assert diagnose.latent_is_right(played)["all"] < 0.2


def test_r_squared_by_hand():
    true = np.array([[0.0], [2.0]])
    assert diagnose.r_squared(true, true) == 1.0 and diagnose.r_squared(np.ones((2, 1)), true) == 0.0
    assert diagnose.r_squared(np.array([[1.0], [2.0]]), true) == pytest.approx(0.5)


def test_both_commands_leave_their_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(diagnose, "RESULTS", tmp_path)
    monkeypatch.setattr(diagnose, "TRIALS", 8)
    small = {"model.encoder.embed": 8, "model.encoder.hidden": 8, "model.decoder.sees": "all", "model.terms": 4}
    small |= {"model.products": False, "model.steps": 4, "fit.updates": 1, "warmup.iterations": 1, "warmup.updates": 1}
    config = with_settings(dynamite.Config(), small | {"trials": 4, "frames": 800, "fit.trials": 4})
    dynamite.train("ReacherSwitch-v0", config, seed=0, run=Run(tmp_path / "run", show=False))
    diagnose.belief(tmp_path / "run")
    diagnose.ceiling("ReacherSwitch-v0", PPO(epochs=1), 800, 4, 8, 0)
    kept = sorted(path.name for path in (tmp_path / "ReacherSwitch-v0").glob("*.json"))
    assert kept == ["belief-dynamite-run.json", "ceiling-s0.json"]
    text = (tmp_path / "ReacherSwitch-v0" / kept[0]).read_text()
    assert all(word in text for word in ("return_with_true_latent", '"filter"', '"r2"'))


def test_p_is_changed_for_training_and_play_and_put_back():
    for p, least, most in ((0.0, 1, 1), (1.0, 200, 200)):
        with figure7.switching("CheetahVelSwitch-v0", p):
            env = metabench.make_vec("CheetahVelSwitch-v0", 3, expose_task=True)
            seen = [env.reset(seed=0)[0][:, -1]]
            for _ in range(199):
                seen.append(env.step(np.zeros((3, 6), np.float32))[0][:, -1])
            sessions = 1 + (np.diff(np.stack(seen), axis=0) != 0).sum(0)
            assert (sessions >= least * 0.9).all() and (sessions <= most).all()
    assert metabench.spec("CheetahVelSwitch-v0").sessions["p"] == 0.02
    with pytest.raises(ValueError, match="not geometric"):
        figure7.switching("CheetahVel-v0", 0.5)


def test_a_task_is_told_by_what_a_belief_may_know_of_it():
    task = np.array([[0.3, 0.4], [0.0, -2.0]])
    (far,) = diagnose.parts("ReacherSwitch-v0", task).values()
    assert far[:, 0] == pytest.approx([0.5, 2.0])
    told = diagnose.parts("CheetahWindVelSwitch-v0", task)
    assert told["wind"].tolist() == [[0.3], [0.0]] and told["speed"].tolist() == [[0.4], [-2.0]]
    assert not diagnose.parts("CheetahVelSwitch-v0", task)
