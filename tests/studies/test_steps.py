"""Steps to a level, from the learning curves that are kept."""

import math

from metabench.evaluation.results import write_atomically
from studies import evidence
from studies.efficiency import efficiency
from studies.steps import curve_of, render


def test_curves_keep_what_was_evaluated(tmp_path):
    lines = ['{"frames": 10, "return": 1.0}', '{"frames": 20, "return": 2.0, "test/last": 5.0}', '{"note": 1}']
    path = tmp_path / evidence.CURVE
    write_atomically(path, evidence._curve(lines).encode())
    assert path.read_text() == "frames,return,test/last\n10,1.0,\n20,2.0,5.0\n"
    curve = curve_of(path)
    assert curve is not None and curve.frames.tolist() == [20.0] and curve.returns.tolist() == [5.0]
    assert curve_of(path, "ood/last") is None


def test_the_median_run_counts_and_those_that_never_arrive(tmp_path):
    curves = []
    for number, returns in enumerate(([1.0, 4.0, 6.0], [5.0, 2.0, 2.0], [0.0, 1.0, 2.0])):
        path = tmp_path / f"{number}.csv"
        path.write_text("frames,test/last\n" + "".join(f"{10 * (k + 1)},{r}\n" for k, r in enumerate(returns)))
        curves.append(curve_of(path))
    found = efficiency(curves, 4.0, window=1)
    assert found.steps == (20.0, 10.0, math.inf) and found.median == 20.0 and found.reached == 2
    assert math.isinf(efficiency(curves, 5.5, window=1).median)


def test_a_table_names_the_runs_it_is_made_of():
    table = next(table for table in evidence.read_queue() if table.name == "highway-merge-rounds")
    text = render(table)
    there = [j.key() for row in table.rows for j in row.jobs if (evidence.KEPT / j.key() / evidence.JOB).exists()]
    assert set(evidence.keys_of(text)) == set(there) and "R8IR8" in text
