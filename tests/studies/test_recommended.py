"""What `metabench train` begins with is what the reported runs were made with."""

import pytest
from metabench_agents import rl2
from metabench_agents.belief import dynamite
from metabench_agents.context import metadreamer
from metabench_agents.gradient import maml

from metabench.sweep.settings import settings_of
from studies.evidence import read_queue

OURS = "dynamite, SAC in hindsight, more of the model"
REPORTED = {  # agent and benchmark: the queue's table and row
    (rl2, "CheetahDir-v0"): ("cheetah-dir", "rl2"),
    (rl2, "CheetahDirSwitch-v0"): ("cheetah-dir-switch-2m", "rl2"),
    (rl2, "CheetahVel-v0"): ("cheetah-vel", "rl2"),
    (rl2, "CheetahVelSwitch-v0"): ("cheetah-vel-switch-2m", "rl2"),
    (rl2, "CheetahWindVelSwitch-v0"): ("cheetah-wind-vel-switch-2m", "rl2"),
    (rl2, "DarkRoom-v0"): ("dark-room-online", "rl2"),
    (rl2, "HighwayMerge-v0"): ("highway-merge-rl2", "rl2, the same view"),
    (rl2, "HopperParam-v0"): ("hopper-param-2m", "rl2"),
    (rl2, "MetaWorld-Push-v0"): ("metaworld-push-1m", "rl2"),
    (rl2, "MetaWorld-Reach-v0"): ("metaworld-reach-1m", "rl2"),
    (rl2, "ReacherSwitch-v0"): ("reacher-switch-2m", "rl2"),
    (rl2, "ScratchItchSwitch-v0"): ("scratch-itch-switch-2m", "rl2"),
    (rl2, "SparsePointRobot-v0"): ("sparse-point-robot", "rl2"),
    (dynamite, "CheetahDirSwitch-v0"): ("cheetah-dir-switch-replay", OURS),
    (dynamite, "CheetahVelSwitch-v0"): ("cheetah-vel-switch-replay", OURS),
    (dynamite, "CheetahWindVelSwitch-v0"): ("cheetah-wind-vel-switch-replay", OURS),
    (dynamite, "ReacherSwitch-v0"): ("reacher-switch-replay", OURS),
    (maml, "HighwayMerge-v0"): ("highway-merge-maml", "maml, larger steps"),
    (metadreamer, "HighwayMerge-v0"): ("highway-merge-rounds", "R8IR8"),
}


@pytest.fixture(scope="module")
def rows():
    return {(table.name, row.name): row for table in read_queue() for row in table.rows}


@pytest.mark.parametrize(("algorithm", "family"), REPORTED, ids=lambda x: getattr(x, "NAME", x))
def test_training_begins_with_the_settings_of_the_reported_runs(algorithm, family, rows):
    job = rows[REPORTED[algorithm, family]].jobs[0]
    assert job.settings["benchmark"] == family
    assert algorithm.recommended(family) == settings_of(algorithm, job.settings["config"])


@pytest.mark.parametrize("algorithm", [rl2, dynamite, maml], ids=lambda x: x.NAME)
def test_every_recommendation_is_of_reported_runs(algorithm):
    assert set(algorithm.RECOMMENDED) == {benchmark for agent, benchmark in REPORTED if agent is algorithm}
