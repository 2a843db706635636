"""In-context agents: updates beside torch's own transformer, and playing on a context of a thousand steps.

The plain way to learn is `torch.nn.TransformerEncoder` with torch's Adam; to play, the whole context through the
network at every step. Sizes: the defaults (2 blocks of 64, a window of 160), and those of T2MIR's DPT (4 blocks of 128,
4 heads, as its released code has them). Histories are invented; speed does not depend on what they say.
"""

import copy
import time
from typing import Any

import numpy as np
import pytest
import torch
from interleaving import interleaved
from metabench_agents.parts.device import Device
from metabench_agents.sequence.incontext import ad, dpt
from metabench_agents.sequence.incontext.context import ContextFitting, ContextSettings
from metabench_agents.sequence.incontext.histories import draw_stretches
from metabench_agents.sequence.incontext.training import ContextTrainer
from metabench_agents.sequence.transformer import causal
from torch import nn

from metabench import Timestep
from studies.gpu.checked import invented_histories

pytestmark = pytest.mark.benchmark
ROOM, TRIALS, CONTEXT = "DarkRoom-v0", 64, 1_000
SIZES = {"defaults": ContextSettings(), "4 blocks of 128": ContextSettings(layers=4, heads=4, width=128)}


class Plain(nn.Module):
    """torch's own transformer in the place of ours."""

    def __init__(self, settings):
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            settings.width, settings.heads, 4 * settings.width, 0.0, "relu", batch_first=True, norm_first=True
        )
        self.body = nn.TransformerEncoder(layer, settings.layers, enable_nested_tensor=False)

    def forward(self, tokens, bias):
        return self.body(tokens, mask=bias[0])


def learner(agent, settings) -> tuple[Any, Any, Any]:
    """A network, its loss, and what draws its batches."""
    data, batch = invented_histories(20, 400), ContextFitting().batch
    if agent == "dpt":
        asking, config = dpt.DecisionNetwork(ROOM, settings), dpt.Config(network=settings)
        return asking, dpt.loss, lambda draws: dpt.draw_questions(data, config, asking.moves, draws)
    network = ad.HistoryNetwork(ROOM, settings)

    def draw(draws):
        return ad.stretch_of(data, *draw_stretches(data, batch, settings.window, 0.25, draws), network.moves)

    return network, ad.loss, draw


def update_of(agent, settings, plain):
    """One update as a function."""
    torch.manual_seed(0)
    fitting, draws = ContextFitting(), torch.Generator().manual_seed(1)
    network, loss, draw = learner(agent, settings)
    if not plain:
        trainer = ContextTrainer(network, loss, draw, fitting, Device())
        return lambda: trainer.updates.add(*trainer.given(draws))
    network.body.transformer = Plain(settings)
    adam = torch.optim.AdamW(network.parameters(), fitting.learning_rate)

    def step():
        total, _ = loss(network, draw(draws))
        adam.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(list(network.parameters()), 1.0)
        adam.step()

    return step


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("agent", ["ad", "dpt"])
def test_updates(benchmark, agent, size):
    torch.set_num_threads(1)
    functions = {name: update_of(agent, SIZES[size], name == "plain") for name in ("plain", "ours")}
    seconds = interleaved(functions, rounds=7)
    benchmark.extra_info |= {name: f"{1.0 / s:,.1f} updates/s" for name, s in seconds.items()}
    benchmark.pedantic(functions["ours"], rounds=3)
    print(f"\n{agent}, {size}: {benchmark.extra_info}")
    assert seconds["ours"] < 1.6 * seconds["plain"]


def plays(agent):
    """A whole trial of a thousand steps, and the seconds that its last hundred took; the agent's network and belief."""
    settings = ContextSettings(window=CONTEXT)
    torch.manual_seed(0)
    made: Any = (
        ad.HistoryAgent(ad.HistoryNetwork(ROOM, settings), sample=True)
        if agent == "ad"
        else dpt.DecisionAgent(dpt.DecisionNetwork(ROOM, settings), sample=True)
    )
    seen = np.random.default_rng(0).integers(0, 9, (CONTEXT, TRIALS, 2)).astype(np.float32)
    belief, action, last = made.begin(TRIALS), np.zeros(TRIALS, np.int64), 0.0
    start = time.perf_counter()
    for t in range(CONTEXT):
        if t == CONTEXT - 100:
            last = time.perf_counter()
        step = Timestep(seen[t], action, np.zeros(TRIALS, np.float32), np.full(TRIALS, t % 20 == 0), seen[t])
        action, belief = made.act(step, belief)
    end = time.perf_counter()
    return made.network, end - start, end - last


@pytest.mark.parametrize("agent", ["ad", "dpt"])
def test_playing_on_a_thousand_steps(benchmark, agent):
    torch.set_num_threads(1)
    tried = [plays(agent) for _ in range(3)]
    network, (whole, last) = tried[0][0], np.median([seconds for _, *seconds in tried], axis=0)
    few, body = 4, copy.deepcopy(network.body).eval()
    tokens = torch.randn(few, CONTEXT, body.width)

    @torch.inference_mode()
    def again():
        body(tokens, causal(CONTEXT))

    took = interleaved({"again": again}, rounds=3)["again"]
    rates = {
        "whole": CONTEXT * TRIALS / whole,
        "at the end": 100 * TRIALS / last,
        "the whole context again": few / took,
    }
    benchmark.extra_info |= {name: f"{rate:,.0f} steps/s" for name, rate in rates.items()}
    benchmark.pedantic(again, rounds=1)
    print(f"\n{agent} on a context of {CONTEXT} steps, {TRIALS} trials: {benchmark.extra_info}")
    assert rates["at the end"] > 20 * rates["the whole context again"]
