"""Sets that are other than they say, with every hash as it should be: refused at load, and never read out of bounds."""

import subprocess
import sys

import numpy as np
import pytest

import metabench
from metabench.datasets.format import EPISODES, MANIFEST, STEPS, Manifest, hash_file
from metabench.datasets.gather import CompiledGather, PlainGather, kernel
from metabench.datasets.trials import TrialDataset


def forge(folder, name, change):
    """Changes a file and makes the manifest fit again."""
    column = np.load(folder / name)
    change(column)
    np.save(folder / name, column)
    manifest = Manifest.from_bytes((folder / MANIFEST).read_bytes())
    files = tuple(
        file.model_copy(update={"sha256": hash_file(folder / name), "bytes": (folder / name).stat().st_size})
        if file.name == name
        else file
        for file in manifest.files
    )
    (folder / MANIFEST).write_bytes(manifest.model_copy(update={"files": files}).to_bytes())


def setting(field, row, value):
    def change(column):
        column[field][row] = value

    return change


def shifted(column):
    column["start"] += 1


def swapped(column):
    column["start"][[0, 1]] = column["start"][[1, 0]]


WRONG = {
    "a start far outside": setting("start", 2, 2**40),
    "a start below": setting("start", 2, -(2**40)),
    "a start just outside": setting("start", -1, 10**6),
    "shifted starts": shifted,
    "swapped starts": swapped,
    "a longer episode": setting("length", -1, 10**6),
    "an empty episode": setting("length", 3, 0),
    "a length below": setting("length", 3, -1),
}


@pytest.mark.parametrize("kind", WRONG)
def test_episodes_outside_the_steps_are_refused_at_load(copied, kind):
    forge(copied, EPISODES, WRONG[kind])
    with pytest.raises(ValueError, match=r"episodes\.npy: the episodes do not follow each other through steps\.npy"):
        metabench.load_dataset(copied)


def test_a_task_below_none_is_refused_at_load(copied):
    forge(copied, EPISODES, setting("task", 0, -1))
    with pytest.raises(ValueError, match="of a task with a number below 0"):
        TrialDataset(copied)


@pytest.mark.parametrize(("field", "value"), [("reward", np.nan), ("observation", np.inf), ("action", -np.inf)])
def test_numbers_that_are_none_are_found_by_an_option(copied, field, value):
    forge(copied, STEPS, setting(field, 5, value))
    assert len(metabench.load_dataset(copied)) > 0
    with pytest.raises(ValueError, match="is not sound"):
        metabench.load_dataset(copied, check=True)


def test_bytes_that_were_changed_are_found_by_the_option(copied):
    assert len(metabench.load_dataset(copied, check=True)) > 0
    path = copied / STEPS
    content = bytearray(path.read_bytes())
    content[-10] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match=r"is not sound: steps\.npy is damaged"):
        metabench.load_dataset(copied, check=True)


OUTSIDE = [
    ([2**40], [0]),
    ([-(2**40)], [0]),
    ([1], [0]),
    ([100], [0]),
    ([5], [9]),
    ([5], [-1]),
    ([-1], [3]),
    ([5, 5], [0, 0]),
]


@pytest.mark.parametrize(("last", "missing"), OUTSIDE)
def test_the_compiled_copy_keeps_its_bounds(last, missing):
    if kernel() is None:
        pytest.skip("nothing is compiled here")
    steps = np.arange(100.0).view([("x", "<f8")])
    copy = CompiledGather(kernel(), steps, 4, 1)
    with pytest.raises(ValueError, match="a window lies outside the steps"):
        copy(np.array(last), np.array(missing))


def test_both_copies_give_the_same_at_the_borders():
    if kernel() is None:
        pytest.skip("nothing is compiled here")
    steps = np.arange(100.0).view([("x", "<f8")])
    last, missing = np.array([0, 3, 99, 2, -1]), np.array([3, 0, 0, 1, 4])
    one, other = CompiledGather(kernel(), steps, 4, 5), PlainGather(steps, 4, 5)
    assert np.array_equal(one(last, missing)["x"], other(last, missing)["x"])


CHILD = """
import sys
from pathlib import Path
import numpy as np
from metabench.datasets.trials import TrialDataset
from metabench.datasets.format import EPISODES
TrialDataset._check_episodes = lambda self: None  # the kernel alone
data = TrialDataset(Path(sys.argv[1]))
next(data.windows(20, 64, np.random.default_rng(0)))
"""


def test_the_process_lives_even_without_the_check_at_load(copied):
    forge(copied, EPISODES, lambda column: column["start"].__iadd__(2**40))
    ran = subprocess.run([sys.executable, "-c", CHILD, str(copied)], capture_output=True, text=True)
    assert ran.returncode == 1 and "Error" in ran.stderr, ran.returncode
