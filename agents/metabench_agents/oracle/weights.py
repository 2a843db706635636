"""The trained oracles that come with the package: their stages along training, and the yardstick made of the last.

They serve the benchmarks whose spec names no oracle, by the entry point `metabench.oracles`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

import metabench
from metabench import Behaviour
from metabench_agents.oracle.actor import NAME, PARTS, TrainedOracle

STAGES = "stages.safetensors"  # in the folder of a run: every stage so far
WEIGHTS = Path(__file__).parent / "weights"  # of trained oracles, by benchmark
HISTORIES = "histories"  # in it: of benchmarks whose oracle was not trained
SHARED_WEIGHTS = {  # benchmarks whose body, task and reward are another's, but for the sessions
    "CheetahDirSwitch-v0": "CheetahDir-v0",
    "CheetahVelSwitch-v0": "CheetahVel-v0",
    "ReacherSwitch-v0": "ReacherGoal-v0",
}


def weights_path(benchmark: str) -> Path:
    """Where the trained oracle of a benchmark is kept, whether there is one or not."""
    return WEIGHTS / f"{SHARED_WEIGHTS.get(benchmark, benchmark)}.safetensors"


def history_path(benchmark: str) -> Path:
    """The checkpoints of a soft actor-critic on a benchmark; ValueError in one sentence where none come with us."""
    chosen = metabench.spec(benchmark).id
    path = WEIGHTS / HISTORIES / f"{chosen}.safetensors"
    path = path if path.is_file() else weights_path(chosen)
    if not path.is_file():
        own = [p.stem for p in (*WEIGHTS.glob("*.safetensors"), *(WEIGHTS / HISTORIES).glob("*.safetensors"))]
        known = ", ".join(sorted([*own, *SHARED_WEIGHTS]))
        raise ValueError(f"no learning history of soft actor-critic comes for {chosen}; there are some for {known}")
    return path


def has_weights(benchmark: str) -> bool:
    """Whether a trained oracle comes with the package."""
    return weights_path(metabench.spec(benchmark).id).is_file()


@dataclass(frozen=True)
class Stages:
    """Actors along one training run, in order, as one file of tensors."""

    records: Sequence[Mapping[str, Any]]  # iteration, frames, mean return on `train`
    weights: Sequence[Mapping[str, Tensor]]

    def add(self, iteration: int, frames: int, level: float, weights: Mapping[str, Tensor]) -> Stages:
        """These and one more."""
        record = {"iteration": iteration, "frames": frames, "return": level}
        half = {name: tensor.half() for name, tensor in weights.items()}
        return Stages([*self.records, record], [*self.weights, half])

    def until(self, iteration: int) -> Stages:
        """Those of the first iterations."""
        kept = [i for i, record in enumerate(self.records) if record["iteration"] <= iteration]
        return self.pick(kept)

    def pick(self, index: Sequence[int]) -> Stages:
        """Those with these indices."""
        return Stages([self.records[i] for i in index], [self.weights[i] for i in index])

    def save(self, path: Path, about: Mapping[str, Any] | None = None) -> None:
        """Writes the file: the old one or the new one, whole, at every moment."""
        tensors = {f"{i}/{name}": t.contiguous() for i, part in enumerate(self.weights) for name, t in part.items()}
        temporary = path.with_name(f".{path.name}.part")
        save_file(
            tensors, temporary, metadata={"stages": json.dumps(list(self.records)), "about": json.dumps(about or {})}
        )
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> Stages:
        """Reads the file; no stages where there is none."""
        if not path.is_file():
            return cls([], [])
        with safe_open(str(path), framework="pt") as file:  # pyright: ignore[reportPrivateImportUsage]
            records = json.loads(file.metadata()["stages"])
            weights = [{name: file.get_tensor(f"{i}/{name}") for name in PARTS} for i in range(len(records))]
        return cls(records, weights)


def file_hash(path: Path) -> str:
    """The sha256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_stages(benchmark: str, path: Path) -> tuple[Stages, Mapping[str, Any]]:
    """The shipped stages and what is said about them; ValueError if they were trained on other observations."""
    stages = Stages.load(path)
    with safe_open(str(path), framework="pt") as file:  # pyright: ignore[reportPrivateImportUsage]
        about = json.loads(file.metadata()["about"])
    family = metabench.spec(benchmark).family()
    columns = len(family.observation_fields) + len(fields(family.context_type))
    if stages.weights[0]["center"].shape[0] != columns:
        raise ValueError(f"{path.name} was trained on other observations than those of {benchmark}")
    return stages, about


def stage_behaviours(benchmark: str, path: Path, quality: str) -> Sequence[Behaviour]:
    """The stages of a quality as behaviour policies with their own noise."""
    stages, about = read_stages(benchmark, path)
    space: Any = metabench.spec(benchmark).family().action_space
    digest = file_hash(path)
    chosen = {"medium": [about["medium"]], "expert": [len(stages.weights) - 1], "replay": range(len(stages.weights))}

    def behaviour(index: int) -> Behaviour:
        frames, weights = stages.records[index]["frames"], stages.weights[index]
        settings = {"stage": index, "weights": path.name}
        name = f"{NAME} after {frames} steps"
        return Behaviour(name, frames, digest, settings, lambda seed: TrainedOracle(weights, space, noise_seed=seed))

    return [behaviour(index) for index in chosen[quality]]


class _Trained:
    """The trained oracles as a yardstick."""

    def build(self, benchmark: str, split: str, seed: int) -> TrainedOracle:
        """The last stage, taking its mean action; ValueError where none comes with the package."""
        chosen = metabench.spec(benchmark)
        if not has_weights(chosen.id):
            known = ", ".join(sorted([*SHARED_WEIGHTS, *(path.stem for path in WEIGHTS.glob("*.safetensors"))]))
            raise ValueError(f"trained ones exist for {known}; `metabench train {NAME} {benchmark}` makes one")
        stages, _ = read_stages(chosen.id, weights_path(chosen.id))
        space: Any = chosen.family().action_space
        return TrainedOracle(stages.weights[-1], space)


trained = _Trained()
