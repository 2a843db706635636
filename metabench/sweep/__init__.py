"""Many jobs on one machine, on Ray or on Slurm, to the same bytes."""

from metabench.sweep.engine import Engine, Event
from metabench.sweep.folder import digest
from metabench.sweep.jobs import Job
from metabench.sweep.local import Local
from metabench.sweep.on_ray import Ray
from metabench.sweep.slurm import Slurm

__all__ = ["Engine", "Event", "Job", "Local", "Ray", "Slurm", "digest"]
