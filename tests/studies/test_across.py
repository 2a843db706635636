"""Sequence models across benchmarks: every line has its row in the queue, and its cells are what is kept."""

import numpy as np
import pytest

import metabench
from metabench.runs import result_path
from studies.evidence import KEPT, read_queue
from studies.meta_dt import across

TABLES = {table.name: table for table in read_queue()}


@pytest.mark.parametrize("label", across.SETS)
def test_every_agent_of_a_line_has_a_row_in_the_queue(label):
    name, rows = across.SETS[label]
    assert "meta-dt" in rows
    for agent in rows:
        row = across.row_of(label, agent, TABLES)
        assert row is not None and {job.settings["agent"] for job in row.jobs} == {agent}, (name, agent)
    assert across.row_of(label, "oracle", TABLES) is None


def test_a_cell_is_the_mean_of_the_last_episodes_of_the_kept_runs():
    label = "CheetahDir, mixed-2"
    row = across.row_of(label, "dt", TABLES)
    assert row is not None
    jobs = across.kept_jobs(row, KEPT)
    last = [metabench.Result.load(result_path(KEPT / job.key(), "test")).array()[..., -1].mean() for job in jobs]
    (line,) = (line for line in across.render("dt", "oracle").splitlines() if line.startswith(f"| {label}"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[1] == str(len(jobs)) and cells[2].split()[0] == f"{np.mean(last):.0f}"
    assert cells[3] == f"{metabench.spec('CheetahDir-v0').references('test')['oracle']['mean']:.0f}"


def test_sets_of_which_an_agent_has_no_run_are_left_out(tmp_path):
    assert "CheetahVel" not in across.render("dt", "meta-dt")
    assert [line for line in across.render("dt", kept=tmp_path).splitlines() if line.startswith("| Point")] == []
