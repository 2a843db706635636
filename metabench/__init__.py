"""metabench: environments, datasets, agents and one evaluation protocol for meta-reinforcement learning."""

from metabench.registry import declare as _declare

_declare("GridNavigation-v0", "metabench.families.grid_navigation", 15)
_declare("GridSwitch-v0", "metabench.families.grid_navigation", 60)
_declare("PointRobot-v0", "metabench.families.point_robot", 20)
_declare("SparsePointRobot-v0", "metabench.families.point_robot", 20)
