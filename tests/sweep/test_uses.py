"""Data sets by shards and evaluations side by side: the same bytes as in one process."""

import shutil

import pytest

from metabench.datasets import generate
from metabench.datasets.generation import PLAN
from metabench.evaluation.evaluate import evaluate_traced, standard_protocol
from metabench.sweep import Local, digest
from metabench.sweep.uses import Entry, evaluate_with, generate_with
from metabench.yardsticks.simple import oracle, random

ID = "metabench/grid-navigation/random-v0"
EPISODES = 512  # of a task: four shards then


def test_shards_on_an_engine_make_the_same_data_set(tmp_path):
    seen = []
    made = generate_with(
        Local(2), ID, root=tmp_path / "many", seed=3, episodes=EPISODES, progress=lambda *counts: seen.append(counts)
    )
    alone = generate(ID, root=tmp_path / "one", seed=3, episodes=EPISODES)
    assert digest(made) == digest(alone)
    assert len(seen) == 4 and seen[-1][0] == seen[-1][1] and [a for a, _ in seen] == sorted(a for a, _ in seen)
    assert sorted(p.name for p in made.parent.iterdir() if p.is_dir()) == ["train"], "no work is left behind"
    assert generate_with(Local(2), ID, root=tmp_path / "many", seed=3, episodes=EPISODES) == made
    with pytest.raises(ValueError, match="holds another dataset"):
        generate_with(Local(2), ID, root=tmp_path / "many", seed=4, episodes=EPISODES)


def test_shards_of_a_generation_that_was_stopped_are_not_made_again(tmp_path):
    class Stop(Exception):
        pass

    def stop(done, total):
        if done > total // 3:
            raise Stop

    with pytest.raises(Stop):
        generate(ID, root=tmp_path / "many", seed=1, episodes=EPISODES, progress=stop)
    (work,) = (tmp_path / "many").rglob(".train.generating")
    there = len(list(work.glob("shard-*")))
    assert there and (work / PLAN).exists()
    seen = []
    made = generate_with(
        Local(2), ID, root=tmp_path / "many", seed=1, episodes=EPISODES, progress=lambda *counts: seen.append(counts)
    )
    assert len(seen) == 4 - there
    assert digest(made) == digest(generate(ID, root=tmp_path / "one", seed=1, episodes=EPISODES))
    with pytest.raises(ValueError, match="unfinished generation with other settings"):
        shutil.rmtree(made)
        work.mkdir()
        (work / PLAN).write_text("{}")
        generate_with(Local(1), ID, root=tmp_path / "many", seed=1, episodes=EPISODES)


def test_evaluations_side_by_side(tmp_path):
    protocols = [standard_protocol("GridNavigation-v0", "test", seed) for seed in (0, 1)]
    entries = [Entry("random", protocols[0], "dice", 0), Entry("random", protocols[1], "dice", 1)]
    entries += [Entry("oracle", protocols[0].model_copy(update={"episodes": 2, "repeats": 3}), "seer")]
    found = evaluate_with(Local(2), entries, tmp_path / "out")
    for entry, evaluation in zip(entries, found, strict=True):
        plugin = {"random": random, "oracle": oracle}[entry.agent]
        agent = plugin.build("GridNavigation-v0", "test", entry.agent_seed)
        wanted = evaluate_traced(agent, entry.protocol, name=entry.name)
        assert evaluation.result == wanted.result
        evaluation.trace.save(tmp_path / "a.npz")
        wanted.trace.save(tmp_path / "b.npz")
        assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with pytest.raises(ValueError, match="the evaluation of rl2 failed: rl2 has to be trained first"):
        evaluate_with(Local(1), [Entry("rl2", protocols[0], "x")], tmp_path / "out")
