"""The daily regression of learning: its comparison, its report, and that every row is a run that can be made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import metabench
from metabench.evaluation.evaluate import evaluate
from metabench.evaluation.results import Result
from metabench.plugins import load_agent
from metabench.runs import result_path
from metabench.sweep.folder import Place
from studies import learn

ROWS = learn.read_rows()
WHY = "a row that a test made"


@pytest.fixture(scope="module")
def result() -> Result:
    agent, _, _ = load_agent("random", "PointRobot-v0", "test", 0)
    return evaluate(agent, "PointRobot-v0", split="test", seed=0)


def row(low: float, high: float, metric: str = "mean") -> learn.Row:
    return learn.Row.model_validate(
        {"agent": "bc", "benchmark": "PointRobot-v0", "seed": 0, "split": "test"}
        | {"metric": metric, "why": WHY, "low": low, "high": high}
    )


def kept(out: Path, chosen: learn.Row, result: Result, seed: int | None = None) -> None:
    """Files a result as the row's run in a sweep's folder would."""
    folder = Place(out).result(chosen.job(seed).key())
    folder.mkdir(parents=True)
    result.save(result_path(folder, chosen.split))


def test_five_agents_on_five_families() -> None:
    families = {metabench.spec(one.benchmark).entry_point for one in ROWS}
    assert len(families) >= 5
    assert len({one.agent for one in ROWS}) == len(ROWS) >= 5


@pytest.mark.parametrize("one", ROWS, ids=[one.agent for one in ROWS])
def test_every_row_can_be_run_and_its_interval_tells_learning_from_none(one: learn.Row) -> None:
    assert one.job().settings["agent"] == one.agent
    for id, split in one.datasets:
        assert metabench.spec(one.benchmark).table().size(split)
        assert metabench.datasets.DatasetId.parse(id).benchmark.id == one.benchmark
    assert len(one.measured) >= 2
    assert learn.interval(one, one.measured) == pytest.approx((one.low, one.high), abs=0.006)
    nothing, oracle = learn.span(one)
    assert one.low > nothing + 0.2 * (oracle - nothing)


def test_a_row_that_cannot_be_is_refused(tmp_path: Path) -> None:
    text = learn.ROWS.read_text()
    path = tmp_path / "learn.toml"
    path.write_text(text.replace("metric", "metrik", 1))
    with pytest.raises(ValueError, match="metri"):
        learn.read_rows(path)
    path.write_text(text.replace('agent = "dynamite"', 'agent = "dynamit"', 1))
    with pytest.raises(ValueError, match="dynamite"):
        learn.read_rows(path)[0].job()
    path.write_text(text.replace("config.frames", "config.framez", 1))
    with pytest.raises(ValueError, match="frames"):
        [one.job() for one in learn.read_rows(path)]


def test_what_is_compared(result: Result) -> None:
    returns = result.array()
    assert row(0, 1).value(result) == pytest.approx(returns.mean())
    assert row(0, 1, "last").value(result) == pytest.approx(returns[:, :, -1].mean())
    assert returns[:, :, -1].mean() != pytest.approx(returns.mean())


def test_outside_on_either_side_and_missing_fail(tmp_path: Path, result: Result) -> None:
    value = float(result.array().mean())
    inside, above, below = (row(value + a, value + b) for a, b in ((-0.1, 0.1), (-0.2, -0.1), (0.1, 0.2)))
    kept(tmp_path, inside, result)
    found = [learn.found_in(tmp_path, one) for one in (inside, above, below)]
    missing = learn.Found(inside, None)
    assert [one.fault.split(",")[1].split()[0] if one.fault else "" for one in found] == ["", "above", "below"]
    assert learn.found_in(tmp_path / "elsewhere", inside) == missing
    assert "its run failed" in missing.fault
    assert "all 1 learn as they did" in learn.report(found[:1])
    told = learn.report([*found, missing])
    assert told.count("OUTSIDE") == 3
    assert "learn as they did" not in told
    assert all(one.fault in told for one in (*found, missing))


def test_the_command_exits_with_one_where_a_run_is_outside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], result: Result
) -> None:
    value = float(result.array().mean())
    monkeypatch.setattr(learn.sweeping, "run", lambda jobs, out, options: True)
    for case, (low, high) in enumerate(((value - 1, value + 1), (value + 1, value + 2))):
        chosen, out = row(low, high), tmp_path / str(case)
        kept(out, chosen, result)
        monkeypatch.setattr(learn, "read_rows", lambda chosen=chosen: (chosen,))
        if case == 0:
            learn.main(["--out", str(out)])
            assert "learn as they did" in capsys.readouterr().out
            continue
        with pytest.raises(SystemExit) as stop:
            learn.main(["--out", str(out)])
        assert stop.value.code == 1
        assert "below its interval" in capsys.readouterr().out


def test_a_run_that_failed_fails_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(jobs: object, out: Path, options: object) -> bool:
        raise SystemExit("1 jobs failed")

    monkeypatch.setattr(learn.sweeping, "run", fails)
    with pytest.raises(SystemExit) as stop:
        learn.main(["--out", str(tmp_path), "--only", "rl2"])
    assert stop.value.code == 1
    assert "rl2 on ReacherSwitch-v0 has no result" in capsys.readouterr().out


def test_the_interval_is_as_wide_as_seeds_differ_and_never_narrow() -> None:
    one = row(0, 1)
    levels = metabench.spec(one.benchmark).references("test")
    assert levels["zero"]["mean"] > levels["random"]["mean"], "standing still is the better nothing here"
    way = levels["oracle"]["mean"] - levels["zero"]["mean"]
    values = np.array([-9.0, -8.0, -7.0])  # a standard deviation of one
    assert learn.interval(one, values.tolist()) == pytest.approx((-11.0, -5.0))
    assert learn.interval(one, [-8.0, -8.0, -8.0]) == pytest.approx((-8 - 0.05 * way, -8 + 0.05 * way))
    assert learn.interval(one, [-8.0, -8.0]) == pytest.approx((-8 - 0.1 * way, -8 + 0.1 * way))


def test_intervals_are_measured_from_three_seeds(tmp_path: Path, result: Result) -> None:
    one = row(0, 1)
    kept(tmp_path, one, result, 0)
    kept(tmp_path, one, result, 1)
    assert "only 2 of 3 runs ended" in learn.measured(tmp_path, [one])
    kept(tmp_path, one, result, 2)
    value = f"{result.array().mean():.3f}"
    assert f"measured = [{value}, {value}, {value}]" in learn.measured(tmp_path, [one])
