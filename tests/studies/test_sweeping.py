"""The studies are grids of jobs: with the settings that the study says; their results become its files."""

import argparse
import csv
import json
from types import SimpleNamespace

import pytest

from metabench.evaluation.results import Result
from metabench.plugins import load_plugin
from metabench.runs import result_path
from metabench.sweep import Job, Local
from metabench.sweep.folder import Place, perform
from metabench.sweep.settings import settings_of
from metabench.sweep.work import check, function_of
from studies import evidence, sweeping
from studies.dynamite import study as dynamite
from studies.highway import information
from studies.itch import probe
from studies.meta_dt import study as meta_dt
from studies.metadreamer import study as metadreamer
from studies.metadreamer.settings import STUDIES, variants
from studies.oracle import precisions


def options(**changes):
    parser = argparse.ArgumentParser()
    sweeping.add_options(parser)
    return SimpleNamespace(**vars(parser.parse_args([])) | {"workers": 1} | changes)


def offline(**changes):
    common = {"benchmarks": ["PointRobot-v0"], "qualities": ["mixed"], "splits": ("train", "test"), "variants": "none"}
    common |= {"agents": list(meta_dt.AGENTS), "seeds": [0, 1], "preset": "small", "set": [], "episodes": 3}
    return options(**common | changes)


@pytest.mark.parametrize("name", STUDIES)
def test_jobs_of_metadreamers_study_have_the_settings_of_its_variants(name):
    every = variants(name)
    found = metadreamer.jobs(name, list(every), [0, 1])
    assert len({job.key() for job in found}) == len(found) == 2 * len(every)
    assert [job.seed for job in found] == [0] * len(every) + [1] * len(every), "seeds outermost"
    for job in found[: len(every)]:
        check(job)
        algorithm, config = every[job.settings["name"]]
        assert load_plugin(job.settings["agent"]) is algorithm
        assert settings_of(algorithm, job.settings["config"]) == config
        assert config.split in job.settings["splits"] and job.settings["episodes"] > config.exploration_episodes


def test_jobs_of_meta_dts_study_have_the_settings_of_its_items():
    arguments = offline(set=[("target.every_step", True)])
    for item in meta_dt.grid(arguments):
        job = meta_dt.job_of(item, arguments)
        check(job)
        algorithm = load_plugin(item.agent)
        wanted = meta_dt.config_of(item, algorithm, "small", {"split": "train", "target.every_step": True})
        assert settings_of(algorithm, job.settings.get("config", {})) == wanted
        assert job.settings["datasets"] == [["metabench/point-robot/mixed-v0", s] for s in ("train", "test")]
    assert len(meta_dt.jobs(arguments)) == 8, "the yardsticks of PointRobot are known"
    more = meta_dt.jobs(offline(benchmarks=["MetaWorld-Reach-v0"], splits=("meta_dt_train", "meta_dt_test")))
    assert {job.settings["agent"] for job in more if job.kind == "evaluate"} <= {"random", "oracle"}
    labels = {job.settings["name"] for job in meta_dt.jobs(offline(variants="ablations"))}
    assert labels == {f"meta-dt {name}" for name in meta_dt.ABLATIONS}


def test_the_queue_and_the_studies_name_the_same_runs_alike():
    """What one of them has made, the other finds in the same folder."""
    (table,) = (table for table in evidence.read_queue() if table.name == "grid-switch")
    for row in table.rows:
        seeds = [job.seed for job in row.jobs]
        assert tuple(dynamite.jobs("GridSwitch-v0", [row.name], seeds)) == row.jobs


@pytest.mark.parametrize("name", dynamite.VARIANTS)
def test_jobs_of_dynamites_study_can_be_started(name):
    found = dynamite.jobs(name, list(dynamite.VARIANTS[name]), [0])
    for job in found:
        check(job)
        assert dynamite.splits_of(job.settings["name"]) == tuple(job.settings.get("splits", ("test", "ood")))


def test_a_run_of_a_study_becomes_files_of_its_results(tmp_path):
    settings = {"agent": "rl2", "benchmark": "GridSwitch-v0", "name": "rl2", "splits": ["test"]}
    settings |= {"config": {"frames": 2000, "trials": 8, "network.hidden": 8}}
    job, out = Job("train", settings, 3), tmp_path / "out"
    assert sweeping.run([job], out, options(dry_run=True)) is False and not out.exists()
    assert sweeping.run([job], out, options())
    (folder,) = sweeping.folders([job], out)
    dynamite.keep_run(job, folder, tmp_path / "results")
    kept = tmp_path / "results" / "GridSwitch-v0"
    assert sorted(p.name for p in kept.iterdir()) == ["rl2-s3-curve.csv", "rl2-s3-job.json", "rl2-s3-test.json"]
    assert Result.load(kept / "rl2-s3-test.json") == Result.load(result_path(folder, "test"))
    assert sweeping.job_in(kept / "rl2-s3-job.json") == job
    rows = list(csv.DictReader((kept / "rl2-s3-curve.csv").read_text().splitlines()))
    assert list(rows[0]) == ["frames", "seconds", "return"] and float(rows[-1]["frames"]) >= 1900
    assert dynamite.curve(kept / "rl2-s3-curve.csv").shape == (len(rows), 3)


def test_failures_of_a_study_are_told_with_their_log(tmp_path, capsys):
    job = Job("study", {"function": "studies.itch.probe:nothing"})
    with pytest.raises(SystemExit, match=r"1 jobs failed; try again: metabench sweep retry"):
        sweeping.run([job], tmp_path, options())
    assert f"log: {tmp_path / 'failed' / job.key()}.log" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="needs sbatch"):
        sweeping.run([job], tmp_path, options(engine="slurm", workers=None))
    with pytest.raises(SystemExit, match="did you mean"):
        sweeping.run([Job("train", {"agent": "rl2", "benchmark": "GridSwitch-v1"})], tmp_path, options())


def test_steps_of_the_other_studies_are_functions_that_exist():
    steps = [precisions.job_of("PointRobot-v0", 100, "bf16", 0), *information.grid("HighwayMerge-v0", True).values()]
    steps += [job for some in probe.grid().values() for job in some] + [probe.step("aimed", 0, along=1.0, around=0.0)]
    for job in steps:
        check(job)
        assert callable(function_of(job.settings["function"]))
    stored = json.loads((information.FOLDER / "HighwayMerge-v0" / "information.json").read_text())["agents"]
    assert list(stored) == list(dict.fromkeys(name for name, _ in information.grid("HighwayMerge-v0", True)))
    stored = json.loads(probe.PATH.read_text())
    for benchmark, agents in probe.AGENTS.items():
        assert list(stored[benchmark]) == list(agents)


def test_a_measurement_of_the_merging_study_is_what_was_stored(tmp_path):
    """The cheapest agent again: the committed numbers, to the digit."""
    jobs = {key: job for key, job in information.grid("HighwayMerge-v0", False).items() if key[0] == "constant speed"}
    list(Local(1).map(jobs.values(), tmp_path))
    table = information.collected(jobs, tmp_path)["constant speed"]
    stored = json.loads((information.FOLDER / "HighwayMerge-v0" / "information.json").read_text())["agents"]
    assert table["returns"] == stored["constant speed"]["returns"]
    assert table["keys"] == [job.key() for job in jobs.values()]


def test_runs_that_are_under_way_are_seen_by_a_report(tmp_path):
    (job,) = metadreamer.jobs("PointRobot-v0", ["pearl-all"], [4])
    place = Place(tmp_path)
    assert metadreamer.runs_of(tmp_path, "PointRobot-v0", "pearl-all") == []
    from metabench.sweep.jobs import add_to_plan

    add_to_plan(place.plan, [job])
    for folder in (place.work / job.key(), place.result(job.key())):
        folder.mkdir(parents=True)
        (folder / "metrics.jsonl").write_text("")
        assert metadreamer.runs_of(tmp_path, "PointRobot-v0", "pearl-all") == [(4, folder)]
    assert perform(job, tmp_path).state == "done", "a folder of that name is a result"
