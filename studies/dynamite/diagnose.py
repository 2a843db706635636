"""Why an agent is where it is on a benchmark that switches: three numbers beside each other.

    python -m studies.dynamite.diagnose belief runs/CheetahVelSwitch-v0-dynamite-s0
    python -m studies.dynamite.diagnose ceiling CheetahVelSwitch-v0 --frames 3000000 --target-kl 0.01

1. Is the latent right? R^2 of the task from the belief, by steps since the task changed, on trials that the regression
   has not seen; beside it the filter's, whose belief is exact (`task-filter`), where there is one.
2. Does the policy use it? The return with the true task in place of the belief: at every tick the policy is shown what
   the belief settles at for the tasks nearest to the true one.
3. What does PPO lose? The return of the same PPO and policy, shown the task itself instead of a belief.

Results go to `results/BENCHMARK/` beside this file; all is measured on training tasks, and tells nothing of a test.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from metabench_agents.belief.policy import BeliefActorCritic, BeliefAgent, BeliefRollout, ppo_update
from metabench_agents.parts.decisions import make_viewed
from metabench_agents.parts.layers import watch
from metabench_agents.parts.losses import PPO, next_rate, next_reward_scale
from metabench_agents.parts.memory import Trials
from metabench_agents.parts.run import load_config, stream
from metabench_agents.parts.view import held_steps, whole_view

import metabench
from metabench.evaluation.play import Stream
from metabench.evaluation.results import write_atomically
from metabench.families.reacher import DISC_RADIUS
from metabench.plugins import load_plugin, load_run
from metabench.yardsticks.rewards import season

RESULTS = Path(__file__).parent / "results"
OFFSETS = (1, 2, 3, 5, 10, 20, 40)  # transitions seen since the task changed
SETTLED, NEAREST, FEATURES, TRIALS, SEED = 15, 5, 300, 60, 2**40  # of what is said above; a seed no training uses


class Played(NamedTuple):
    """Trials as they were played, with what was hidden."""

    belief: np.ndarray  # [T, B, P] at every tick
    task: np.ndarray  # [T, B, D] what is to be known, in coordinates without jumps
    since: np.ndarray  # [T, B] transitions of the task's session seen by the tick
    returns: np.ndarray  # [B]


def coordinates(benchmark: str, context: np.ndarray) -> np.ndarray:
    """`[..., K]` contexts as `[..., D]` numbers of which a regression makes sense."""
    family = type(metabench.spec(benchmark).family()).__name__
    if family == "ReacherGoal":
        distance = DISC_RADIUS * np.sqrt(context[..., 0])
        return np.stack((distance * np.cos(context[..., 1]), distance * np.sin(context[..., 1])), -1)
    if family == "CheetahWindVel":
        return np.stack(season(context[..., 0] + context[..., 1]), -1)
    if family == "GridSwitch":
        return context[..., 2:3]
    return context


def parts(benchmark: str, task: np.ndarray) -> dict[str, np.ndarray]:
    """What coordinates `[..., D]` say one by one, `[..., 1]` each, where a belief may know one and not another."""
    match type(metabench.spec(benchmark).family()).__name__:
        case "ReacherGoal":
            return {"distance from the middle": np.linalg.norm(task, axis=-1, keepdims=True)}
        case "CheetahWindVel":
            return {"wind": task[..., :1], "speed": task[..., 1:]}
    return {}


def shown(agent: Any, step: metabench.Timestep, memory: Any, after: Any) -> np.ndarray:
    """The belief of an agent at a tick, `[B, P]`: its posterior, its filter's mean, or its hidden state."""
    if isinstance(agent, BeliefAgent):
        posterior, _ = agent.infer(step, memory)
        return posterior.numpy()
    if hasattr(after, "posterior"):
        return after.posterior @ agent.coordinates
    return after.hidden.numpy()


def play(agent: Any, benchmark: str, trials: int, replace: Any = None) -> Played:
    """One trial per slot on training tasks; `replace(context, observation)` gives features in place of the belief's."""
    env = metabench.make_vec(benchmark, trials, expose_task=True)
    ticks = metabench.spec(benchmark).horizon * metabench.spec(benchmark).episodes
    observation, _ = env.reset(seed=SEED)
    columns = len(metabench.spec(benchmark).family().observation_fields)
    stream_, memory = Stream(observation[:, :columns], env.single_action_space), agent.begin(trials)
    beliefs, tasks, since, total = [], [], [], np.zeros(trials)
    age, context = np.zeros(trials, np.int64), observation[:, columns:]
    for _ in range(ticks):
        step, now = stream_.timestep(), observation[:, columns:]
        action, after = agent.act(step, memory)
        beliefs.append(shown(agent, step, memory, after))
        memory = after
        if replace is not None:
            action = replace(now, step.observation)
        tasks.append(coordinates(benchmark, context.astype(np.float64)))  # the belief is about the last transition's
        since.append(age)
        context = now
        observation, reward, terminated, truncated, info = env.step(action)
        final = info.get("final_obs")
        led = None if final is None else final[:, :columns]
        stream_.advance(action, observation[:, :columns], reward, terminated | truncated, led)
        total += reward
        changed = (tasks[-1] != coordinates(benchmark, now.astype(np.float64))).any(1)
        age = np.where(changed, 1, age + 1)
    return Played(np.stack(beliefs), np.stack(tasks), np.stack(since), total)


def r_squared(told: np.ndarray, true: np.ndarray) -> float:
    """1 - the mean squared error over the variance, the columns' sums of squares added up."""
    spread = ((true - true.mean(0)) ** 2).sum()
    return float(1.0 - ((told - true) ** 2).sum() / spread) if spread > 0 else float("nan")


def regression(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> Any:
    """Ridge regression on random Fourier features of standardised inputs; a function of new inputs."""
    center, spread = x.mean(0), x.std(0) + 1e-6
    width = 1.0 / np.sqrt(x.shape[1])
    weight, phase = rng.normal(size=(x.shape[1], FEATURES)) * width, rng.uniform(0, 2 * np.pi, FEATURES)

    def features(rows: np.ndarray) -> np.ndarray:
        z = (rows - center) / spread
        return np.concatenate((np.ones((len(z), 1)), z, np.cos(z @ weight + phase)), axis=1)

    a = features(x)
    solution = np.linalg.solve(a.T @ a + 1e-2 * len(x) / 100 * np.eye(a.shape[1]), a.T @ y)
    return lambda rows: features(rows) @ solution


def latent_is_right(played: Played) -> dict[str, float]:
    """R^2 of the task on the second half of the trials, at every offset and over all ticks."""
    half = played.belief.shape[1] // 2
    flat = [np.concatenate(list(part[1:, :half].swapaxes(0, 1))) for part in (played.belief, played.task)]
    tell = regression(flat[0].astype(np.float64), flat[1], np.random.default_rng(0))
    belief, task, since = (part[1:, half:] for part in (played.belief, played.task, played.since))
    found = {"all": r_squared(tell(belief.reshape(-1, belief.shape[2])), task.reshape(-1, task.shape[2]))}
    for offset in OFFSETS:
        at = since == offset
        if at.sum() >= 20:
            found[str(offset)] = r_squared(tell(belief[at]), task[at])
    return found


def true_latent(agent: BeliefAgent, benchmark: str, played: Played) -> Any:
    """`replace` of `play`: the policy's action on the beliefs that settled for the nearest tasks."""
    settled = played.since >= SETTLED
    if settled.sum() < NEAREST:
        raise ValueError(f"no session of {benchmark} is {SETTLED} steps long: there is no settled belief to show")
    tasks, beliefs = played.task[settled], torch.from_numpy(played.belief[settled])
    scale = tasks.std(0) + 1e-6

    def act(context: np.ndarray, observation: np.ndarray) -> np.ndarray:
        now = coordinates(benchmark, context.astype(np.float64))
        gap = (((tasks[None] - now[:, None]) / scale) ** 2).sum(-1)
        nearest = np.argpartition(gap, NEAREST, axis=1)[:, :NEAREST]
        seen = torch.from_numpy(observation).float()
        with torch.no_grad():
            params, _ = agent.actor(seen, agent.model.read(beliefs[nearest].mean(1), seen))
        return agent.actor.policy.to_env(agent.actor.policy.sample(params, None))

    return act


def belief(folder: Path) -> None:
    """Numbers 1 and 2 of one run."""
    record = load_config(folder)
    benchmark, agent = record["benchmark"], load_run(folder).agent
    played = play(agent, benchmark, TRIALS)
    found: dict[str, Any] = {"run": folder.name, "return": float(played.returns.mean()), "r2": latent_is_right(played)}
    for name, task in parts(benchmark, played.task).items():
        found[f"r2 of {name}"] = latent_is_right(played._replace(task=task))
    if isinstance(agent, BeliefAgent):
        told = play(agent, benchmark, TRIALS, true_latent(agent, benchmark, played))
        found["return_with_true_latent"] = float(told.returns.mean())
    try:
        exact: Any = load_plugin("task-filter").build(benchmark, "train", 0)  # pyright: ignore[reportAttributeAccessIssue]
        exact.coordinates = coordinates(benchmark, exact.tasks.contexts)
        filtered = play(exact, benchmark, TRIALS)
        found["filter"] = {"return": float(filtered.returns.mean()), "r2": latent_is_right(filtered)}
    except ValueError as error:
        found["filter"] = str(error)
    keep(benchmark, f"belief-{record['agent']}-{folder.name}", found)


def roll(
    actor: BeliefActorCritic, env: Any, ticks: int, horizon: int, seed: int, generator: torch.Generator
) -> BeliefRollout:
    """One trial per slot, the task in the observation and no belief."""
    observation, _ = env.reset(seed=seed)
    rows = []
    for t in range(ticks):
        seen = torch.from_numpy(observation).float()
        with torch.no_grad():
            params, value = actor(seen, seen[:, :0])
            action = actor.policy.sample(params, generator)
            log_prob = actor.policy.log_prob(params, action)
        observation, reward, _, _, _ = env.step(actor.policy.to_env(action))
        first = torch.full((len(seen),), t % horizon == 0)
        rows.append((seen, torch.from_numpy(reward).float(), first, action, log_prob, value))
    seen, gained, first, action, log_prob, value = (torch.stack(column) for column in zip(*rows, strict=True))
    trials = Trials(seen, action, gained, seen, first, first.long())
    return BeliefRollout(trials, seen[..., :0], action, log_prob, value)


def ceiling(benchmark: str, settings: PPO, frames: int, trials: int, width: int, seed: int) -> None:
    """Number 3: PPO shown the task, its curve, and the mean of its last tenth. `frames` are decisions of its view."""
    view = whole_view(benchmark)
    env = make_viewed(benchmark, trials, view, expose_task=True)
    horizon = held_steps(metabench.spec(benchmark).horizon, view.hold)
    ticks = horizon * metabench.spec(benchmark).episodes
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    actor = BeliefActorCritic(env, 0, width, normalise=True)
    adam = torch.optim.Adam(actor.parameters(), lr=settings.learning_rate, eps=1e-5)
    scale, rate, iterations, curve = 1.0, 1.0, -(-frames // (ticks * trials)), []
    for iteration in range(iterations):
        rollout = roll(actor, env, ticks, horizon, (seed * 2**32 + iteration) * 2**20, stream(seed, iteration, 0))
        scale = next_reward_scale(scale, rollout.trials.reward, settings.discount, iteration)
        left, draws = 1.0 - iteration / iterations, stream(seed, iteration, 1)
        metrics = ppo_update(actor, adam, rollout, settings, scale, left, draws, rate=rate)
        rate = next_rate(rate, metrics["kl_end"], settings)
        watch((actor,), rollout.trials.observation)
        total = float(rollout.trials.reward.sum()) / trials
        curve.append([(iteration + 1) * ticks * trials, round(total, 2), round(metrics["kl"], 5)])
    last = [row[1] for row in curve[-max(1, iterations // 10) :]]
    thinned = curve[:: max(1, iterations // 100)]
    found = {"settings": vars(settings), "frames": frames, "return": float(np.mean(last)), "curve": thinned}
    keep(benchmark, f"ceiling-s{seed}", found)


def keep(benchmark: str, name: str, found: dict[str, Any]) -> None:
    """Writes a record and prints it."""
    folder = RESULTS / metabench.spec(benchmark).id
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / f"{name}.json", (json.dumps(found, indent=1) + "\n").encode())
    print(json.dumps({key: value for key, value in found.items() if key != "curve"}, indent=1))


def main() -> None:
    """One of the commands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    parts.add_parser("belief").add_argument("folders", nargs="+", type=Path)
    told = parts.add_parser("ceiling")
    told.add_argument("benchmark")
    for name, default in (("frames", 3_000_000), ("trials", 32), ("width", 128), ("seed", 0)):
        told.add_argument(f"--{name}", type=int, default=default)
    for name, default in (("learning-rate", 3e-4), ("target-kl", 0.01), ("discount", 0.97), ("entropy", 0.002)):
        told.add_argument(f"--{name}", type=float, default=default)
    a = parser.parse_args()
    if a.part == "belief":
        for folder in a.folders:
            belief(folder)
        return
    settings = PPO(a.learning_rate, a.discount, 0.95, 4, 4, entropy=a.entropy, target_kl=a.target_kl, adaptive=True)
    ceiling(a.benchmark, settings, a.frames, a.trials, a.width, a.seed)


if __name__ == "__main__":
    main()
