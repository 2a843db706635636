"""Adam without torch's compiler is torch's Adam."""

import subprocess
import sys

import pytest
import torch
from metabench_agents.parts.fast.adam import Adam, AdamW

PAIRS = [(Adam, torch.optim.Adam), (AdamW, torch.optim.AdamW)]


def steps(kind, count: int, saved: list | None = None) -> tuple[torch.Tensor, list]:
    """Weights after some steps, and the weights and the state half-way; begun anew or from such a state."""
    layer = torch.nn.Linear(3, 2)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.linspace(-1.0, 1.0, parameter.numel()).view_as(parameter))
    optimiser = kind(layer.parameters(), lr=0.1, fused=True, weight_decay=0.01)
    if saved:
        layer.load_state_dict(saved[0])
        optimiser.load_state_dict(saved[1])
    middle: list = []
    for index in range(count):
        optimiser.zero_grad()
        loss = (layer(torch.ones(4, 3)) - index).square().sum()
        loss.backward()
        optimiser.step()
        if index + 1 == count // 2:
            weights = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
            state = optimiser.state_dict()
            state["state"] = {k: {n: t.clone() for n, t in v.items()} for k, v in state["state"].items()}
            middle = [weights, state]
    return torch.cat([p.detach().flatten() for p in layer.parameters()]), middle


@pytest.mark.parametrize(("mine", "theirs"), PAIRS)
def test_the_same_numbers_and_states(mine, theirs):
    (found, mine_half), (expected, their_half) = steps(mine, 6), steps(theirs, 6)
    assert torch.equal(found, expected)
    assert mine_half[1]["param_groups"] == their_half[1]["param_groups"]
    for key, value in their_half[1]["state"].items():
        assert all(torch.equal(value[name], mine_half[1]["state"][key][name]) for name in value)
    assert torch.equal(steps(mine, 6, their_half)[0], steps(theirs, 6, mine_half)[0])  # each goes on from the other's


def test_steps_leave_gradients_on():
    layer = torch.nn.Linear(1, 1)
    optimiser = Adam(layer.parameters(), lr=0.1)
    layer(torch.ones(1, 1)).sum().backward()

    def closure() -> torch.Tensor:
        assert torch.is_grad_enabled()
        return layer(torch.ones(1, 1)).sum()

    assert optimiser.step(closure).requires_grad
    assert torch.is_grad_enabled()


def test_training_does_not_load_the_compiler(tmp_path):
    """It takes longer to load than torch."""
    code = f"""
import sys
from metabench.cli.main import main
sys.argv = "metabench train rl2 GridNavigation-v0 --frames 60 --trials 1 --progress none".split()
sys.argv += ["--evaluate", "--folder", {str(tmp_path / "run")!r}]
main()
loaded = sorted({{"torch._dynamo", "sympy"}} & set(sys.modules))
assert not loaded, loaded
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
