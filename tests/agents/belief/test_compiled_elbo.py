"""The ELBOs of VariBAD and DynaMITE-RL under torch.compile, and on a GPU: the same losses and gradients."""

import copy

import pytest
import torch
from metabench_agents.belief import dynamite, varibad
from metabench_agents.belief.model import BeliefModel, Draws
from metabench_agents.belief.sessions import SessionModel
from metabench_agents.belief.sessions import elbo as session_elbo
from metabench_agents.parts.config import with_settings
from metabench_agents.parts.device import Device
from metabench_agents.parts.fast import sac
from metabench_agents.parts.memory import Trials
from metabench_agents.parts.run import stream

import metabench

SMALL = {
    "model.latent.size": 3,
    "model.encoder.hidden": 8,
    "model.encoder.embed": 8,
    "model.decoder.hidden": (8, 8),
    "model.reward_loss": "bernoulli",
}


def case(agent):
    """A model on GridSwitch, its ELBO, a batch of random ticks and draws."""
    env = metabench.make_vec("GridSwitch-v0", 4)
    torch.manual_seed(0)
    if agent == "varibad":
        model = BeliefModel(with_settings(varibad.Config(), SMALL).model, env, 60)
    else:
        config = with_settings(dynamite.Config(), SMALL)
        model = SessionModel(config.sessions, config.model, env, 60)
    seen = torch.randint(5, (2, 60, 4, 6)).float()
    first = torch.zeros(60, 4, dtype=torch.bool)
    first[0] = True
    sessions = (torch.rand(60, 4) < 0.1).cumsum(0)
    batch = Trials(seen[0], torch.randint(5, (60, 4)), torch.rand(60, 4).round() * 1.1 - 0.1, seen[1], first, sessions)
    pure = {"varibad": varibad.elbo, "dynamite": session_elbo}[agent]
    return model, pure, batch, model.base.draw(batch, stream(1))


def gradients(pure, model, batch, draws):
    """The loss and all gradients, as one vector on the CPU."""
    model.zero_grad()
    loss, metrics = pure(model, batch, draws)
    loss.backward()
    flat = torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])
    return loss.item(), {name: float(value) for name, value in metrics.items()}, flat.cpu()


def assert_the_same(ours, theirs):
    assert ours[0] == pytest.approx(theirs[0], rel=1e-5)
    assert ours[1] == pytest.approx(theirs[1], rel=1e-4, abs=1e-5)
    assert torch.allclose(ours[2], theirs[2], rtol=1e-3, atol=1e-5 * float(theirs[2].abs().max()))


@pytest.mark.parametrize("agent", ["varibad", "dynamite"])
def test_the_elbo_is_a_pure_function_of_its_draws(agent):
    model, pure, batch, draws = case(agent)
    one, two = (gradients(pure, model, batch, draws) for _ in range(2))
    assert one[:2] == two[:2] and torch.equal(one[2], two[2])


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:The .grad attribute")  # of torch, about itself
@pytest.mark.slow  # compiling takes half a minute
@pytest.mark.skipif(not sac.can_compile(), reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("agent", ["varibad", "dynamite"])
def test_compiled_losses_are_equal(agent):
    model, pure, batch, draws = case(agent)
    assert_the_same(
        gradients(Device(form="compiled").compiled(pure), model, batch, draws), gradients(pure, model, batch, draws)
    )


@pytest.mark.gpu
@pytest.mark.parametrize("wrap", [lambda pure: pure, Device(form="compiled").compiled], ids=["eager", "compiled"])
@pytest.mark.parametrize("agent", ["varibad", "dynamite"])
def test_losses_on_a_gpu_are_those_on_the_cpu(agent, wrap):
    model, pure, batch, draws = case(agent)
    twin = copy.deepcopy(model).cuda()
    there = Trials(**{name: column.cuda() for name, column in vars(batch).items()})
    drawn = Draws(*(column.cuda() for column in draws))
    assert_the_same(gradients(wrap(pure), twin, there, drawn), gradients(pure, model, batch, draws))
