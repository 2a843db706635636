"""Where and how an agent learns: device, precision, and the form its updates take. One idiom for every agent.

An agent's `Config` has the settings of `Computing`; `Device.of(config)` is what they mean on this machine. The agent
puts its networks there, takes its optimisers from there, writes an update as a pure function of tensors with the random
numbers among them, and hands it to `Device.updates`:

    device = Device.of(config)
    network = device.place(network)
    adam = device.adam(network.parameters(), config.learning_rate)

    def update(batch, noise, rate):  # changes network and adam in place, returns metrics
        ...

    updates = device.updates(update)
    for ...:
        updates.add(batch, noise, rate)  # of the CPU; on a GPU a replay, and the CPU goes on
    metrics = updates.means()  # the one place that waits for the device
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from metabench_agents.parts.compiling import compiled
from metabench_agents.parts.fast.adam import Adam, AdamW
from metabench_agents.parts.fast.capture import Captured, mapped, moved, taken_apart
from metabench_agents.parts.fast.precision import Precision, products

DeviceName = Literal["auto", "cpu", "cuda"]
Form = Literal["auto", "eager", "compiled", "captured", "both"]
Module = TypeVar("Module", bound=nn.Module)
BLOCK = 10  # updates in one replay, where nothing on the CPU is needed between them


@dataclass(frozen=True, kw_only=True)
class Computing:
    """Where and how an agent learns. It plays on the CPU, where the environments are, unless it says otherwise."""

    device: DeviceName = "auto"  # of the updates: cpu, cuda, or auto for CUDA where there is some
    precision: Precision = "fp32"  # of matrix products: fp32, tf32 (as fp32 without a GPU), bf16
    form: Form = "auto"  # of the updates: eager, compiled (torch.compile), captured (CUDA graphs), both; auto fits


class Device:
    """A place to compute: parameters, optimisers and updates come from here.

    Args:
        name: "cpu", "cuda", or "auto".
        precision: Of matrix products.
        form: Of updates; "auto" is captured on a GPU and eager elsewhere. Captured on a CPU is a rehearsal: slow.

    Raises:
        ValueError: In one sentence, where there is no such device, precision or form.
    """

    def __init__(self, name: str = "cpu", precision: Precision = "fp32", form: Form = "auto"):
        self.kind = find_device(name)
        if precision not in ("fp32", "tf32", "bf16"):
            raise ValueError(f"unknown precision {precision!r}; available: fp32, tf32, bf16")
        if form not in ("auto", "eager", "compiled", "captured", "both"):
            raise ValueError(f"unknown form {form!r} of updates; available: auto, eager, compiled, captured, both")
        self.precision: Precision = precision
        self.form = form if form != "auto" else "captured" if self.kind.type == "cuda" else "eager"

    @classmethod
    def of(cls, config: Any) -> Device:
        """What an agent's settings ask for."""
        return cls(config.device, config.precision, config.form)

    @property
    def captures(self) -> bool:
        """Whether updates become graphs."""
        return self.form in ("captured", "both")

    @property
    def plain(self) -> bool:
        """Whether nothing is to be done: eager on the CPU."""
        return self.kind.type == "cpu" and not self.captures

    def place(self, module: Module) -> Module:
        """The module with parameters and buffers here."""
        return module.to(self.kind)

    def put(self, tree: Any) -> Any:
        """A tree of tensors, here; copies from the host's pages are pinned and do not wait."""
        if self.kind.type == "cpu":
            return tree
        return mapped(lambda leaf: moved(leaf, self.kind) if isinstance(leaf, Tensor) else leaf, tree)

    def adam(
        self, parameters: Iterable[Tensor], rate: float, *, eps: float = 1e-8, decay: float | None = None
    ) -> torch.optim.Optimizer:
        """Adam, or AdamW with a weight decay, whose step can be part of a graph; see `set_rate`."""
        options: dict[str, Any] = {"fused": self.kind.type in ("cpu", "cuda"), "eps": eps}
        if self.captures or self.kind.type == "cuda":
            options["lr"] = torch.tensor(rate, device=self.kind)
            options["capturable"] = self.kind.type == "cuda"
        else:
            options["lr"] = rate
        if decay is None:
            return Adam(parameters, **options)
        return AdamW(parameters, weight_decay=decay, **options)

    def products(self) -> contextlib.AbstractContextManager[Any]:
        """Inside, products have the device's precision. For one loss at a time: bf16 keeps the weights it cast."""
        return products(self.precision, self.kind.type)

    def float32(self) -> contextlib.AbstractContextManager[Any]:
        """Inside, products of float32 are no less than the device's precision allows, whatever torch's defaults are."""
        return products("tf32" if self.precision == "tf32" else "fp32", self.kind.type)

    def compiled(self, loss: Callable[..., Any], **options: Any) -> Any:
        """A loss as one compiled graph where the form asks for that; ValueError if there is no compiler for it."""
        return compiled(loss, self.form in ("compiled", "both"), **options)

    def function(self, pure: Callable[..., Any]) -> Callable[..., Any]:
        """A pure function of tensors and floats from the CPU, in this device's form."""
        if self.plain:
            return pure

        def inside(*args: Any) -> Any:
            with self.float32():
                return pure(*args)

        if self.captures:
            return Captured(inside, self.kind)
        return lambda *args: inside(*self.put(args))

    def generator(self, draws: torch.Generator) -> torch.Generator:
        """A stream on this device that begins where `draws` says; the stream itself on the CPU."""
        if self.kind.type == "cpu":
            return draws
        seed = int(torch.randint(2**62, (1,), generator=draws))
        return torch.Generator(self.kind).manual_seed(seed)

    def updates(self, pure: Callable[..., dict[str, Tensor]], block: int = BLOCK) -> Updates:
        """An update as this device makes it, and the means of what it tells.

        Args:
            pure: Of tensors and floats; changes its networks in place and returns metrics, tensors of one shape.
            block: How many are replayed at once, where updates are graphs.
        """
        return Updates(self, pure, block)


class Updates:
    """Updates that are added one by one, made when the device likes, and over when their means are asked for."""

    def __init__(self, device: Device, pure: Callable[..., dict[str, Tensor]], block: int):
        self.device, self.telling = device, _told(pure)
        self.one = device.function(self.telling)
        self.resize(block)
        self.waiting: list[tuple[Any, ...]] = []
        self.kind: Any = None
        self.sums: dict[Any, Tensor] = {}
        self.count = 0

    def resize(self, block: int) -> None:
        """So many updates in a replay from now on; one where updates are no graphs."""
        self.block = block if self.device.captures else 1
        self.many = self.device.function(lambda *stacked: _in_turn(self.telling, block, stacked))

    def add(self, *args: Any) -> None:
        """One more update."""
        self.count += 1
        if self.block == 1:
            self._sum(self.one(*args))
            return
        kind = taken_apart(args, [])
        if kind != self.kind:  # another shape, or another constant: no part of this block
            self.flush()
            self.kind = kind
        self.waiting.append(args)
        if len(self.waiting) == self.block:
            waiting, self.waiting = self.waiting, []
            self._sum(self.many(*mapped(_stacked, *waiting)))

    def flush(self) -> None:
        """Makes the updates that are waiting: networks and moments are what they should be."""
        waiting, self.waiting = self.waiting, []
        for args in waiting:
            self._sum(self.one(*args))

    def _sum(self, metrics: dict[Any, Tensor]) -> None:
        for names, told in metrics.items():
            self.sums[names] = self.sums[names] + told if names in self.sums else told

    def mean_tensors(self) -> dict[str, Tensor]:
        """The metrics' means since the last time, per update, on the CPU."""
        self.flush()
        sums, count = self.sums, max(1, self.count)
        self.sums, self.count = {}, 0
        return {
            name: value for names, told in sums.items() for name, value in zip(names, (told / count).cpu(), strict=True)
        }

    def means(self) -> dict[str, float]:
        """The same as numbers."""
        return {name: float(value) for name, value in self.mean_tensors().items()}


def _stacked(*leaves: Any) -> Tensor:
    if isinstance(leaves[0], float):
        return torch.tensor(leaves, dtype=torch.float32)
    return torch.stack(leaves)


def _told(pure: Callable[..., dict[str, Tensor]]) -> Callable[..., dict[Any, Tensor]]:
    """The update with its metrics as one tensor, under all their names: one thing to keep and to add up."""

    def update(*args: Any) -> dict[Any, Tensor]:
        metrics = pure(*args)
        return {tuple(metrics): torch.stack([value.detach().float() for value in metrics.values()])}

    return update


def _in_turn(pure: Callable[..., dict[Any, Tensor]], count: int, stacked: tuple[Any, ...]) -> dict[Any, Tensor]:
    """`count` updates; the sums of their metrics."""
    sums: dict[Any, Tensor] = {}
    for index in range(count):
        args = mapped(lambda leaf, index=index: leaf[index], stacked)
        for names, told in pure(*args).items():
            sums[names] = sums[names] + told if names in sums else told
    return sums


class Ahead:
    """A tensor on its way from the device to the host, which may do other things until it needs it."""

    def __init__(self, tensor: Tensor):
        self.host, self.come = tensor, None
        if tensor.is_cuda:
            self.host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self.host.copy_(tensor, non_blocking=True)
            self.come = torch.cuda.Event()
            self.come.record()

    def wait(self) -> Tensor:
        """The tensor on the host."""
        if self.come is not None:
            self.come.synchronize()
        return self.host


def set_rate(optimiser: torch.optim.Optimizer, rate: Tensor | float) -> None:
    """The learning rate from now on; part of a graph where it is a tensor."""
    for group in optimiser.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].copy_(rate) if isinstance(rate, Tensor) else group["lr"].fill_(rate)
        else:
            group["lr"] = float(rate)


def descend(
    loss: Tensor, optimiser: torch.optim.Optimizer, max_norm: float = 0.0, halted: Tensor | None = None
) -> Tensor | None:
    """One step of an optimiser along the gradient of its own parameters; the gradient's norm where it is clipped.

    Parameters that the loss does not depend on are left alone.

    Args:
        loss: What falls.
        optimiser: From `Device.adam`.
        max_norm: Of the gradient; 0 for any.
        halted: Number 1 where no step is to be taken after all, which only the device knows. A graph cannot leave a
            loop; fused optimisers skip such a step, for that is how loss scaling skips those that overflow.
    """
    if halted is not None:
        optimiser.found_inf = halted  # pyright: ignore[reportAttributeAccessIssue]
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = None if gradient is None else laid_out(gradient, parameter)
    norm = nn.utils.clip_grad_norm_(parameters, max_norm) if max_norm else None
    optimiser.step()
    return norm


def laid_out(gradient: Tensor, parameter: Tensor) -> Tensor:
    """The gradient with its numbers in memory as the parameter's are: fused optimisers go by that order alone."""
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)


def find_device(name: str) -> torch.device:
    """A device by its name; "auto" is CUDA where there is some, the CPU elsewhere; ValueError where it is missing."""
    if name not in ("auto", "cpu", "cuda", "meta"):
        raise ValueError(f"unknown device {name!r}; available: auto, cpu, cuda")
    found = torch.cuda.is_available()
    if name == "auto":
        return torch.device("cuda" if found else "cpu")
    if name == "cuda" and not found:
        raise ValueError(f"there is no CUDA device for device {name!r}; use 'cpu', or 'auto' to take what there is")
    return torch.device(name)


def learner(module: Module, device: Device) -> Module:
    """What learns on a device for a module that plays on the CPU: itself there, a copy elsewhere; see `follow`.

    The learner never moves: a graph keeps to the memory it has seen.
    """
    return module if device.kind.type == "cpu" else device.place(copy.deepcopy(module))


def follow(copied: nn.Module, module: nn.Module) -> None:
    """A copy becomes what the module is now."""
    if copied is not module:
        copied.load_state_dict(module.state_dict())
