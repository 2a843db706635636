"""Trains AMAGO on a benchmark, a trial as one episode, and evaluates it under the standard protocol.

    python -m studies.peer_amago.train GridSwitch-v0 --out runs/amago

AMAGO is not on PyPI, and asks for older packages than this one. In an environment of its own, beside metabench: `pip
install --no-deps` of AMAGO's folder (commit 2d85600 was run), einops, gin-config, termcolor, accelerate, psutil,
wandb==0.23.1, gym==0.26.2 and gym-notices, protobuf, sentry-sdk, gitpython, gitdb, smmap.

AMAGO's defaults but: a GRU of two layers of 64 as its memory, actor and critics of two layers of 64 (256), a learning
rate of 1e-3 (1e-4), its bilevel exploration over half of the run, 48 trials played together, one update per 48 steps
(12). These were taken for the time at hand, and nothing was tuned.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ |= {"WANDB_MODE": "disabled", "TORCH_COMPILE_DISABLE": "1"}

import numpy as np
import torch

import metabench
from metabench.evaluation.results import write_atomically
from studies.peer_amago.adapter import AmagoAgent, Trials, restore_handing_down

restore_handing_down()

from amago import Experiment, cli_utils  # noqa: E402  # pyright: ignore[reportMissingImports]
from amago.envs import AMAGOEnv  # noqa: E402  # pyright: ignore[reportMissingImports]
from amago.loading import DiskTrajDataset  # noqa: E402  # pyright: ignore[reportMissingImports]

SLOTS, UPDATES, WIDTH = 48, 60, 64  # trials played together, updates after each round of them, width of all layers
PLAYED = 50  # training trials of a point of the curve, at least


class Curve(Experiment):
    """An experiment whose validation is metabench's evaluation on training tasks; its time is not counted."""

    def begin_curve(self, benchmark: str, path: Path) -> None:
        """From here on, into `path`."""
        self.path, self.started, self.paused = path, time.perf_counter(), 0.0
        spec = metabench.spec(benchmark)
        repeats = -(-PLAYED // spec.table().size("train"))
        self.protocol = metabench.Protocol(
            benchmark=benchmark, split="train", seed=1, episodes=spec.episodes, repeats=repeats
        )
        with path.open("w", newline="") as file:
            csv.writer(file).writerow(("frames", "seconds", "train_return"))

    def evaluate_val(self) -> None:
        """One point: environment steps, seconds of training, the mean return of a training trial."""
        begun = time.perf_counter()
        returns = metabench.evaluate(AmagoAgent(self.policy), self.protocol).array().sum(axis=2)
        seconds = round(begun - self.started - self.paused, 1)
        with self.path.open("a", newline="") as file:
            row = (self.train_envs.env.total_frames, seconds, round(float(returns.mean()), 3))
            csv.writer(file).writerow(row)
        self.paused += time.perf_counter() - begun


def experiment(benchmark: str, seed: int, rounds: int, rate: float, out: Path) -> Any:
    """A run of AMAGO that has not begun, and keeps its trials and checkpoints in `out`."""
    length = metabench.spec(benchmark).horizon * metabench.spec(benchmark).episodes
    config: dict[str, Any] = {f"amago.nets.actor_critic.{head}.d_hidden": WIDTH for head in ("Actor", "NCritics")}
    schedule = {"steps_anneal": rounds * length // 2, "rollout_horizon": length}
    exploration = cli_utils.switch_exploration(config, "bilevel", **schedule)

    def make_env() -> Any:
        return AMAGOEnv(Trials(benchmark, SLOTS, seed), benchmark, SLOTS)

    name = f"{benchmark}-amago-s{seed}"
    made = Curve(
        tstep_encoder_type=cli_utils.switch_tstep_encoder(config, "ff", n_layers=2, d_hidden=128, d_output=WIDTH),
        traj_encoder_type=cli_utils.switch_traj_encoder(config, "rnn", memory_size=WIDTH, layers=2),
        agent_type=cli_utils.switch_agent(config, "agent"),
        exploration_wrapper_type=exploration,
        make_train_env=make_env,
        make_val_env=make_env,
        parallel_actors=SLOTS,
        env_mode="already_vectorized",
        dataset=DiskTrajDataset(dset_root=str(out), dset_name=name, dset_max_size=20_000),
        run_name=name,
        ckpt_base_dir=str(out),
        ckpt_interval=None,
        max_seq_len=length,
        traj_save_len=length,
        epochs=rounds,
        train_timesteps_per_epoch=length,
        train_batches_per_epoch=UPDATES,
        learning_rate=rate,
        val_interval=max(1, rounds // 10),
        val_timesteps_per_epoch=1,  # says only that there are some
        dloader_workers=0,
        verbose=False,
    )
    cli_utils.use_config(config)
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains, and writes curve, weights, results on test tasks, and a summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmark")
    parser.add_argument("--rounds", type=int, default=120, help="each: a trial in every slot, then the updates; 120")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/amago"))
    given = parser.parse_args(arguments)
    random.seed(given.seed)
    np.random.seed(given.seed)  # noqa: NPY002  AMAGO draws from it
    torch.manual_seed(given.seed)
    torch.set_num_threads(1)
    given.out.mkdir(parents=True, exist_ok=True)
    run = experiment(given.benchmark, given.seed, given.rounds, given.learning_rate, given.out)
    name = given.out / f"{given.benchmark}-s{given.seed}"
    run.start()
    run.begin_curve(given.benchmark, name.with_suffix(".csv"))
    run.learn()
    run.evaluate_val()
    torch.save(run.policy.state_dict(), name.with_suffix(".pt"))
    summary: dict[str, Any] = {"benchmark": given.benchmark, "seed": given.seed, "rate": given.learning_rate}
    summary |= {"frames": run.train_envs.env.total_frames, "updates": run.grad_update_counter}
    summary["cpu_seconds"] = round(time.process_time(), 1)
    for split in ("train", "test", "ood"):
        result = metabench.evaluate(AmagoAgent(run.policy), given.benchmark, split=split, train_seed=given.seed)
        summary[split] = result.array().mean(axis=(0, 1)).round(3).tolist()
    write_atomically(name.with_suffix(".json"), (json.dumps(summary, indent=1) + "\n").encode())
    run.delete_buffer_from_disk()


if __name__ == "__main__":
    main()
