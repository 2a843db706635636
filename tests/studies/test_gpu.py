"""The GPU study on the CPU: a graph's numbers are the eager ones, and nothing is left behind on another device."""

import contextlib
import time

import pytest
import torch
from metabench_agents.parts.device import Device

from studies.gpu import stages, study, works
from studies.gpu.checked import CHECKED, learned
from studies.gpu.page import BEGIN, END, write_page
from studies.gpu.works import SMALL

TELLING = ("PPO on beliefs", "maml", "maml with ppo")  # their metrics are read at the end of a step


@pytest.mark.parametrize("name", CHECKED)
def test_captured_updates_learn_what_eager_ones_do(name):
    """Ten updates each, two to a replay, dropout and seeds included."""
    (told, eager), (also, captured) = (
        learned(CHECKED[name], Device("cpu", form=form), SMALL) for form in ("eager", "captured")
    )
    assert torch.allclose(eager, captured, atol=1e-5), float((eager - captured).abs().max())
    assert told.keys() == also.keys()
    assert all(told[n] == pytest.approx(also[n], rel=1e-3, abs=1e-4) for n in told)


@pytest.mark.parametrize("name", CHECKED)
def test_nothing_stays_behind_on_the_cpu(name, monkeypatch):
    """On a device without numbers ("meta") an update that mixes devices fails, as it would on a GPU."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # which "meta" has not
    made = CHECKED[name](Device("meta"), SMALL)
    assert {tensor.device.type for tensor in made.tensors()} == {"meta"}
    try:
        made.step()
    except (RuntimeError, NotImplementedError) as error:
        assert "item()" in str(error) and name in TELLING, error


def rows(stage, seconds=60.0):
    found = []
    stage(found.append, seconds, True)
    return found


def test_stages_tell_what_they_find_and_the_page_shows_it(tmp_path, monkeypatch):
    """Three figures, two checks and one pair of curves, from the process to the page."""
    monkeypatch.setattr(stages, "CHECKED", {name: CHECKED[name] for name in ("bc",)})
    wanted = [
        ("behaviour cloning", "updates", works.cloning, stages.FORMS, "fp32"),
        ("SAC, closed loop", "steps", stages.closed_loop, stages.FORMS[:2], "fp32"),
        ("RL2, 2 seeds", "frames", lambda d, s: works.rl2_iteration(d, s, 2), stages.FORMS[:1], "fp32"),
    ]
    monkeypatch.setattr(stages, "figures", lambda sizes: wanted)
    checked, timed, learned_ = rows(stages.checks, 200.0), rows(stages.speeds, 400.0), rows(stages.curves, 9.0)
    assert [row["form"] for row in checked] == ["eager", "captured"] and all(row["equal"] for row in checked)
    assert [(row["work"], row["form"]) for row in timed] == [
        ("behaviour cloning", "eager"),
        ("behaviour cloning", "captured"),
        ("SAC, closed loop", "eager"),
        ("SAC, closed loop", "captured"),
        ("RL2, 2 seeds", "eager"),
    ]
    assert all(row.get("rate", 0) > 0 and row["kernels"] > 0 for row in timed), timed
    eager, captured = timed[:2]
    assert captured["metrics"].keys() == eager["metrics"].keys()
    assert {row["device"] for row in learned_} == {"cpu", "captured"} and all(row["curve"] for row in learned_)
    record = {"date": "2026-11-29", "device": "a test", "rehearsal": True, "torch": "2", "cuda": None}
    found = {"checks": checked, "speeds": timed, "curves": learned_}
    record["stages"] = {n: {"ended": "done", "seconds": 1.0, "rows": r} for n, r in found.items()}
    assert not study.faults(record)
    page = tmp_path / "speed.md"
    page.write_text(f"# Speed\n\n{BEGIN}\nold\n{END}\n\nrest\n")
    write_page(record, tmp_path)
    text = page.read_text()
    assert text.startswith("# Speed\n") and text.endswith("rest\n") and "old" not in text
    assert "| behaviour cloning, updates/s | fp32 |" in text and "2 of 2" in text
    drawn = (tmp_path / "results/gpu/speeds.svg").read_text()
    assert drawn.count("<rect") == 5
    write_page(record, tmp_path)
    assert page.read_text() == text, "written twice it is the same"


def test_what_is_not_equal_or_broken_is_told():
    rows = [
        {"agent": "a", "form": "eager", "parameters": 0.1, "metrics": 0.0, "equal": False},
        {"work": "b", "form": "captured", "missing": "RuntimeError: no"},
        {"work": "c", "form": "both", "missing": "out of time"},
    ]
    record = {"stages": {"speeds": {"ended": "failed (1)", "rows": rows}}}
    assert study.faults(record) == [
        "stage speeds failed (1)",
        "a (eager) differs by 1.0e-01",
        "b (captured): RuntimeError: no",
    ]


def test_a_figure_that_takes_too_long_is_left():
    with pytest.raises(stages.OutOfTime):
        stages.within(0.2, lambda: time.sleep(5))


def test_a_stage_is_ended_when_its_time_is_spent(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "GRACE", 0.0)
    found = study.run_stage("checks", 0.5, tmp_path, True)
    assert found["ended"] == "out of time" and found["seconds"] < 10


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_it_refuses_in_one_sentence(monkeypatch):
    monkeypatch.setattr("sys.argv", ["study"])
    with pytest.raises(SystemExit, match="there is no CUDA device here: `make gpu-rehearsal`"):
        study.main()


def test_the_whole_takes_less_than_nine_minutes():
    spent = sum(seconds + study.GRACE for seconds in study.BUDGETS.values())
    assert spent < 9 * 60 - 15, "importing torch and writing the page take some seconds too"


def test_the_speed_page_has_a_place_for_it():
    text = (study.ROOT / "docs" / "speed.md").read_text()
    assert text.index(BEGIN) < text.index(END)
