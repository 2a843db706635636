"""Pictures of a latent task space: beliefs coloured by factor, traversals of one dimension, learning curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from metabench_agents.context.fidelity import dream, simulated
from metabench_agents.parts.run import stream

from studies.efficiency import Curve

Array = npt.NDArray[Any]
DPI = 130


def _figure(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
    """A figure without a window. ImportError with the command that installs matplotlib where it is missing."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ImportError("pictures need matplotlib, which is not installed: pip install 'metabench[plots]'") from error
    figure = Figure(figsize=kwargs.pop("figsize"), layout="constrained")
    return figure, figure.subplots(*args, squeeze=False, **kwargs)


def latent_space(path: Path, means: Array, factors: Array, names: Sequence[str], dimensions: Sequence[int]) -> None:
    """One panel per factor: beliefs in the two dimensions that matter most, coloured by the factor.

    Args:
        path: Of the PNG.
        means: `[R, C, L]` posterior means of C contexts of R tasks.
        factors: `[R, K]` the tasks' factors.
        names: K of them.
        dimensions: f(k) of every factor.
    """
    across = dimensions[0]
    spread = means.reshape(-1, means.shape[-1]).std(0)
    others = [d for d in (*dimensions[1:], *np.argsort(-spread).tolist()) if d != across]
    up = int(others[0]) if others else across
    figure, axes = _figure(1, len(names), figsize=(4.6 * len(names), 3.9))
    for k, name in enumerate(names):
        panel = axes[0, k]
        colour = np.repeat(factors[:, k], means.shape[1])
        dots = panel.scatter(
            means[..., across].ravel(), means[..., up].ravel(), c=colour, s=12, cmap="viridis", alpha=0.7, lw=0
        )
        panel.set(xlabel=f"latent dimension {across}", ylabel=f"latent dimension {up}")
        panel.set_title(f"{name}: dimension {dimensions[k]}", fontsize=10)
        figure.colorbar(dots, ax=panel, label=name)
    figure.savefig(path, dpi=DPI)


def traversal(
    path: Path,
    benchmark: str,
    network: Any,
    z: torch.Tensor,
    factors: Array,
    names: Sequence[str],
    columns: Sequence[int],
    steps: int,
    varied: str,
) -> None:
    """Imagined trajectories of latents along one dimension (dashed) beside simulated ones (solid), from one start.

    Args:
        path: Of the PNG.
        benchmark: An id.
        network: With `model.decoder` and `core`.
        z: `[M, L]` latents along one dimension.
        factors: `[M, K]` the factors they should stand for: played in the simulator, with the same actions.
        names: Of the observation's columns.
        columns: Which of them to draw; the reward is drawn beside them.
        steps: Of the trajectories.
        varied: What changes from line to line.
    """
    played, alive = simulated(benchmark, factors, network.core, z, steps, [0] * len(z), stream(0, 11))
    states, rewards = dream(network.model.decoder, played, z)
    figure, axes = _figure(1, len(columns) + 1, figsize=(3.8 * (len(columns) + 1), 3.4))
    from matplotlib import colormaps

    colours = colormaps["viridis"](np.linspace(0.05, 0.9, len(z)))
    curves = [(played.next_observation[..., c], states[..., c], names[c]) for c in columns]
    for panel, (real, imagined, name) in zip(axes[0], [*curves, (played.reward, rewards, "reward")], strict=True):
        for row, colour in enumerate(colours):
            count = int(alive[row].sum())
            panel.plot(real[row, :count], color=colour, lw=1.6)
            panel.plot(imagined[row, :count], color=colour, lw=1.2, ls="--")
        panel.set(xlabel="step")
        panel.set_title(name, fontsize=10)
    axes[0, 0].plot([], [], color="black", lw=1.6, label="simulated")
    axes[0, 0].plot([], [], color="black", lw=1.2, ls="--", label="imagined")
    axes[0, 0].legend(fontsize=8, frameon=False)
    figure.suptitle(varied, fontsize=10)
    figure.savefig(path, dpi=DPI)


def learning_curves(path: Path, curves: Mapping[str, Sequence[Curve]], levels: Mapping[str, float], title: str) -> None:
    """Return after adaptation against real steps, on a logarithmic axis: the mean over runs, each run faintly.

    Args:
        path: Of the PNG.
        curves: The runs of every variant.
        levels: Horizontal lines by name: random, oracle.
        title: Of the picture.
    """
    figure, axes = _figure(1, 1, figsize=(7.2, 4.4))
    panel = axes[0, 0]
    from matplotlib import colormaps

    palette = [colormaps["tab10"](index) for index in range(10)]
    for index, (name, runs) in enumerate(curves.items()):
        colour, shortest = palette[index % 10], min(len(run.frames) for run in runs)
        style = "-" if index < 10 else "--"
        for run in runs:
            panel.plot(run.frames, run.returns, color=colour, lw=0.7, alpha=0.35, ls=style)
        if shortest:
            frames = np.mean([run.frames[:shortest] for run in runs], axis=0)
            panel.plot(frames, np.mean([run.returns[:shortest] for run in runs], axis=0), color=colour, lw=2, ls=style)
        panel.plot([], [], color=colour, lw=2, ls=style, label=f"{name} ({len(runs)})")
    for name, level in levels.items():
        panel.axhline(level, color="grey", lw=0.8, ls=":")
        panel.text(1.005, level, name, color="grey", fontsize=8, va="center", transform=panel.get_yaxis_transform())
    panel.set_xscale("log")
    panel.set(xlabel="real environment steps", ylabel="return of the last episode")
    panel.set_title(title, fontsize=10)
    panel.legend(fontsize=8, frameon=False, ncol=2)
    figure.savefig(path, dpi=DPI)
