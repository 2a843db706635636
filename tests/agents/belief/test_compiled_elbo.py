"""The ELBOs of VariBAD and DynaMITE-RL under torch.compile, and on a GPU: the same losses and gradients."""

import copy

import pytest
import torch
from metabench_agents.belief import dynamite, sessions, varibad
from metabench_agents.belief.model import Draws, compiled
from metabench_agents.belief.sessions import SessionModel
from metabench_agents.oracle import sac
from metabench_agents.parts.memory import Trials
from metabench_agents.parts.run import stream

import metabench

SMALL = {"latent": 3, "encoder_hidden": 8, "encoder_embed": 8, "decoder_hidden": (8, 8), "reward_loss": "bernoulli"}


def case(agent, **changes):
    """A model on GridSwitch, its config, its pure ELBO, a batch of random ticks and draws."""
    env = metabench.make_vec("GridSwitch-v0", 4)
    torch.manual_seed(0)
    if agent == "varibad":
        config = varibad.Config(**SMALL | changes)
        model = base = varibad.make_model(config, env, 60)
    else:
        config = dynamite.Config(**SMALL | changes)
        model = SessionModel(config, env, 60)
        base = model.base
    seen = torch.randint(5, (2, 60, 4, 6)).float()
    first = torch.zeros(60, 4, dtype=torch.bool)
    first[0] = True
    sessions = (torch.rand(60, 4) < 0.1).cumsum(0)
    batch = Trials(seen[0], torch.randint(5, (60, 4)), torch.rand(60, 4).round() * 1.1 - 0.1, seen[1], first, sessions)
    pure = {"varibad": varibad.elbo, "dynamite": sessions.elbo}[agent]
    return model, config, pure, batch, base.draw(batch, stream(1))


def gradients(pure, model, config, batch, draws):
    """The loss and all gradients, as one vector on the CPU."""
    model.zero_grad()
    loss, metrics = pure(model, config, batch, draws)
    loss.backward()
    flat = torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])
    return loss.item(), {name: float(value) for name, value in metrics.items()}, flat.cpu()


def assert_the_same(ours, theirs):
    assert ours[0] == pytest.approx(theirs[0], rel=1e-5)
    assert ours[1] == pytest.approx(theirs[1], rel=1e-4, abs=1e-5)
    assert torch.allclose(ours[2], theirs[2], rtol=1e-3, atol=1e-5 * float(theirs[2].abs().max()))


@pytest.mark.parametrize("agent", ["varibad", "dynamite"])
def test_the_elbo_is_a_pure_function_of_its_draws(agent):
    model, config, pure, batch, draws = case(agent)
    one, two = (gradients(pure, model, config, batch, draws) for _ in range(2))
    assert one[:2] == two[:2] and torch.equal(one[2], two[2])
    loss = {"varibad": varibad.loss, "dynamite": sessions.loss}[agent]
    assert loss(model, config, batch, stream(1))[0].item() == one[0]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:The .grad attribute")  # of torch, about itself
@pytest.mark.slow  # compiling takes half a minute
@pytest.mark.skipif(not sac.can_compile(), reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("agent", ["varibad", "dynamite"])
def test_compiled_losses_are_equal(agent):
    model, config, pure, batch, draws = case(agent)
    assert_the_same(
        gradients(compiled(pure), model, config, batch, draws), gradients(pure, model, config, batch, draws)
    )


@pytest.mark.gpu
@pytest.mark.parametrize("wrap", [lambda pure: pure, compiled], ids=["eager", "compiled"])
@pytest.mark.parametrize("agent", ["varibad", "dynamite"])
def test_losses_on_a_gpu_are_those_on_the_cpu(agent, wrap):
    model, config, pure, batch, draws = case(agent)
    twin = copy.deepcopy(model).cuda()
    there = Trials(**{name: column.cuda() for name, column in vars(batch).items()})
    drawn = Draws(*(column.cuda() for column in draws))
    assert_the_same(gradients(wrap(pure), twin, config, there, drawn), gradients(pure, model, config, batch, draws))
