"""Networks of many seeds as one: parameters stacked along a first axis, one update for all of them.

What a seed learns is what its single run learns, up to the order of sums inside a matrix product: its data, its draws
and its moments are its own, and nothing is shared but the launches.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from metabench.runs import Stopped
from metabench_agents.parts.device import Device, laid_out
from metabench_agents.parts.run import Checkpoint, Run


class _Applied(nn.Module):
    """Lets any function of a network run with other parameters in it."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """What the function makes of the network."""
        return function(self.network, *args)


class Stack:
    """Networks of one shape, side by side on a device.

    Args:
        members: One network per seed.
        device: Where the stacked parameters go.
    """

    def __init__(self, members: Sequence[nn.Module], device: Device):
        self.members, self.count = members, len(members)
        base = copy.deepcopy(members[0])
        for part in base.modules():
            if hasattr(part, "written_out"):
                setattr(part, "written_out", True)  # noqa: B010  of whatever layer has it
        self._base = _Applied(base.to(device.kind))
        parameters, buffers = stack_module_state(list(members))
        self.parameters: dict[str, Tensor] = {
            n: nn.Parameter(p.detach().to(device.kind)) for n, p in parameters.items()
        }
        self.buffers = {n: device.put(b) for n, b in buffers.items()}

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """`function(network, *args)` of every seed at once; tensors `[S, ...]` among the arguments are the seeds' own.

        Args:
            function: Pure; the same for all.
            args: Trees of tensors in tuples.
        """

        def one(parameters: dict[str, Tensor], buffers: dict[str, Tensor], own: tuple[Any, ...]) -> Any:
            named = {f"network.{name}": tensor for name, tensor in (parameters | buffers).items()}
            return functional_call(self._base, named, (function, own))

        return vmap(one)(self.parameters, self.buffers, args)

    def descend(self, losses: Tensor, optimiser: torch.optim.Optimizer, max_norm: float) -> Tensor:
        """One step for every seed, each along its own gradient, clipped by its own norm; the norms `[S]`."""
        parameters = list(self.parameters.values())
        gradients = torch.autograd.grad(losses.sum(), parameters)
        norm = torch.stack([g.flatten(1).square().sum(1) for g in gradients]).sum(0).sqrt()
        factor = (max_norm / (norm + 1e-6)).clamp_max(1.0)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = laid_out(gradient * factor.view(-1, *[1] * (gradient.ndim - 1)), parameter)
        optimiser.step()
        return norm

    def write_back(self) -> None:
        """Every member becomes what its seed has learned."""
        for index, member in enumerate(self.members):
            own = self.parameters | self.buffers
            member.load_state_dict({name: own[name][index].detach() for name in member.state_dict()})

    def moments(self, optimiser: torch.optim.Optimizer, index: int, name: str = "adam") -> dict[str, Tensor]:
        """One seed's moments, named as those of its single run are in a checkpoint."""
        return {
            f"{name}/{number}/{key}": value if value.ndim == 0 else value[index]
            for number, moments in optimiser.state_dict()["state"].items()
            for key, value in moments.items()
        }

    def restore(
        self, optimiser: torch.optim.Optimizer, saved: Sequence[Mapping[str, Tensor]], name: str = "adam"
    ) -> None:
        """Takes in every seed's moments, as `moments` gave them; parameters come with the members."""
        state: dict[int, dict[str, Tensor]] = {}
        for key in saved[0]:
            head, _, rest = key.partition("/")
            if head == name:
                number, moment = rest.split("/")
                own = [tensors[key] for tensors in saved]
                state.setdefault(int(number), {})[moment] = own[0] if own[0].ndim == 0 else torch.stack(own)
        optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def common_point(points: Sequence[Checkpoint | None]) -> tuple[int, list[Checkpoint]]:
    """The iteration that runs of several seeds continue from, and their checkpoints; none where they begin.

    Raises:
        ValueError: In one sentence, if they do not all stand at the same one.
    """
    saved = [point for point in points if point is not None]
    done = {point.iteration if point else 0 for point in points}
    if len(done) > 1:
        raise ValueError(
            f"the seeds' runs stand at different iterations ({', '.join(map(str, sorted(done)))}); continue each by "
            "itself with --seed, or begin in another folder"
        )
    return done.pop(), saved


def save_all(
    runs: Sequence[Run], iteration: int, tensors: Sequence[Mapping[str, Tensor]], states: Sequence[Mapping[str, Any]]
) -> None:
    """A checkpoint of every seed, then an end for all of them where one was asked to stop."""
    stopped: Stopped | None = None
    for run, own, state in zip(runs, tensors, states, strict=True):
        try:
            run.save(iteration, own, state)
        except Stopped as stop:
            stopped = stop
    if stopped is not None:
        raise stopped
