"""Trains UNICORN's released code on a data set of the package, and evaluates it under the standard protocol.

    git clone https://github.com/betray12138/UNICORN && git -C UNICORN checkout d8853cd
    pip install --no-deps --target MBRL mbrl==0.2.0                 # its decoder; no package that mbrl needs besides
    metabench dataset generate metabench/point-robot/mixed-v0
    export PYTHONPATH=MBRL
    python -m studies.peer_unicorn.train --code UNICORN             # BRAC, as its args_ant_dir.py has it
    python -m studies.peer_unicorn.train --code UNICORN --rate 1e-3 --hold 1
    python -m studies.peer_unicorn.train --code UNICORN --settings cheetah_vel    # plain SAC
    python -m studies.peer_unicorn.train --code UNICORN --speed     # updates per second beside the package's own

It imports matplotlib, pandas and scikit-learn besides. It has no settings for PointRobot; those of AntDir and
CheetahVel differ in the policy's learner alone, which is BRAC for the one and plain SAC for the other. Where the
released sizes would take days of a CPU (200,000 updates of 16 x 256 transitions) they are those of the package's own
agent: 6,000 updates of 16 x 32, layers of 128, z of 5 as in both. The code's contexts are whole episodes: three of 20
steps stand for the package's 64 transitions.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import metabench
from metabench.evaluation.results import write_atomically
from studies.peer_csro.adapter import shown_contexts
from studies.peer_csro.train import median_rates
from studies.peer_unicorn.adapter import PeerAgent, Released, ShownAgent, stand_in, trajectories

BENCHMARK, DATA = "PointRobot-v0", "metabench/point-robot/mixed-v0"
EPISODES, REPEATS = 3, 20  # of a trial of the evaluation, and trials of a task


@dataclass(frozen=True)
class Sizes:
    """Of one update, and of networks of two hidden layers."""

    batch: int = 32  # transitions of each of 16 tasks for the policy
    context: int = 3  # episodes for the encoder
    width: int = 128  # of all layers of policy and critics
    encoder: int = 128  # of those of encoder and decoder


PUBLISHED = Sizes(256, 10, 256, 64)  # there a context is one episode, of 200 steps


def learner(code: Path, settings: str, sizes: Sizes, given: dict[str, Any]) -> Any:
    """The released learner, `FOCAL` by name, on the benchmark's training data.

    Args:
        code: A checkout.
        settings: Which of its files of settings: `ant_dir` or `cheetah_vel`.
        sizes: Of networks and batches.
        given: Settings in place of those of the file.
    """
    stand_in()
    if str(code) not in sys.path:
        sys.path.insert(0, str(code))
    from torchkit import pytorch_utils as ptu  # pyright: ignore[reportMissingImports]

    ptu.set_gpu_mode(False)
    from train_offline_FOCAL import FOCAL  # pyright: ignore[reportMissingImports]

    data = metabench.load_dataset(DATA, "train")
    own, known = importlib.import_module(f"offline_rl_config.args_{settings}").get_args([]), trajectories(data)
    deep = [sizes.width] * 2
    changed = {"env_name": BENCHMARK, "log_tensorboard": False, "dqn_layers": deep, "policy_layers": deep}
    changed |= {"num_train_tasks": len(known), "num_eval_tasks": 0, "max_replay_size": known[0][0][..., 0].size}
    changed |= {"rl_batch_size": sizes.batch, "num_context_trajs": sizes.context}
    vars(own).update(changed | {"aggregator_hidden_size": sizes.encoder} | given)
    goals = metabench.spec(BENCHMARK).table().rows["train"][np.unique(data.episodes["task"])]
    made = FOCAL(own, known, goals, [], goals[:0])
    made._start_training()
    made.training_mode(True)
    return made


def update(made: Any) -> None:
    """One of its iterations, as its training loop makes them: updates on one draw of tasks."""
    made.update(np.random.choice(len(made.goals), made.args.meta_batch))  # noqa: NPY002


def evaluate(made: Any) -> dict[str, list[float]]:
    """Mean returns by episode, of every split and with every kind of context."""
    space: Any = metabench.spec(BENCHMARK).family().action_space
    agents: dict[str, tuple[Any, Any]] = {
        split: (PeerAgent(Released(made), space), split) for split in ("train", "test", "ood")
    }
    for split in ("train", "test"):
        shown = shown_contexts(metabench.load_dataset(DATA, split), following=True)
        agents[f"{split}, shown"] = ShownAgent(Released(made), space, shown), split
    told = {}
    for name, (agent, split) in agents.items():
        protocol = metabench.Protocol(benchmark=BENCHMARK, split=split, seed=0, episodes=EPISODES, repeats=REPEATS)
        told[name] = metabench.evaluate(agent, protocol).array().mean(axis=(0, 1)).round(3).tolist()
    return told


def train(given: argparse.Namespace) -> dict[str, Any]:
    """Trains it; what it reaches by split and episode."""
    settings: dict[str, Any] = {"rl_updates_per_iter": given.hold, "seed": given.seed}
    settings |= dict.fromkeys(("actor_lr", "critic_lr", "encoder_lr"), given.rate)
    made = learner(given.code, given.settings, Sizes(), settings)
    start = time.process_time()
    for _ in range(given.updates // given.hold):
        update(made)
    told: dict[str, Any] = {"settings": given.settings, "rate": given.rate, "hold": given.hold, "seed": given.seed}
    told |= {"updates": given.updates, "seconds": round(time.process_time() - start, 1)}
    return told | evaluate(made)


def ours(sizes: Sizes) -> Callable[[], None]:
    """An update of the package's UNICORN by BRAC at the same sizes, as a function."""
    from metabench_agents.context.offline import unicorn
    from metabench_agents.context.offline.actor_critic import ActorCriticConfig
    from metabench_agents.context.offline.data import load_task_data
    from metabench_agents.context.offline.fitting import OfflineTrainer
    from metabench_agents.context.offline.network import OfflineNetwork
    from metabench_agents.parts.run import stream

    config = unicorn.Config()
    encoder = replace(config.encoder, hidden=sizes.encoder)
    network = OfflineNetwork(BENCHMARK, encoder, ActorCriticConfig("brac", sizes.width))
    data = load_task_data(BENCHMARK, DATA, "train", network.actions)
    network.fit_scales(data)
    length = metabench.spec(BENCHMARK).family().horizon
    fitting = replace(config.fitting, batch=sizes.batch, context=sizes.context * length)
    objective = unicorn.Decoder(network.encoder, sizes.encoder, config.metric_weight)
    trainer, numbers = OfflineTrainer(network, objective, data, fitting), iter(range(10**9))

    def step() -> None:
        number = next(numbers)
        trainer.updates.add(*trainer.given(number, stream(number)))

    return step


def speed(code: Path, rounds: int = 7, seconds: float = 2.0) -> dict[str, Any]:
    """Updates per second of both in turn, medians over the rounds, by processor time of one thread."""
    told: dict[str, Any] = {}
    for name, sizes in {"published": PUBLISHED, "ours": Sizes()}.items():
        made = learner(code, "ant_dir", sizes, {"rl_updates_per_iter": 1, "seed": 0})
        ways = {"released": lambda made=made: update(made), "metabench": ours(sizes)}
        told[name] = median_rates(ways, rounds, seconds)
    return told


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains or times, prints what comes out, and writes it where it is told to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--code", type=Path, required=True, help="a checkout of github.com/betray12138/UNICORN")
    parser.add_argument("--settings", choices=("ant_dir", "cheetah_vel"), default="ant_dir", help="BRAC, or SAC")
    parser.add_argument("--updates", type=int, default=6_000)
    parser.add_argument("--rate", type=float, default=3e-4, help="of learning, of all networks but the dual critic")
    parser.add_argument("--hold", type=int, default=200, help="updates on one draw of 16 tasks")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--speed", action="store_true", help="updates per second beside the package's own")
    parser.add_argument("--out", type=Path, help="a JSON file")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    told = speed(given.code) if given.speed else train(given)
    print(json.dumps(told))
    if given.out:
        write_atomically(given.out, (json.dumps(told, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
