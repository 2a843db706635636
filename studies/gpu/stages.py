"""The stages of the study, each a process of its own: what it has found is on the disk, whenever it is ended.

python -m studies.gpu.stages NAME --out FILE --seconds S [--rehearsal]
"""

from __future__ import annotations

import argparse
import json
import math
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from metabench_agents import rl2
from metabench_agents.belief import varibad
from metabench_agents.oracle import sac_oracle
from metabench_agents.parts.device import Device
from metabench_agents.parts.run import Run, stream

import metabench
from metabench.runs import Stopped, read_metrics
from studies.gpu import works
from studies.gpu.checked import CHECKED, learned
from studies.gpu.measure import rate, settle
from studies.gpu.works import PUBLISHED, SMALL, Maker, Making, Sizes

FORMS = ("eager", "captured", "compiled", "both")
EQUAL = 1e-5  # between forms, and between a GPU and the CPU


class OutOfTime(Exception):
    """A figure took longer than its share."""


def within(seconds: float, function: Callable[[], Any]) -> Any:
    """What the function gives; OutOfTime after so many seconds."""

    def ring(number: int, frame: object) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(0.1, seconds))
    try:
        return function()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


def closed_loop(device: Device, sizes: Sizes) -> Making:
    """The soft actor-critic with one environment: an action, a step, an update, over and over; the unit is a step."""
    config = sac_oracle.Config(
        slots=1, updates=1, sac=sac_oracle.SACConfig(hidden=sizes.sac_hidden, batch=sizes.sac_batch)
    )
    env = metabench.make_vec(works.CHEETAH, 1, episodes_per_task=1, expose_task=True)
    columns, actions = (math.prod(s.shape or ()) for s in (env.single_observation_space, env.single_action_space))
    sac = sac_oracle.SAC(columns, actions, config.sac, stream(0), device)
    replay = sac_oracle.Replay(100_000, columns, actions, device.kind)
    replay.rows.normal_()
    replay.rows[:, -1] = 0.0
    replay.written = 10_000
    learner = sac_oracle.Alone(sac, replay, config)
    played = sac_oracle.collect(learner, env, config, config.random_episodes, None, (0,), device)

    def step() -> None:
        next(played)

    return Making(step, 1, learner.updates.means, lambda: iter(sac.state.actor))


def evaluation(device: Device, sizes: Sizes) -> Making:
    """RL2 evaluated on GridSwitch, on the CPU as agents are; the unit is a step."""
    network = rl2.fresh(rl2.Config(), metabench.make_vec(works.GRID, 1), 0)
    agent = rl2.Agent(network)
    frames = metabench.evaluate(agent, works.GRID, seed=0).array().size * 60
    return Making(lambda: metabench.evaluate(agent, works.GRID, seed=0) and None, frames, dict, network.parameters)


def figures(sizes: Sizes) -> Iterator[tuple[str, str, Maker, tuple[str, ...], str]]:
    """(name, unit, work, forms, precision) of all that is timed, most important first."""
    some, one = FORMS[:2], ("eager",)
    for precision in ("tf32", "bf16", "fp32"):
        forms = FORMS if precision != "fp32" else some
        yield "transformer 3 x 128, K = 20, batch 128", "updates", works.transformer, forms, precision
    yield "SAC 256-256, batch 256", "updates", works.sac, FORMS, "fp32"
    yield "SAC, closed loop", "steps", closed_loop, some, "fp32"
    yield "RL2 on GridSwitch, all in", "frames", works.rl2_iteration, some, "fp32"
    yield "RL2 on GridSwitch, all in", "frames", works.rl2_iteration, ("captured",), "tf32"
    for count in (4, 16):

        def of_seeds(maker: Any, count: int = count) -> Maker:
            return lambda device, sizes: maker(device, sizes, count)

        yield f"SAC, {count} seeds", "updates", of_seeds(works.sac), some, "fp32"
        yield f"RL2, {count} seeds, all in", "frames", of_seeds(works.rl2_iteration), ("captured",), "fp32"
    for agent in ("varibad", "dynamite"):
        for trials in sizes.elbo_trials:

            def of_trials(device: Device, sizes: Sizes, agent: str = agent, trials: int = trials) -> Making:
                return works.elbo(device, sizes, agent, trials)

            forms = FORMS if (agent, trials) == ("varibad", sizes.elbo_trials[0]) else some
            yield f"ELBO of {agent}, {trials} trials", "updates", of_trials, forms, "fp32"
    yield "PEARL, cheetah-vel", "updates", works.pearl_update, some, "fp32"
    yield "PEARL, cheetah-vel", "updates", works.pearl_update, some, "bf16"
    yield "world model", "updates", works.world_model, FORMS, "fp32"
    yield "behaviour cloning", "updates", works.cloning, some, "fp32"
    yield "evaluation of RL2 on the CPU", "steps", evaluation, one, "fp32"


def checks(tell: Callable[[Any], None], seconds: float, rehearsal: bool) -> None:
    """Metrics and parameters after ten updates: graphs against the CPU's eager ones, every agent, float32."""
    deadline = time.monotonic() + seconds
    name = "cpu" if rehearsal else "cuda"
    for agent, maker in CHECKED.items():
        told, expected = learned(maker, Device("cpu"), SMALL)
        for form in ("eager", "captured"):
            row: dict[str, Any] = {"agent": agent, "form": form}
            try:
                left = deadline - time.monotonic()
                also, found = within(left, lambda m=maker, f=form: learned(m, Device(name, form=f), SMALL))
                row["parameters"] = float((found - expected).abs().max())
                row["metrics"] = max(abs(told[n] - also[n]) / max(1.0, abs(told[n])) for n in told)
                row["equal"] = max(row["parameters"], row["metrics"]) < EQUAL
            except OutOfTime:
                row["missing"] = "out of time"
            except Exception as error:
                row["missing"] = f"{type(error).__name__}: {error}"[:300]
            tell(row)


def speeds(tell: Callable[[Any], None], seconds: float, rehearsal: bool) -> None:
    """Units per second in every form, and kernels; a figure may take a fixed share of the time."""
    deadline, sizes, name = time.monotonic() + seconds, SMALL if rehearsal else PUBLISHED, "cuda"
    short, share, name = (0.03, 300.0, "cpu") if rehearsal else (1.2, 25.0, name)
    todo = [(form, *figure) for figure in figures(sizes) for form in figure[3] if not (rehearsal and form in FORMS[2:])]
    todo.sort(key=lambda work: work[0] in FORMS[2:])  # compilation takes longest, and is asked for last
    for form, title, unit, maker, _, precision in todo:
        row: dict[str, Any] = {"work": title, "unit": unit, "form": form, "precision": precision}

        def measured(form: str = form, maker: Maker = maker, precision: Any = precision) -> dict[str, Any]:
            device = Device(name, precision, form)  # pyright: ignore[reportArgumentType]
            made = maker(device, sizes)
            return rate(made, device, short, deadline) | {"metrics": {n: float(v) for n, v in made.metrics().items()}}

        left = deadline - time.monotonic()
        try:
            row |= within(min(left, share), measured) if left > 1.0 else {"missing": "out of time"}
        except OutOfTime:
            row["missing"] = "out of time"
        except Exception as error:
            row["missing"] = f"{type(error).__name__}: {error}"[:300]
        tell(row)
        settle(Device(name))


def curves(tell: Callable[[Any], None], seconds: float, rehearsal: bool) -> None:
    """Return against seconds of one short run of each kind, on the CPU and on the device."""
    frames = 60 * 16 * 2 if rehearsal else 10**9
    share = seconds / 6 - 1.0
    runs = {
        "rl2 on GridNavigation-v0": (
            "GridNavigation-v0",
            rl2,
            {"frames": frames} | ({"trials": 16} if rehearsal else {}),
        ),
        "sac-oracle on PointRobot-v0": (
            "PointRobot-v0",
            sac_oracle,
            {"frames": 20 * 4 * 3, "slots": 4, "sac.batch": 16, "sac.hidden": 16} if rehearsal else {"frames": frames},
        ),
        "varibad on GridNavigation-v0": (
            "GridNavigation-v0",
            varibad,
            {"frames": frames, "trials": 16, "warmup.iterations": 1, "warmup.updates": 2, "fit.updates": 2}
            if rehearsal
            else {"frames": frames},
        ),
    }
    for title, (benchmark, module, changes) in runs.items():
        for name in ("cpu", "captured" if rehearsal else "cuda"):
            settings = {"device": "cpu", "form": name} if name == "captured" else {"device": name}
            config = works.with_settings(module.Config(), changes | settings)
            tell({"run": title, "device": name, "curve": curve(module, benchmark, config, share)})


def curve(module: Any, benchmark: str, config: Any, seconds: float) -> list[tuple[float, float]]:
    """(seconds, return) along a run that is stopped after so many."""
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder), show=False, checkpoint_every=10**6)
        clock = threading.Timer(seconds, run.request_stop)
        clock.start()
        start, seen = time.perf_counter(), []
        log = run.log

        def keep(row: Any) -> None:
            seen.append((round(time.perf_counter() - start, 3), row["return"]))
            log(row)

        run.log = keep
        try:
            module.train(benchmark, config, seed=0, run=run)
        except Stopped:
            pass
        finally:
            clock.cancel()
            run.close()
        assert len(read_metrics(Path(folder))) == len(seen)
    return seen


STAGES = {"checks": checks, "speeds": speeds, "curves": curves}


def main() -> None:
    """One stage; its rows go to a file, one JSON object per line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--rehearsal", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with asked.out.open("w") as file:

        def tell(row: Any) -> None:
            file.write(json.dumps(row) + "\n")
            file.flush()
            print(json.dumps(row)[:200], file=sys.stderr)

        STAGES[asked.stage](tell, asked.seconds, asked.rehearsal)


if __name__ == "__main__":
    main()
