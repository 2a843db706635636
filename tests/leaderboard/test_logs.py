"""What an entry keeps of its runs' logs, and the curves that are drawn of them."""

import json
from pathlib import Path

import pytest

from metabench.leaderboard.logs import CURVES, Curve, curves_of, log_of, milestones, read_curves, read_log
from metabench.leaderboard.replay import Fault

ROOT = Path(__file__).parent.parent.parent / "leaderboards"


def test_a_log_keeps_steps_returns_and_seconds():
    metrics = [
        {"iteration": 1, "frames": 100, "return": 0.5, "time/seconds": 2.0, "loss": 3.0},
        {"iteration": 2, "frames": 200, "return": float("nan"), "time/seconds": 2.5},
        {"iteration": 3, "frames": 300, "return": 1, "time/seconds": 0.5},
        {"loss": 1.0},
    ]
    rows = read_log(0, log_of(metrics))
    assert rows == [
        {"iteration": 1, "frames": 100, "return": 0.5, "seconds": 2.0},
        {"iteration": 2, "frames": 200},
        {"iteration": 3, "frames": 300, "return": 1.0, "seconds": 5.0},
    ]
    (curve,) = curves_of({0: log_of(metrics)}, [7])
    assert curve == (7, (100, 300), (0.5, 1.0))
    assert curves_of({0: log_of([{"iteration": 1, "frames": 5}])}, [0]) == (), "a log of before has no returns"


@pytest.mark.parametrize(
    "line",
    [
        '{"frames": 1, "return": NaN}',
        '{"frames": 1, "return": 1e400}',
        '{"frames": 1, "return": "1"}',
        '{"frames": 1, "return": true}',
        '{"frames": 1.5}',
        '{"frames": -1}',
        '{"frames": 1, "agent": "x"}',
        "[" * 100_000,
        "7",
    ],
    ids=range(9),
)
def test_what_is_no_log_is_refused(line):
    with pytest.raises(Fault, match="line 2 of the log of run 3"):
        read_log(3, f'{{"frames": 0}}\n{line}')


def test_steps_that_go_back_are_refused():
    with pytest.raises(Fault, match="goes back"):
        read_log(0, '{"frames": 9}\n{"frames": 8}\n')


def test_seconds_follow_from_the_speed_where_no_row_tells_them():
    metrics = [{"iteration": k, "frames": 100 * k, "return": k, "time/frames_per_s": 50.0} for k in (1, 2)]
    assert [row["seconds"] for row in read_log(0, log_of(metrics))] == [2.0, 4.0]


LEVELS = {"random": -10.0, "oracle": 10.0, "filter": 4.0}  # 50 % is a return of 0, 75 % of 5


def test_steps_to_a_level_are_the_median_of_the_first_that_pass():
    curves = (
        Curve(0, (10, 20, 30, 40), (-9.0, 0.0, -3.0, 6.0)),  # passes a half at 20, and falls back
        Curve(1, (10, 20, 30, 40), (-9.0, -1.0, 0.5, 4.9)),  # at 30; never three quarters
        Curve(2, (10, 20, 30, 40), (1.0, 5.0, 5.0, 5.0)),  # at 10 and 20
    )
    half, three = milestones(curves, LEVELS)
    assert half == (0.5, 0.0, 20.0, 3, 3)
    assert three == (0.75, 5.0, 40.0, 2, 3)
    _, three = milestones(curves[:2], LEVELS)
    assert three == (0.75, 5.0, float("inf"), 1, 2), "the median of one that came and one that did not is no number"


def test_steps_to_a_level_want_curves_and_levels():
    curves = (Curve(0, (10, 20), (0.0, 3.0)),)
    assert milestones((), LEVELS) == ()
    assert milestones(curves, {"oracle": 1.0}) == milestones(curves, {"random": 1.0}) == ()
    assert milestones(curves, {"random": 1.0, "oracle": 1.0}) == ()
    assert milestones(curves, {"random": 0.0, "zero": -1.0, "filter": 4.0})[0] == (0.5, 2.0, 20.0, 1, 1)


def test_curves_beside_the_boards_are_read_and_bounded(tmp_path):
    assert read_curves(tmp_path) == {}
    told = {"a/b/c": [{"seed": 1, "frames": [1, 2], "returns": [0.0, 1.0]}]}
    (tmp_path / CURVES).write_text(json.dumps(told))
    assert read_curves(tmp_path) == {"a/b/c": ((1, (1, 2), (0.0, 1.0)),)}
    for wrong in ([1, 2, 3], ["x", 2], [1], [-1, 2]):
        (tmp_path / CURVES).write_text(json.dumps({"a/b/c": [{"seed": 1, "frames": wrong, "returns": [0.0, 1.0]}]}))
        with pytest.raises(ValueError, match=CURVES):
            read_curves(tmp_path)


def test_the_published_curves_belong_to_entries():
    for place, curves in read_curves(ROOT).items():
        told = json.loads((ROOT / place / "submission.json").read_text())
        assert [curve.seed for curve in curves] == [run["train_seed"] for run in told["runs"]]
        assert {curve.frames[-1] for curve in curves} == {told["training"]["env_steps"]}
