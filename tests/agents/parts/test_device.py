"""One idiom of devices: where things are put, what a graph would keep, and that its numbers are the eager ones."""

import dataclasses
from typing import NamedTuple

import pytest
import torch
from metabench_agents.parts.device import Ahead, Computing, Device, descend, find_device, follow, learner, set_rate
from metabench_agents.parts.fast.capture import MOST_GRAPHS, WARM_UP, Captured, mapped
from metabench_agents.parts.fast.recording import recorded, recording
from torch import nn

CPU = torch.device("cpu")


class Pair(NamedTuple):
    left: torch.Tensor
    right: torch.Tensor


@dataclasses.dataclass
class Columns:
    one: torch.Tensor
    two: torch.Tensor


def learning(form, block=1, precision="fp32"):
    """A recurrent network, its optimiser and its updates in a form."""
    torch.manual_seed(0)
    device = Device("cpu", precision, form)
    network = device.place(nn.ModuleDict({"core": nn.GRU(3, 4), "out": nn.Linear(4, 1)}))
    adam = device.adam(network.parameters(), 1e-2)

    def update(batch, rate):
        set_rate(adam, rate)
        loss = ((network["out"](network["core"](batch.one)[0])[..., 0] - batch.two) ** 2).mean()
        norm = descend(loss, adam, 0.5)
        return {"loss": loss, "norm": norm}

    return network, device.updates(update, block)


def taught(form, block=1, updates=33):
    network, made = learning(form, block)
    generator, losses = torch.Generator().manual_seed(1), []
    for number in range(updates):
        batch = Columns(torch.randn(6, 5, 3, generator=generator), torch.randn(6, 5, generator=generator))
        made.add(batch, 1e-2 * (1 - number / updates))
        if number % 11 == 10:
            losses.append(made.means())
    return torch.cat([p.detach().flatten() for p in network.parameters()]), losses


@pytest.mark.parametrize("block", [1, 4])
def test_a_captured_update_learns_what_the_eager_one_does(block):
    (eager, told), (captured, also) = taught("eager"), taught("captured", block)
    assert (eager - captured).abs().max() < 1e-6
    for one, other in zip(told, also, strict=True):
        assert one.keys() == other.keys() == {"loss", "norm"}
        assert all(one[name] == pytest.approx(other[name], abs=1e-6) for name in one)
    assert eager.std() > 0 and told[0]["loss"] != told[-1]["loss"]


def test_replays_see_their_own_arguments():
    """Whatever is an argument changes from call to call, floats too; whatever is not stays as it was captured."""
    outside = 1.0

    def function(pair, rate):
        return {"sum": pair.left * rate + pair.right.sum() + outside}

    captured = Captured(function, CPU)
    for call in range(6):
        pair = Pair(torch.full((2,), float(call)), torch.ones(3) * call)
        given = captured(pair, 0.5 * call)
        kept = 1.0 if call < WARM_UP else 2.0
        outside = 2.0 if call + 1 == WARM_UP else outside if call < WARM_UP else 9.0
        assert torch.allclose(given["sum"], pair.left * 0.5 * call + 3 * call + kept), call
    assert len(captured.graphs) == 1


def test_what_a_call_gives_is_the_callers():
    captured = Captured(lambda x: {"twice": 2 * x}, CPU)
    given = [captured(torch.full((1,), float(i)))["twice"] for i in range(5)]
    assert [float(x) for x in given] == [0.0, 2.0, 4.0, 6.0, 8.0]


def test_other_shapes_and_constants_are_other_graphs():
    captured = Captured(lambda x, how: x.sum() if how == "sum" else x.max(), CPU)
    for _ in range(4):
        assert captured(torch.arange(3.0), "sum") == 3.0
        assert captured(torch.arange(3.0), "max") == 2.0
        assert captured(torch.arange(4.0), "sum") == 6.0
    assert len(captured.graphs) == 3
    for size in range(5, 5 + MOST_GRAPHS):
        for _ in range(WARM_UP + 1):
            assert captured(torch.ones(size), "sum") == size
    assert len(captured.graphs) == MOST_GRAPHS


def attention(x, dropout):
    many = x.view(1, 1, 3, 1)
    return nn.functional.scaled_dot_product_attention(many, many, many, is_causal=True, dropout_p=dropout)


def test_attention_without_dropout_draws_nothing():
    captured = Captured(lambda x: attention(x, 0.0), CPU)
    for call in range(5):
        x = torch.arange(3.0) + call
        assert torch.allclose(captured(x), attention(x, 0.0))
    assert len(captured.graphs) == 1


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (lambda x: x + torch.randn(3), "random numbers"),
        (lambda x: x * float(x.sum()), "reads a value"),
        (lambda x: x[x > 0], "shape depends"),
        (lambda x: nn.functional.dropout(x, 0.5), "random numbers"),
        (lambda x: attention(x, 0.5), "random numbers"),
    ],
)
def test_what_a_graph_cannot_keep_is_refused(function, why):
    with pytest.raises(RuntimeError, match=why):
        recorded(lambda: function(torch.ones(3)))
    assert not recording()


def test_the_fast_paths_of_the_cpu_give_way_to_a_graph():
    from metabench_agents.parts.fast.gru import gru_sequence

    torch.manual_seed(0)
    core, captured = nn.GRU(3, 4), None
    captured = Captured(lambda x: gru_sequence(core, x, x.new_zeros(x.shape[1], 4)), CPU)
    with torch.no_grad():
        for call in range(5):
            x = torch.randn(6, 2, 3)
            assert torch.allclose(captured(x), core(x)[0], atol=1e-6), call


def test_devices_precisions_and_forms_are_found_or_missed_in_a_sentence():
    assert Device().plain and Device("auto").kind.type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert Device.of(Computing(device="cpu", form="captured")).captures
    for bad, why in (({"name": "tpu"}, "unknown device"), ({"precision": "fp8"}, "precision"), ({"form": "x"}, "form")):
        with pytest.raises(ValueError, match=why):
            Device(**bad)
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="no CUDA device for device 'cuda'"):
            find_device("cuda")


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_precisions_set_the_products_and_put_them_back(precision):
    before = torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.rnn.fp32_precision
    with Device("cpu", precision).products():
        product = torch.ones(4, 4) @ torch.ones(4, 4)
    assert product.dtype == (torch.bfloat16 if precision == "bf16" else torch.float32)
    assert (torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.rnn.fp32_precision) == before


def test_a_gpus_float32_is_never_less():
    """cuDNN's default would be TF32: inside fp32 it is not, and the setting outside is as it was."""
    from metabench_agents.parts.fast.precision import products

    switches = torch.backends.cuda.matmul, torch.backends.cudnn.rnn, torch.backends.cudnn.conv
    before = [switch.fp32_precision for switch in switches]
    for precision, kind in (("fp32", "ieee"), ("tf32", "tf32")):
        with products(precision, "cuda"):
            assert [switch.fp32_precision for switch in switches] == [kind] * 3
    assert [switch.fp32_precision for switch in switches] == before


def test_a_copy_plays_what_was_learned():
    network = nn.Linear(2, 2)
    assert learner(network, Device()) is network
    other = nn.Linear(2, 2)
    follow(other, network)
    assert torch.equal(other.weight, network.weight) and other.weight is not network.weight


def test_what_is_on_its_way_arrives():
    assert torch.equal(Ahead(torch.arange(3)).wait(), torch.arange(3))


def test_trees_keep_their_kind():
    tree = {"a": Pair(torch.zeros(1), torch.ones(1)), "b": [Columns(torch.ones(1), torch.ones(2)), None, "x", 3]}
    made = mapped(lambda leaf: leaf + 1, tree)
    assert isinstance(made["a"], Pair) and float(made["a"].left) == 1.0
    assert isinstance(made["b"][0], Columns) and made["b"][1:] == [None, "x", 3]
