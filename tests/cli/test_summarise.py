"""What is put together, what is kept apart, and that nothing counts twice."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from metabench.cli.main import main
from metabench.evaluation.results import Protocol, Result
from metabench.evaluation.summary import Source, compare, group


def save(folder, seed, config, agent="rl2", shift=0.0, protocol_seed=0, **changes):
    returns = np.random.default_rng(seed or 0).normal(size=(50, 20, 1)) + shift
    protocol = Protocol(benchmark="GridSwitch-v0", split="test", episodes=1, repeats=20, seed=protocol_seed)
    result = Result(
        protocol=protocol.model_copy(update=changes),
        agent=agent,
        track="online",
        task_digest="0" * 64,
        train_seed=seed,
        versions={},
        returns=returns.tolist(),
    )
    result.save(folder / "result.json")
    if config is not None:
        (folder / "config.json").write_text(
            json.dumps({"agent": agent, "benchmark": "GridSwitch-v0", "seed": seed, "config": config})
        )
    return str(folder / "result.json")


def lines(capsys, *paths):
    main(["summarise", *paths])
    return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]


def refused(capsys, *paths):
    with pytest.raises(SystemExit) as stop:
        main(["summarise", *paths])
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_runs_of_other_settings_are_other_groups(capsys, tmp_path):
    short = [save(tmp_path / f"short{s}", s, {"frames": 300_000, "ppo": {"clip": 0.1}}) for s in range(2)]
    long = [save(tmp_path / f"long{s}", s, {"frames": 3_000_000, "ppo": {"clip": 0.2}}, shift=9) for s in range(3)]
    printed = lines(capsys, *short, *long)
    table = [line for line in printed if line.startswith("test")]
    assert [re.match(r"test (.*\)) (\d) ", line).groups() for line in table] == [
        ("rl2 (frames 3000000, ppo.clip 0.2)", "3"),
        ("rl2 (frames 300000, ppo.clip 0.1)", "2"),
    ]
    assert "rl2 (frames 300000, ppo.clip 0.1) on GridSwitch-v0, test: 2 runs" in printed
    assert f"seed 1 {short[1]}" in printed and f"seed 2 {long[2]}" in printed


def test_one_group_has_the_agents_name(capsys, tmp_path):
    printed = lines(capsys, *(save(tmp_path / str(s), s, {"frames": 1}) for s in range(2)))
    assert "rl2 on GridSwitch-v0, test: 2 runs" in printed


@pytest.mark.parametrize("changes", [{"version": "slots-1"}, {"split": "ood"}, {"repeats": 20, "episodes": 1}])
def test_what_was_measured_otherwise_is_kept_apart(capsys, tmp_path, changes):
    paths = [save(tmp_path / "a", 0, {}), save(tmp_path / "b", 1, {}, **changes)]
    groups = [line for line in lines(capsys, *paths) if line.endswith((" runs", " run"))]
    assert len(groups) == (1 if "repeats" in changes else 2)


def test_a_result_without_a_folder_is_not_mixed_with_one_that_has(capsys, tmp_path):
    printed = lines(capsys, save(tmp_path / "a", 0, {"frames": 1}), save(tmp_path / "b", 1, None))
    assert "rl2 (frames 1) on GridSwitch-v0, test: 1 run" in printed
    assert "rl2 (settings unknown) on GridSwitch-v0, test: 1 run" in printed


def test_a_run_does_not_count_twice(capsys, tmp_path):
    a, b = save(tmp_path / "a", 0, {"frames": 1}), save(tmp_path / "b", 0, {"frames": 1}, protocol_seed=7)
    for paths in ((a, a), (a, b), (b, a)):
        error = refused(capsys, *paths)
        assert "are one run of rl2" in error and "seed 0" in error and a in error and error.count("\n") == 1
    assert "2 runs" not in " ".join(lines(capsys, a))


def test_equal_numbers_of_an_untrained_agent_do_not_count_twice(capsys, tmp_path):
    a, b = save(tmp_path / "a", None, None, "random"), save(tmp_path / "b", None, None, "random")
    assert "the same numbers" in refused(capsys, a, b)
    c = save(tmp_path / "c", None, None, "random", shift=1.0, protocol_seed=1)
    assert "random on GridSwitch-v0, test: 2 runs" in lines(capsys, a, c)


def test_the_quickstart_and_a_run_of_the_same_settings_and_seed_are_one(capsys, tmp_path):
    config = {"frames": 3_000_000}
    a, b = save(tmp_path / "quickstart", 0, config), save(tmp_path / "GridSwitch-v0-rl2-s0", 0, config)
    assert "leave one of them out" in refused(capsys, a, b)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: (), "summarise wants result files: metabench summarise"),
        (lambda p: (p,), "is a folder; give the results in it"),
        (lambda p: (p / "reslt.json",), "did you mean"),
        (lambda p: (p / "no" / "result.json",), "there is no folder"),
    ],
)
def test_bad_paths(capsys, tmp_path, make, words):
    save(tmp_path, 0, None)
    assert words in refused(capsys, *map(str, make(tmp_path)))


def test_a_damaged_record_beside_a_result_is_told(capsys, tmp_path):
    path = save(tmp_path, 0, {})
    (tmp_path / "config.json").write_text("[")
    assert "is no record of a training run" in refused(capsys, path)


def test_the_best_is_compared_with_the_others(capsys, tmp_path):
    """Three runs each: one agent's returns are shifted up by ten deviations, so that it beats the other everywhere."""
    paths = [save(tmp_path / f"a{seed}", seed, None, agent="a", protocol_seed=seed) for seed in range(3)]
    paths += [save(tmp_path / f"b{seed}", seed, None, agent="b", shift=10.0, protocol_seed=seed) for seed in range(3)]
    main(["summarise", *paths])
    text = capsys.readouterr().out
    assert (
        "b beats a on GridSwitch-v0, test, in 100% [100%, 100%] of runs x tasks; IQM of returns higher by 10.00" in text
    )
    main(["summarise", *paths[:3], save(tmp_path / "c", 0, None, agent="c")])
    assert " beats " not in capsys.readouterr().out, "one run says too little"


def test_no_difference_is_told_of_runs_that_were_evaluated_otherwise(tmp_path):
    made = [
        Source(
            Result.load(Path(save(tmp_path / f"{agent}{seed}", seed, None, agent=agent, protocol_seed=seed + shift))),
            "",
        )
        for agent, shift in (("a", 0), ("b", 7))
        for seed in range(3)
    ]
    (found,) = compare(group(made))
    assert found.difference is None and found.better.estimate == 0.5, "equal numbers: ties count half"
