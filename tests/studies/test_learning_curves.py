"""The curves on the agents' pages are those of the runs that are kept, and of no others."""

import re
from pathlib import Path

import numpy as np
import pytest

from studies.evidence import CURVE, KEPT
from studies.learning_curves import drawn_of, kept_jobs, read_kept, read_list

ROOT = Path(__file__).parent.parent.parent
PICTURES = read_list()


@pytest.mark.parametrize("picture", PICTURES, ids=lambda p: p.agent)
def test_a_picture_is_of_the_runs_that_are_kept_now(picture):
    if not picture.shown:
        assert not picture.path.exists()
        return
    assert drawn_of(picture.path) == picture.text, "python -m studies.learning_curves"
    page = (ROOT / "docs" / "agents" / f"{picture.agent}.md").read_text()
    assert re.search(rf"!\[[^\]]{{20,}}\]\(\.\./images/{picture.path.name}\)", page)
    for panel in picture.shown:
        for job in kept_jobs(panel.row):
            curve = read_kept(KEPT / job.key() / CURVE, panel.column)
            assert len(curve.x) >= 2 and (np.diff(curve.x) > 0).all()


def test_a_curve_is_read_by_its_steps_or_its_updates(tmp_path):
    path = tmp_path / "curve.csv"
    path.write_text("update,train/last\n100,1.5\n200,2.5\n300,\n")
    x, y = read_kept(path, "train/last")
    assert x.tolist() == [100.0, 200.0] and y.tolist() == [1.5, 2.5]
    path.write_text("frames,return\n64,1\n")
    assert read_kept(path, "return").x.tolist() == [64.0]
    with pytest.raises(ValueError, match="has no values of train/first"):
        read_kept(path, "train/first")


def test_a_row_that_the_queue_does_not_have_is_told(tmp_path):
    (tmp_path / "list.toml").write_text('[bc]\ncolumn = "return"\nrow = "grid-switch: no-such-row"\n')
    with pytest.raises(ValueError, match="wants the row 'grid-switch: no-such-row'"):
        read_list(tmp_path / "list.toml")
