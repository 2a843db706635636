"""The variants of PEARL's and MetaDreamer's study differ by what their names say, and by nothing else."""

from dataclasses import asdict

import pytest
from metabench_agents.context import metadreamer, pearl

from studies.metadreamer.settings import COMMON, STUDIES, variants


def differences(one, other, prefix=""):
    """The dotted names of the settings in which two trees of settings differ."""
    found = set()
    for name, value in one.items():
        if isinstance(value, dict):
            found |= differences(value, other[name], f"{prefix}{name}.")
        elif value != other[name]:
            found.add(prefix + name)
    return found


@pytest.mark.parametrize("name", STUDIES)
def test_variants_differ_by_what_they_are_named_for(name):
    every = variants(name)
    base = asdict(every["R8IR8"][1])
    for ablation, changes in metadreamer.ABLATIONS.items():
        assert differences(base, asdict(every[f"R8IR8-{ablation}"][1])) == set(changes)
    for run in metadreamer.RUNS:
        known = {"split", "tasks", "imagination.tasks", "imagination.rollouts"}
        assert differences(base, asdict(every[run][1])) <= known, run
    for run in ("pearl-R8", "R8IR8"):
        whole, longer, lean = (asdict(every[run + tail][1]) for tail in ("", "-long", "-lean"))
        assert differences(whole, longer) == {"iterations"}
        assert differences(longer, lean) <= {"collection.tasks_per_iteration"}


@pytest.mark.parametrize("name", STUDIES)
def test_pearl_has_metadreamers_schedule_and_networks(name):
    algorithm, config = variants(name)["pearl-R8"]
    theirs = variants(name)["R8IR8"][1]
    assert algorithm is pearl and config.encoder.context == theirs.model.context
    own = set(STUDIES[name].pearl)  # what a study says of PEARL alone
    assert all(getattr(config, part) == getattr(theirs, part) for part in COMMON if part not in own)
