"""Whether a belief knows where key and door of DarkKeyToDoor are, once they were found.

    python -m studies.incontext.places RUN
    python -m studies.incontext.places RUN --updates 1000 --set model.encoder.hidden=128 \
        model.latent.size=16 model.decoder.hidden=[64,64] model.steps=100

`RUN` is the folder of a trained VariBAD. 128 trials of training tasks are played, actions drawn; printed is what is
found, episode by episode. For every place of the room the reward decoder says how probable a reward is under the belief
with which an episode begins: how often does the key's (the door's) place come first, or among the first three, where an
earlier episode of the trial had found it? A run that is shown what its episode paid (`view.paid`) is asked for the door
with the key in hand. With `--updates` a fresh belief, with settings of its own, learns from 2,048 further trials of the
run's policy first: what inference alone takes.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from metabench_agents.belief import varibad
from metabench_agents.belief.model import BeliefModel, Fitting, resolve_reward_loss
from metabench_agents.belief.policy import BeliefAgent, collect
from metabench_agents.parts.config import with_settings
from metabench_agents.parts.decisions import DecidingAgent, make_viewed
from metabench_agents.parts.device import Device
from metabench_agents.parts.layers import watch
from metabench_agents.parts.memory import TrialBuffer, Trials
from metabench_agents.parts.run import stream
from metabench_agents.parts.view import ViewConfig

import metabench
from metabench.families.dark_room import CELLS, PLACE, SIZE
from metabench.plugins import load_run
from metabench.rng import Array
from metabench.sweep.grid import parse_setting
from studies.incontext.explained import BENCHMARK, TRIALS

GATHERED, SHOWN = 16, (1, 2, 5, 9)
SPEC = metabench.spec(BENCHMARK)
EPISODES, STEPS = SPEC.episodes, SPEC.horizon


def gather(agent: BeliefAgent, view: ViewConfig, count: int, env_seed: int) -> list[Trials]:
    """`count` times 128 trials of the agent's policy under its view, actions drawn."""
    env = make_viewed(BENCHMARK, TRIALS, view)
    given = (agent.model, agent.actor, env, EPISODES * STEPS, True)
    return [collect(*given, env_seed + i * 10**6, stream(7, env_seed, i)).trials for i in range(count)]


@torch.no_grad()
def paying(model: BeliefModel, belief: torch.Tensor, paid: list[float]) -> Array:
    """`[B, 81]` logits of a reward at every place under beliefs `[B, P]`, `paid` the view's own columns there."""
    z = model.latent.mean(belief)[None]
    places = torch.cat([torch.from_numpy(PLACE), torch.tensor(paid).expand(CELLS, -1)], dim=1)
    observation = places[:, None].expand(-1, len(belief), -1).contiguous()
    blank = torch.zeros(CELLS, len(belief))
    step = Trials(observation, blank.long(), blank, observation, blank.bool(), blank.long())
    return model.reward(z, step)[0, ..., 0].t().numpy()


def report(model: BeliefModel, view: ViewConfig, trials: Trials) -> dict[str, list[float]]:
    """Shares at the beginning of the episodes `SHOWN`: of key and door, first and among the first three."""
    with torch.no_grad():
        beliefs = model.beliefs(trials)
    reward = trials.reward.numpy().reshape(EPISODES, STEPS, TRIALS)
    where = trials.next_observation[..., :2].numpy().astype(np.int64) @ np.array([SIZE, 1])
    where = where.reshape(EPISODES, STEPS, TRIALS)
    known = np.full((2, TRIALS), -1)  # places of key and door, -1 while not found
    told: dict[str, list[float]] = {f"{what}, {rank}": [] for what in ("key", "door") for rank in ("first", "first 3")}
    for episode in range(EPISODES):
        if episode in SHOWN:
            for what, paid, places in zip(("key", "door"), (0.0, 1.0), known, strict=True):
                logits = paying(model, beliefs[episode * STEPS], [paid] * view.paid)
                slots = np.flatnonzero(places >= 0)
                own = logits[slots, places[slots]]
                before = (logits[slots] > own[:, None]).sum(1)
                told[f"{what}, first"].append(float((before == 0).mean()))
                told[f"{what}, first 3"].append(float((before < 3).mean()))
        for slot in range(TRIALS):
            found = np.flatnonzero(reward[episode, :, slot])[:2]
            known[: len(found), slot] = where[episode, found, slot]
    return told


def fitted(agent: BeliefAgent, view: ViewConfig, updates: int, changes: dict[str, Any]) -> BeliefModel:
    """A fresh belief with changed settings, after `updates` on the agent's trials, at the rates of a warm-up."""
    config = with_settings(varibad.Config(), changes)
    torch.manual_seed(0)
    env = make_viewed(BENCHMARK, 1, view)
    model = BeliefModel(resolve_reward_loss(config.model, BENCHMARK), env, EPISODES * STEPS)
    buffer = TrialBuffer(config.buffer)
    for trials in gather(agent, view, GATHERED, 1):
        watch((model,), trials.observation)
        buffer.add(trials)
    device = Device.of(config)
    adam = device.adam(model.parameters(), config.fit.learning_rate)
    rates = config.warmup.learning_rate, config.fit.learning_rate
    told = Fitting(model, varibad.elbo, adam, config.fit, device).fit(buffer, updates, rates, stream(3, 0))
    print(" ".join(f"{name} {value:.4g}" for name, value in told.items()))
    return model


def main() -> None:
    """Prints the shares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--updates", type=int, default=0, help="of a fresh belief; 0 for the run's own")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="settings of the fresh belief")
    options = parser.parse_args()
    torch.set_num_threads(1)
    agent, view = load_run(options.run).agent, ViewConfig()
    if isinstance(agent, DecidingAgent):
        agent, view = agent.own, agent.sight.view
    if not isinstance(agent, BeliefAgent):
        parser.error(f"{options.run} holds no agent with a belief")
    changes = {name: value for name, (value,) in map(parse_setting, options.set)}
    model = fitted(agent, view, options.updates, changes) if options.updates else agent.model
    (trials,) = gather(agent, view, 1, 12345)
    gained = trials.reward.numpy().reshape(EPISODES, STEPS, TRIALS).sum(1)
    for what, found in (("return", gained), ("key found", gained >= 1), ("door found", gained >= 2)):
        print(f"{what}, by episode: " + ", ".join(f"{share:.2f}" for share in found.mean(1)))
    print(f"at the beginning of episodes {', '.join(str(e + 1) for e in SHOWN)}:")
    for name, shares in report(model, view, trials).items():
        print(f"{name}: " + ", ".join(f"{share:.2f}" for share in shares))


if __name__ == "__main__":
    main()
