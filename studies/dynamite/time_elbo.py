"""Gradient steps per second on the ELBOs of VariBAD and DynaMITE-RL on a GPU: eager against CUDA graphs.

    python -m studies.dynamite.time_elbo

Sizes are those of `tests/benchmarks/test_belief_speed.py`: a grid's (60 ticks, 25 trials, all 60 x 60 pairs) and the
same with 512 trials, where a GPU has something to do. Prints one line per agent, size and form; medians of 5 rounds.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from metabench_agents.belief import dynamite, sessions, varibad
from metabench_agents.belief.model import BeliefModel, compiled
from metabench_agents.parts.config import with_settings
from metabench_agents.parts.memory import Trials
from metabench_agents.parts.run import stream

import metabench

TICKS, ROUNDS, STEPS = 60, 5, 50


def batch_of(trials: int) -> Trials:
    """Random ticks of GridSwitch."""
    torch.manual_seed(0)
    seen = torch.randint(5, (2, TICKS, trials, 6), device="cuda").float()
    first = torch.zeros(TICKS, trials, dtype=torch.bool, device="cuda")
    first[0] = True
    sessions = (torch.rand(TICKS, trials, device="cuda") < 0.07).cumsum(0)
    reward = (torch.rand(TICKS, trials, device="cuda") < 0.5).float()
    return Trials(seen[0], torch.randint(5, (TICKS, trials), device="cuda"), reward, seen[1], first, sessions)


def rate(pure: Any, model: Any, batch: Trials) -> float:
    """Steps per second: draws, loss, gradients, Adam."""
    adam = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    generator, seconds = stream(0), []
    for _ in range(ROUNDS + 1):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(STEPS):
            adam.zero_grad(set_to_none=True)
            loss, _ = pure(model, batch, model.base.draw(batch, generator))
            loss.backward()
            adam.step()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return STEPS / float(np.median(seconds[1:]))


def main() -> None:
    """All of them."""
    if not torch.cuda.is_available():
        raise SystemExit("there is no CUDA device here")
    env, sizes = metabench.make_vec("GridSwitch-v0", 1), {"model.terms": 0, "model.steps": 0}
    sizes |= {"model.reward_loss": "bernoulli"}
    print(torch.cuda.get_device_name())
    for name in ("varibad", "dynamite"):
        for trials in (25, 512):
            for form in ("eager", "graphs"):
                torch.manual_seed(0)
                if name == "varibad":
                    model: Any = BeliefModel(with_settings(varibad.Config(), sizes).model, env, TICKS).cuda()
                    pure = varibad.elbo
                else:
                    config = with_settings(dynamite.Config(), sizes)
                    model = sessions.SessionModel(config.sessions, config.model, env, TICKS).cuda()
                    pure = sessions.elbo
                made = compiled(pure) if form == "graphs" else pure
                print(f"{name:9} {trials:4} trials {form:7} {rate(made, model, batch_of(trials)):8.1f} steps/s")


if __name__ == "__main__":
    main()
