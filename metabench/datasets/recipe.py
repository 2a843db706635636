"""Who plays what in a dataset split: all that decides about its content."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from metabench.agent import Behaviour
from metabench.datasets.format import PolicyRecord
from metabench.datasets.ids import DatasetId
from metabench.evaluation.evaluate import versions
from metabench.plugins import behaviours, load_agent
from metabench.registry import Spec
from metabench.runs import is_run, weights_sha256

HISTORY = "sac-history"  # checkpoints of soft actor-critic in order, stochastic, and what the expert would have done
LEARNED = "history"  # learners from nothing, every episode in order, and what the expert would have done
EPISODES_PER_TASK = 100  # as Meta-DT's collectors
MIXTURES = {  # shares of a task's episodes, in order
    "mixed": {"medium": 0.7, "expert": 0.3},  # Meta-DT, README
    # The second `mixed`: where all behaviours know the task, what they do tells it too; uniform actions tell nothing,
    # so that a task can be learned from rewards and dynamics alone.
    "mixed-2": {"random": 0.3, "medium": 0.4, "expert": 0.3},
}
SLOTS, SIMULATED_SLOTS = 2048, 256  # episodes played together, about; where a physics engine runs
LEARNERS = 1024  # learners that learn together, about
HISTORIES = 2000  # of a split unless asked otherwise, at least
_SEED_LIMIT = 2**24  # of a generation's seed, so that every episode's fits into 64 bits


class Recipe(NamedTuple):
    """All that decides about the content."""

    id: DatasetId
    benchmark: Spec
    split: str
    seed: int
    episodes: int  # per task
    place: int  # episodes of a trial: 1 unless the behaviour remembers
    state_every: int | None
    behaviours: Sequence[Behaviour]
    schedule: tuple[int, ...]  # [episodes] which behaviour plays each of a task's episodes
    agent: str | None

    @property
    def advised(self) -> bool:
        """Whether the oracle's actions are kept beside the behaviour's."""
        return self.id.quality in (HISTORY, LEARNED) and self.agent is None

    @property
    def tasks(self) -> int:
        """How many tasks the split has."""
        return self.benchmark.table().size(self.split)

    @property
    def shards(self) -> list[range]:
        """Groups of tasks; a task's episodes are never apart."""
        slots = SIMULATED_SLOTS if self.benchmark.extra else SLOTS
        size = max(1, slots // self.episodes)
        if self.id.quality == LEARNED and self.agent is None:
            size = max(1, LEARNERS // (self.episodes // self.place))
        return [range(a, min(a + size, self.tasks)) for a in range(0, self.tasks, size)]

    @property
    def chunk(self) -> int:
        """Slots of a shard that are played together: more would not fit the caches."""
        return SLOTS

    @property
    def command(self) -> str:
        """What a user types to make the same."""
        parts = [f"metabench dataset generate {self.id} --split {self.split} --episodes {self.episodes}"]
        parts += [f"--seed {self.seed}"]
        parts += [f"--agent {self.agent}"] if self.agent else []
        parts += [f"--states {self.state_every}"] if self.state_every else []
        return " ".join(parts)

    def policies(self) -> tuple[PolicyRecord, ...]:
        """The behaviours as the manifest has them."""
        return tuple(
            PolicyRecord(name=b.name, step=b.step, sha256=b.sha256, settings=dict(b.settings)) for b in self.behaviours
        )

    def to_json(self) -> str:
        """The plan as it is kept beside the shards."""
        record = {
            "id": str(self.id),
            "spec": json.loads(self.benchmark.to_json()),
            "split": self.split,
            "digest": self.benchmark.table().digest(self.split),
            "seed": self.seed,
            "episodes": self.episodes,
            "place": self.place,
            "state_every": self.state_every,
            "policies": [policy.model_dump(mode="json") for policy in self.policies()],
            "schedule": self.schedule,
            "shards": [[tasks.start, tasks.stop] for tasks in self.shards],
            "versions": versions(),
        }
        return json.dumps(record, indent=1, sort_keys=True)


def standard_episodes(id: DatasetId, split: str, agent: str | None = None) -> int:
    """Episodes of each task unless asked otherwise: 100; of `history`, so many that there are 2,000 learners."""
    tasks = id.benchmark.table().size(split)
    if id.quality != LEARNED or agent is not None:
        return EPISODES_PER_TASK
    return -(-HISTORIES // tasks) * _history(behaviours(id.benchmark.id, split, LEARNED)[0])


def _history(learner: Behaviour) -> int:
    """Episodes that a learner learns for."""
    return int(learner.settings["episodes"])


def plan(
    id: DatasetId, split: str, episodes: int | None, seed: int, agent: str | None, state_every: int | None
) -> Recipe:
    """Who plays what; ValueError in one sentence for what does not exist or does not fit."""
    benchmark = id.benchmark
    benchmark.table().size(split)
    if episodes is None:
        episodes = standard_episodes(id, split, agent)
    if episodes < 1:
        raise ValueError(f"episodes must be at least 1, got {episodes}")
    if not 0 <= seed < _SEED_LIMIT:
        raise ValueError(f"the seed of a dataset must be 0 to {_SEED_LIMIT - 1}, got {seed}")
    if state_every is not None and state_every < 1:
        raise ValueError(f"states are recorded every k >= 1 steps, got {state_every}")
    place = 1
    if agent is not None:
        chosen, place = (_behaviour_of(agent, benchmark, split),), benchmark.episodes
        schedule: tuple[int, ...] = (0,) * episodes
        if episodes % place:
            raise ValueError(
                f"{agent} plays trials of {place} episodes, so episodes must be a multiple, got {episodes}"
            )
    elif id.quality in MIXTURES:
        shares = MIXTURES[id.quality]
        chosen = tuple(behaviour for part in shares for behaviour in behaviours(benchmark.id, split, part))
        counts = [round(share * episodes) for share in shares.values()]
        counts[-1] = episodes - sum(counts[:-1])
        schedule = tuple(number for number, count in enumerate(counts) for _ in range(count))
    elif id.quality == LEARNED:
        chosen, schedule = tuple(behaviours(benchmark.id, split, LEARNED)), (0,) * episodes
        place = _history(chosen[0])
        if episodes % place:
            raise ValueError(
                f"a learner of {benchmark.id} learns for {place} episodes, so episodes must be a multiple, "
                f"got {episodes}"
            )
    else:
        chosen = tuple(behaviours(benchmark.id, split, id.quality))
        schedule = tuple(j * len(chosen) // episodes for j in range(episodes))
    return Recipe(id, benchmark, split, seed, episodes, place, state_every, chosen, schedule, agent)


def _behaviour_of(agent: str, benchmark: Spec, split: str) -> Behaviour:
    digest = weights_sha256(Path(agent)) if is_run(Path(agent)) else ""
    label = load_agent(agent, benchmark.id, split, 0)[1]
    return Behaviour(label, 0, digest, {}, lambda seed: load_agent(agent, benchmark.id, split, seed)[0])
