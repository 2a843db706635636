"""metabench: environments, datasets, agents and one evaluation protocol for meta-reinforcement learning.

`import metabench` registers every benchmark with Gymnasium, by strings: no simulator and no torch is imported. Other
packages' families (entry points `metabench.families`) are imported, and so register themselves.
"""

from metabench.agent import Agent, Algorithm, Behaviour, Demonstrator, Timestep, Yardstick
from metabench.checks import check_family
from metabench.datasets import DatasetId, TrialDataset, load_dataset
from metabench.evaluation.evaluate import evaluate, standard_protocol
from metabench.evaluation.results import Protocol, Result
from metabench.family import Diverged, DivergenceWarning, Family, Field
from metabench.loading import load_agent
from metabench.moved import install as _install
from metabench.physics.metaworld.classes import IDS as _METAWORLD
from metabench.registry import Spec, declare, make, make_vec, register, spec, specs
from metabench.registry import load_families as _load_families
from metabench.rng import SlotRng
from metabench.tasks import Range, Task, TaskTable, latent, param

__all__ = [
    "Agent",
    "Algorithm",
    "Behaviour",
    "DatasetId",
    "Demonstrator",
    "Diverged",
    "DivergenceWarning",
    "Family",
    "Field",
    "Protocol",
    "Range",
    "Result",
    "SlotRng",
    "Spec",
    "Task",
    "TaskTable",
    "Timestep",
    "TrialDataset",
    "Yardstick",
    "check_family",
    "declare",
    "evaluate",
    "latent",
    "load_agent",
    "load_dataset",
    "make",
    "make_vec",
    "param",
    "register",
    "spec",
    "specs",
    "standard_protocol",
]

_install()
declare("AntDir-v0", "metabench.families.ant", 200)
declare("AntGoal-v0", "metabench.families.ant", 200)
declare("CheetahDir-v0", "metabench.families.cheetah", 200)
declare("CheetahDirSwitch-v0", "metabench.families.cheetah", 200)
declare("CheetahVel-v0", "metabench.families.cheetah", 200)
declare("CheetahVelSwitch-v0", "metabench.families.cheetah", 200)
declare("CheetahWindVelSwitch-v0", "metabench.families.cheetah", 200)
declare("DarkKeyToDoor-v0", "metabench.families.dark_room", 50)
declare("DarkRoom-v0", "metabench.families.dark_room", 20)
declare("GridNavigation-v0", "metabench.families.grid_navigation", 15)
declare("GridSwitch-v0", "metabench.families.grid_navigation", 60)
declare("HighwayEnvMerge-v0", "metabench.families.highway_env_merge", 100)
declare("HighwayEnvMergeDiscrete-v0", "metabench.families.highway_env_merge", 100)
declare("HighwayMerge-v0", "metabench.families.highway_merge", 55)
declare("HighwayMergeDiscrete-v0", "metabench.families.highway_merge", 55)
declare("HighwayMergeHidas-v0", "metabench.families.highway_merge", 55)
declare("HopperParam-v0", "metabench.families.hopper", 200)
declare("HumanoidDir-v0", "metabench.families.humanoid", 200)
declare("PointRobot-v0", "metabench.families.point_robot", 20)
declare("ReacherGoal-v0", "metabench.families.reacher", 50)
declare("ReacherSwitch-v0", "metabench.families.reacher", 100)
declare("ScratchItch-v0", "metabench.families.scratch_itch", 200)
declare("ScratchItchSwitch-v0", "metabench.families.scratch_itch", 200)
declare("SparsePointRobot-v0", "metabench.families.point_robot", 20)
for _id in _METAWORLD:
    declare(_id, "metabench.families.metaworld", 500, "" if "-ML" in _id else "MetaWorld-<Task>-v0")
declare("WalkerParam-v0", "metabench.families.walker", 200)
_load_families()  # other packages' register themselves, as if they had been imported
