"""Trains CSRO's released code on a data set of the package, and evaluates it under the standard protocol.

    git clone https://github.com/MoreanP/CSRO && git -C CSRO checkout 7db1efd
    metabench dataset generate metabench/point-robot/mixed-v0
    python -m studies.peer_csro.train --code CSRO                   # as its point-robot.json has it, but the updates
    python -m studies.peer_csro.train --code CSRO --brac --rate 1e-3
    python -m studies.peer_csro.train --code CSRO --speed           # updates per second beside the package's own

Where the released settings would take the night of a CPU (65,000 updates of 16 x 256 transitions and contexts of 1,024)
the sizes are those of the package's own agent: 6,000 updates of 16 x 32, contexts of 64, layers of 128.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import metabench
from metabench.evaluation.results import write_atomically
from studies.peer_csro.adapter import PeerAgent, Plane, ShownAgent, shown_contexts, stand_in, write_trajectories

BENCHMARK, DATA = "PointRobot-v0", "metabench/point-robot/mixed-v0"
EPISODES, REPEATS = 3, 20  # of a trial of the evaluation, and trials of a task


@dataclass(frozen=True)
class Sizes:
    """Of one update."""

    batch: int = 32  # transitions of each of 16 tasks for the policy
    context: int = 64  # for the encoder
    width: int = 128  # of all layers of policy and critics
    layers: int = 2
    encoder: int = 128  # width of the encoder's layers
    encoder_layers: int = 2


PUBLISHED = Sizes(256, 1024, 256, 3, 200, 3)


def algorithm(code: Path, sizes: Sizes, folder: Path, given: dict[str, Any]) -> Any:
    """The released algorithm on the benchmark's training data, which are written to `folder`.

    Args:
        code: A checkout.
        sizes: Of networks and batches.
        folder: Of trajectories.
        given: Settings in place of those of `configs/point-robot.json`.
    """
    stand_in()
    sys.path.insert(0, str(code))
    from configs.default import default_config  # pyright: ignore[reportMissingImports]
    from rlkit.torch import pytorch_util as ptu  # pyright: ignore[reportMissingImports]
    from rlkit.torch.networks import FlattenMlp, MlpEncoder  # pyright: ignore[reportMissingImports]
    from rlkit.torch.sac.agent import PEARLAgent  # pyright: ignore[reportMissingImports]
    from rlkit.torch.sac.policies import TanhGaussianPolicy  # pyright: ignore[reportMissingImports]
    from rlkit.torch.sac.sac import CSROSoftActorCritic  # pyright: ignore[reportMissingImports]

    tasks, episodes = write_trajectories(metabench.load_dataset(DATA, "train"), folder)
    own = json.loads((code / "configs" / "point-robot.json").read_text())
    settings = default_config["algo_params"] | own["algo_params"] | {"batch_size": sizes.batch}
    settings |= {"embedding_batch_size": sizes.context, "embedding_mini_batch_size": sizes.context}
    settings |= {"data_dir": str(folder), "n_trj": episodes, "train_epoch": [0, 1, 1], "eval_epoch": [0, 1, 1]} | given
    plane, latent, deep = Plane(BENCHMARK), own["latent_size"], [sizes.width] * sizes.layers
    seen, acts = (space.shape[0] for space in (plane.observation_space, plane.action_space))

    def encoder(inputs: int, outputs: int) -> Any:
        widths = [sizes.encoder] * sizes.encoder_layers
        return MlpEncoder(hidden_sizes=widths, input_size=inputs, output_size=outputs, output_activation=torch.tanh)

    def critic(inputs: int) -> Any:
        return FlattenMlp(hidden_sizes=deep, input_size=inputs + latent, output_size=1)

    policy = TanhGaussianPolicy(hidden_sizes=deep, obs_dim=seen + latent, latent_dim=latent, action_dim=acts)
    agent = PEARLAgent(latent, encoder(seen + acts + 1, latent), policy, **settings)
    nets = [agent, critic(seen + acts), critic(seen + acts), critic(seen), critic(seen + acts)]
    nets.append(encoder(seen + acts, 2 * latent))
    made = CSROSoftActorCritic(
        env=plane, train_tasks=list(range(tasks)), eval_tasks=[], nets=nets, latent_dim=latent, **settings
    )
    ptu.set_gpu_mode(False)
    made.to()
    made.training_mode(True)
    return made


def update(made: Any) -> None:
    """One of its updates, as its training loop makes them."""
    made._do_training(np.random.choice(made.train_tasks, made.meta_batch, replace=made.mb_replace))  # noqa: NPY002


def train(given: argparse.Namespace) -> dict[str, Any]:
    """Trains it; what it reaches by split and episode."""
    settings = {"use_brac": given.brac}
    settings |= dict.fromkeys(("policy_lr", "qf_lr", "vf_lr", "context_lr"), given.rate)
    with tempfile.TemporaryDirectory() as folder:
        made = algorithm(given.code, Sizes(), Path(folder), settings)
    start = time.process_time()
    for _ in range(given.updates):
        update(made)
    told: dict[str, Any] = {"updates": given.updates, "seconds": round(time.process_time() - start, 1)}
    space: Any = metabench.spec(BENCHMARK).family().action_space
    agents: dict[str, tuple[Any, Any]] = {
        split: (PeerAgent(made.agent, space), split) for split in ("train", "test", "ood")
    }
    for split in ("train", "test"):
        shown = shown_contexts(metabench.load_dataset(DATA, split))
        agents[f"{split}, shown"] = ShownAgent(made.agent, space, shown), split
    for name, (agent, split) in agents.items():
        protocol = metabench.Protocol(benchmark=BENCHMARK, split=split, seed=0, episodes=EPISODES, repeats=REPEATS)
        told[name] = metabench.evaluate(agent, protocol).array().mean(axis=(0, 1)).round(3).tolist()
    return told


def ours(sizes: Sizes) -> Callable[[], None]:
    """An update of the package's CSRO by BRAC at the same sizes, as a function."""
    from metabench_agents.context.offline import csro
    from metabench_agents.context.offline.actor_critic import ActorCriticConfig
    from metabench_agents.context.offline.data import load_task_data
    from metabench_agents.context.offline.fitting import OfflineTrainer
    from metabench_agents.context.offline.network import OfflineNetwork
    from metabench_agents.parts.run import stream

    config = csro.Config()
    encoder = replace(config.encoder, hidden=sizes.encoder, layers=sizes.encoder_layers)
    network = OfflineNetwork(BENCHMARK, encoder, ActorCriticConfig("brac", sizes.width, sizes.layers))
    data = load_task_data(BENCHMARK, DATA, "train", network.actions)
    network.fit_scales(data)
    fitting = replace(config.fitting, batch=sizes.batch, context=sizes.context)
    objective = csro.Club(network.encoder, config.metric_weight, config.club_weight)
    trainer, numbers = OfflineTrainer(network, objective, data, fitting), iter(range(10**9))

    def step() -> None:
        number = next(numbers)
        trainer.updates.add(*trainer.given(number, stream(number)))

    return step


def median_rates(ways: Mapping[str, Callable[[], object]], rounds: int, seconds: float) -> dict[str, float]:
    """Calls per second of every way in turn, medians over the rounds, by processor time of one thread."""
    rates: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, step in ways.items():
            step()
            count, start = 0, time.process_time()
            while time.process_time() - start < seconds:
                step()
                count += 1
            rates[way].append(count / (time.process_time() - start))
    return {way: round(statistics.median(values), 2) for way, values in rates.items()}


def speed(code: Path, rounds: int = 7, seconds: float = 2.0) -> dict[str, Any]:
    """Updates per second of both in turn, medians over the rounds, by processor time of one thread."""
    told: dict[str, Any] = {}
    for name, sizes in {"published": PUBLISHED, "ours": Sizes()}.items():
        with tempfile.TemporaryDirectory() as folder:
            made = algorithm(code, sizes, Path(folder), {"use_brac": True})
        ways = {"released": lambda made=made: update(made), "metabench": ours(sizes)}
        told[name] = median_rates(ways, rounds, seconds)
    return told


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains or times, prints what comes out, and writes it where it is told to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--code", type=Path, required=True, help="a checkout of github.com/MoreanP/CSRO")
    parser.add_argument("--updates", type=int, default=6_000)
    parser.add_argument("--rate", type=float, default=3e-4, help="of learning, of all networks but the dual critic")
    parser.add_argument(
        "--brac", action="store_true", help="its behaviour regularisation, which point-robot.json lacks"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--speed", action="store_true", help="updates per second beside the package's own")
    parser.add_argument("--out", type=Path, help="a JSON file")
    given = parser.parse_args(arguments)
    np.random.seed(given.seed)  # noqa: NPY002  the code draws from it
    torch.manual_seed(given.seed)
    torch.set_num_threads(1)
    told = speed(given.code) if given.speed else train(given)
    if not given.speed:
        told = {"brac": given.brac, "rate": given.rate, "seed": given.seed} | told
    print(json.dumps(told))
    if given.out:
        write_atomically(given.out, (json.dumps(told, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
