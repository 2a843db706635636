"""ContraBAR: its contrastive loss by hand and by plain loops, and what its belief knows."""

import math

import pytest
import torch
from metabench_agents.belief import contrabar
from metabench_agents.belief.policy import collect, make_actor
from metabench_agents.parts.config import with_settings
from metabench_agents.parts.layers import encode_action
from metabench_agents.parts.run import Run, stream

import metabench

SMALL = {"model.size": 6, "model.encoder.embed": 8, "model.encoder.hidden": 8, "model.keys": 4, "model.negatives": 3}


def test_info_nce_by_hand():
    """Scores 2 against 1, 0: log(e^2 + e + 1) - 2; scores 0 against 3, 0: log(2 + e^3); the third does not count."""
    positive, negative = torch.tensor([2.0, 0.0, -9.0]), torch.tensor([[1.0, 0.0], [3.0, 0.0], [9.0, 9.0]])
    loss, metrics = contrabar.info_nce(positive, negative, torch.tensor([True, True, False]))
    first, second = math.log(math.e**2 + math.e + 1) - 2, math.log(2 + math.e**3)
    assert float(loss) == pytest.approx((first + second) / 2, abs=1e-6)
    assert float(metrics["recognised"]) == 0.5
    assert float(contrabar.info_nce(positive, negative, torch.zeros(3, dtype=torch.bool))[0]) == 0.0


def make(benchmark, changes={}, trials=4):  # noqa: B006  it is read only
    env = metabench.make_vec(benchmark, trials)
    torch.manual_seed(0)
    config = with_settings(contrabar.Config(), SMALL | changes).model
    ticks = metabench.spec(benchmark).horizon * metabench.spec(benchmark).episodes
    model = contrabar.ContrastModel(config, env, ticks)
    return model, collect(model.base, make_actor(env, model, 8), env, ticks, True, 0, stream(0)).trials


@pytest.mark.parametrize("wrong", [0, 5])
@pytest.mark.parametrize("name", ["GridSwitch-v0", "PointRobot-v0"])
def test_the_loss_is_the_plain_loop_over_terms_trials_and_look_aheads(name, wrong):
    model, batch = make(name, {"model.ahead": 3, "model.terms": 0, "model.wrong_rewards": wrong})
    draws = model.draw(batch, stream(1))
    terms = torch.tensor([5, len(batch.reward) - 2])
    draws = contrabar.ContrastDraws(terms, draws.other[:2], draws.tick[:2], draws.wrong[:, :2])
    same = 0
    with torch.no_grad():
        found, _ = contrabar.contrast(model, batch, draws)
        belief, total, count = model.encoder(*batch.ticks()), 0.0, 0
        for m, t in enumerate(draws.terms.tolist()):
            for b in range(4):
                hidden = torch.tanh(model.begin_query(belief[t, b : b + 1]))
                for k in range(3):
                    if t + k >= len(batch.reward):
                        break
                    code = encode_action(batch.action[t + k, b : b + 1], model.space)
                    hidden = model.action_gru.step(code, hidden)

                    def key(tick, trial, reward=None):
                        led = model.scaler(batch.next_observation[tick, trial])
                        reward = batch.reward[tick, trial] if reward is None else reward
                        return model.key(torch.cat((led, reward[None])))

                    query = model.query(hidden)[0]
                    score = [float(query @ key(t + k, b)) / 2.0]  # the square root of 4 columns
                    for n in range(3):
                        trial = (b + int(draws.other[m, b, n])) % 4
                        assert trial != b
                        score.append(float(query @ key(int(draws.tick[m, b, n]), trial)) / 2.0)
                    for n in range(wrong):
                        trial, tick = (b + int(draws.wrong[0, m, b, n])) % 4, int(draws.wrong[1, m, b, n])
                        reward = batch.reward[tick, trial]
                        if abs(float(reward - batch.reward[t + k, b])) < 1e-3:
                            same += 1
                            continue
                        score.append(float(query @ key(t + k, b, reward)) / 2.0)
                    total += math.log(sum(math.exp(s) for s in score)) - score[0]
                    count += 1
    assert count == 4 * (3 + 2)  # the last term has two look-aheads inside the trial
    assert float(found) == pytest.approx(total / count, abs=1e-5)
    assert (same > 0) == (wrong > 0 and name == "GridSwitch-v0"), "most rewards of the grid are one"


def test_a_future_that_tells_is_recognised_and_the_belief_learns_of_it():
    """Rewards of a whole trial have its own sign: told from others' rewards by a belief that has seen one."""
    model, batch = make("PointRobot-v0", {"model.ahead": 2, "model.negatives": 7}, trials=32)
    batch.reward[:] = torch.where(torch.arange(32) % 2 == 0, 2.0, -2.0)
    batch.next_observation[:] = 0.0
    batch.observation[:] = 0.0
    adam, generator = torch.optim.Adam(model.parameters(), lr=1e-2), stream(2)
    losses = []
    for _ in range(150):
        loss, _ = contrabar.contrast(model, batch, model.draw(batch, generator))
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(float(loss.detach()))
    # About half of the 7 negatives have the same sign and cannot be told apart: log 4.5 is left of log 8.
    assert losses[0] > 1.9 and sum(losses[-20:]) / 20 < 1.55
    with torch.no_grad():
        belief = model.encoder(*batch.ticks())
    assert (belief[5, ::2].mean(0) - belief[5, 1::2].mean(0)).abs().max() > 0.2


def test_one_trial_is_refused(tmp_path):
    config = with_settings(contrabar.Config(), {"fit.trials": 1})
    with pytest.raises(ValueError, match=r"fit\.trials must be at least 2"):
        contrabar.train("GridSwitch-v0", config, seed=0, run=Run(tmp_path, show=False))
