"""MAML's learning curves: what is drawn is what the records say."""

import csv

import pytest

from studies.maml import pictures


@pytest.mark.parametrize("id, name", pictures.SHOWN)
def test_a_curve_is_the_running_mean_of_the_records(id, name):
    frames, before, after = pictures.curves(id, name)
    assert before.shape == after.shape == (3, len(frames))
    text = (pictures.HERE / "results" / id / f"{name}-s1-curve.csv").read_text()
    rows = list(csv.DictReader(text.splitlines()))
    k = 7
    window = rows[k : k + pictures.WINDOW]
    assert frames[k] == float(window[-1]["frames"])
    assert before[1, k] == pytest.approx(sum(float(row["before"]) for row in window) / pictures.WINDOW)
    assert after[1, k] == pytest.approx(sum(float(row["after"]) for row in window) / pictures.WINDOW)


def test_the_picture_is_drawn(tmp_path):
    pictures.draw(tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
