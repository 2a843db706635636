"""The soft actor-critic update against the same update as CleanRL writes it, one thread, in one run."""

import pytest
import torch
from interleaving import interleaved
from metabench_agents.parts.device import Device
from metabench_agents.parts.fast import sac
from metabench_agents.parts.fast.sac import SAC, SACBatch, SACConfig
from torch import nn
from torch.nn import functional as F

pytestmark = pytest.mark.benchmark
S, A, H, B = 17, 6, 256, 256


class Eager:
    """Modules, autograd and torch.optim.Adam, one critic after the other: the layout of `sac_continuous_action.py`."""

    def __init__(self):
        def net(inputs, outputs):
            return nn.Sequential(nn.Linear(inputs, H), nn.ReLU(), nn.Linear(H, H), nn.ReLU(), nn.Linear(H, outputs))

        self.actor, self.log_alpha = net(S, 2 * A), torch.zeros(1, requires_grad=True)
        self.q = [net(S + A, 1) for _ in range(2)]
        self.slow = [net(S + A, 1) for _ in range(2)]
        self.q_opt = torch.optim.Adam([p for q in self.q for p in q.parameters()], lr=1e-3)
        self.actor_opt = torch.optim.Adam(self.actor.parameters(), lr=3e-4)
        self.alpha_opt = torch.optim.Adam([self.log_alpha], lr=1e-3)

    def policy(self, observation):
        mean, raw = self.actor(observation).chunk(2, -1)
        log_std = -5 + 3.5 * (torch.tanh(raw) + 1)
        normal = torch.distributions.Normal(mean, log_std.exp())
        u = normal.rsample()
        action = torch.tanh(u)
        return action, (normal.log_prob(u) - torch.log(1 - action**2 + 1e-6)).sum(1)

    def update(self, batch):
        with torch.no_grad():
            action, log_prob = self.policy(batch.next_observation)
            x = torch.cat([batch.next_observation, action], 1)
            value = torch.minimum(*(q(x)[:, 0] for q in self.slow)) - self.log_alpha.exp() * log_prob
            target = batch.reward + (1 - batch.terminal) * 0.99 * value
        x = torch.cat([batch.observation, batch.action], 1)
        loss = sum(F.mse_loss(q(x)[:, 0], target) for q in self.q)
        self.q_opt.zero_grad()
        loss.backward()
        self.q_opt.step()
        action, log_prob = self.policy(batch.observation)
        x = torch.cat([batch.observation, action], 1)
        loss = (self.log_alpha.exp().detach() * log_prob - torch.minimum(*(q(x)[:, 0] for q in self.q))).mean()
        self.actor_opt.zero_grad()
        loss.backward()
        self.actor_opt.step()
        with torch.no_grad():
            _, log_prob = self.policy(batch.observation)
        self.alpha_opt.zero_grad()
        (-self.log_alpha.exp() * (log_prob - A)).mean().backward()
        self.alpha_opt.step()
        for q, slow in zip(self.q, self.slow, strict=True):
            for p, t in zip(q.parameters(), slow.parameters(), strict=True):
                t.data.copy_(0.005 * p.data + 0.995 * t.data)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.compile, about torch itself
@pytest.mark.skipif(not sac.can_compile(), reason="torch.compile needs a C++ compiler")
def test_updates():
    torch.set_num_threads(1)
    g = torch.Generator().manual_seed(0)
    batch = SACBatch(
        torch.randn(B, S, generator=g),
        torch.rand(B, A, generator=g) * 2 - 1,
        torch.randn(B, generator=g),
        torch.randn(B, S, generator=g),
        torch.zeros(B),
    )
    eager = Eager()
    variants = {
        "ours, eager": Device(),
        "ours, compiled": Device(form="compiled"),
        "ours, compiled, bfloat16": Device(precision="bf16", form="compiled"),
    }
    learners = {
        name: SAC(S, A, SACConfig(), torch.Generator().manual_seed(1), device) for name, device in variants.items()
    }
    for learner in learners.values():
        learner.update(batch, g)

    def repeat(function, times=8):
        return lambda: [function() for _ in range(times)]

    functions = {"CleanRL's way": repeat(lambda: eager.update(batch))}
    functions |= {name: repeat(lambda one=one: one.update(batch, g)) for name, one in learners.items()}
    seconds = interleaved(functions, rounds=20)
    rates = {name: 8 / value for name, value in seconds.items()}
    print("\nSAC updates/s: " + ", ".join(f"{name} {rate:.0f}" for name, rate in rates.items()))
    assert rates["ours, compiled"] > 1.6 * rates["CleanRL's way"]
    if torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        assert rates["ours, compiled, bfloat16"] > 2.5 * rates["CleanRL's way"]
