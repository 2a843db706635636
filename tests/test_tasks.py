"""Tasks, frozen tables and their digests."""

import dataclasses
import json

import numpy as np
import pytest

from metabench import SlotRng, Task, TaskTable, spec, specs
from metabench.tasks import stack

IDS = [s.id for s in specs()]


@pytest.mark.parametrize("id", IDS)
def test_frozen_tables_keep_their_digests(id):
    table = spec(id).table()
    assert {split: table.digest(split) for split in table.splits} == dict(spec(id).digests)


@pytest.mark.parametrize("id", [s.id for s in specs() if s.family().rows() is None])
def test_tables_are_what_the_script_makes(id):
    import importlib.util
    from pathlib import Path

    path = Path(__file__).parent.parent / "scripts" / "make_tables.py"
    loader = importlib.util.spec_from_file_location("make_tables", path)
    module = importlib.util.module_from_spec(loader)
    loader.loader.exec_module(module)
    assert (module.FOLDER / f"{id}.json").read_text() == module.render(id)


def test_published_point_robot_goals():
    """Rows 45 to 49 as read in the published task list (rounded there)."""
    goals = spec("PointRobot-v0").table().rows["test"]
    published = [[-0.5005, 0.9530], [0.6331, -0.9113], [-0.1803, -0.9402], [-0.5842, 0.2616], [0.3146, -0.5014]]
    assert np.allclose(goals, published, atol=1.5e-4)


def test_sizes_and_regions():
    point, grid = spec("PointRobot-v0").table(), spec("GridSwitch-v0").table()
    assert (point.size("train"), point.size("test")) == (45, 5)
    radius = np.linalg.norm(point.rows["ood"], axis=1)
    assert radius.min() >= 1.2 and radius.max() <= 1.5
    pairs = [frozenset(t.context) for split in ("train", "test", "ood") for t in grid.fixed(split)]
    assert len(pairs) == len(set(pairs)) == 300


def test_a_changed_table_is_refused(tmp_path):
    original = spec("PointRobot-v0")
    changed = dataclasses.replace(original, digests={**original.digests, "test": "0" * 64})
    with pytest.raises(ValueError, match=r"differs from the one its spec names, in the splits test"):
        changed.table()


def test_a_table_for_other_fields_is_refused(tmp_path):
    path = tmp_path / "table.json"
    path.write_text(json.dumps({"fields": ["speed"], "splits": {}}))
    with pytest.raises(ValueError, match=r"has the fields \['speed'\], the family X has \['goal'\]"):
        TaskTable.load("X", spec("GridNavigation-v0").family().context_type, path)


def test_rows_are_read_only():
    with pytest.raises(ValueError, match="read-only"):
        spec("PointRobot-v0").table().rows["test"][0] = 0


def test_tasks_are_json():
    task = spec("GridSwitch-v0").table().fixed("test")[3]
    assert Task.from_json(task.to_json()) == task
    assert hash(task) == hash(Task.from_json(task.to_json()))


def test_draws_are_even_and_come_from_the_split():
    table = spec("GridNavigation-v0").table()
    drawn = table.draw(SlotRng.from_seeds(range(8000)), "train")
    assert np.array_equal(drawn.values, table.rows["train"][drawn.row])
    counts = np.bincount(drawn.row, minlength=16)
    assert np.all(abs(counts - 500) < 5 * np.sqrt(500))


@pytest.mark.parametrize("id", IDS)
def test_fresh_tasks_are_training_tasks(id):
    table = spec(id).table()
    drawn = table.draw(SlotRng.from_seeds(range(2000)), "fresh")
    assert (drawn.row == -1).all()
    for column, legal in zip(drawn.values.T, table.ranges.values(), strict=True):
        assert column.min() >= legal.train[0] and column.max() <= legal.train[1]
    if spec(id).shared_tasks:
        return
    evaluated = {t.context for split in ("test", "ood") for t in table.fixed(split)}
    assert not evaluated & {tuple(row) for row in drawn.values.tolist()}
    if any(r.integer for r in table.ranges.values()):
        assert {tuple(row) for row in drawn.values.tolist()} <= {t.context for t in table.fixed("train")}


def test_stack_makes_columns():
    context = stack(spec("GridSwitch-v0").family().context_type, np.array([[3.0, 4.0], [5.0, 6.0]]))
    assert context.goal_a.tolist() == [3, 5] and context.goal_b.dtype == np.int64
    assert context.paying.tolist() == [0, 0]
