"""Strategies against the re-run: it tests what the rank uses, task by task, and lets the same policy pass."""

import numpy as np
import pytest
from forging import about, board, edit_submission, entrants, reseal, write_boards

from metabench.leaderboard.ranking import rank, read_entries
from metabench.leaderboard.records import Training
from metabench.leaderboard.replay import Fault
from metabench.leaderboard.rerun import FALSE_ALARM, TRIALS, compare
from metabench.leaderboard.submit import open_yardstick, submit
from metabench.leaderboard.track import TRACKS
from metabench.leaderboard.verify import record, verify

RUNS, TASKS = 5, 5
LAST = TRACKS["offline-few-shot"].judged


def played(rng, mean, repeats=4, episodes=2, noise=0.15):
    """Returns `[run, task, repeat, episode]` around a mean that may differ by any of them."""
    shape = (RUNS, TASKS, repeats, episodes)
    return np.broadcast_to(mean, shape) + noise * rng.normal(size=shape)


def cells(value, count):
    """`[run, task, 1, 1]`: a value in the first so many cells, 0 elsewhere."""
    flat = np.zeros(RUNS * TASKS)
    flat[:count] = value
    return flat.reshape(RUNS, TASKS, 1, 1)


# What was submitted minus what the policy reaches, as a mean by [run, task, repeat, episode].
STRATEGIES = {
    "better everywhere": (cells(0.5, 25), slice(None)),
    "worse everywhere": (cells(-0.5, 25), slice(None)),  # two-sided: a policy is not what was played either
    "an oracle that walks in 19 of 25 cells": (cells(0.5, 19) - cells(0.5 * 19 / 6, 25) + cells(0.5 * 19 / 6, 19),
                                               slice(None)),
    "equal means": (np.where(np.arange(TASKS) % 2, 0.6, -0.6).reshape(1, TASKS, 1, 1), slice(None)),
    "throws the first episode and steals the last": (np.array([-1.0, 1.0]).reshape(1, 1, 1, 2), LAST),
    "the same on a track that judges all": (np.array([-1.0, 1.0]).reshape(1, 1, 1, 2), slice(None)),
    "steals the last only": (np.array([0.0, 0.5]).reshape(1, 1, 1, 2), LAST),
    "one task": ((np.arange(TASKS) == 2).reshape(1, TASKS, 1, 1) * 0.8, slice(None)),
    "one run": ((np.arange(RUNS) == 2).reshape(RUNS, 1, 1, 1) * 0.8, slice(None)),
}  # fmt: skip


@pytest.mark.parametrize("kind", STRATEGIES)
@pytest.mark.parametrize("noise", [0.15, 0.0])
def test_strategies_are_refused(kind, noise):
    gain, judged = STRATEGIES[kind]
    rng = np.random.default_rng(0)
    before, again = played(rng, 0.4 + gain, noise=noise), played(rng, 0.4, noise=noise)
    with pytest.raises(Fault, match=r"played again on fresh seeds, the policies reach .* the two differ"):
        compare(before, again, 1, judged, 1.0)


def test_equal_means_are_equal(recwarn):
    gain, _ = STRATEGIES["an oracle that walks in 19 of 25 cells"]
    assert abs(gain.mean()) < 1e-12, "the strategy is that the mean does not show it"


@pytest.mark.parametrize("judged", [slice(None), LAST])
def test_where_nothing_is_left_to_chance_one_trial_against_four_is_enough(judged):
    """A benchmark and policies without chance, one repeat: a task that was stolen in every run shows."""
    flat = np.zeros((RUNS, TASKS, 1, 2)) + np.arange(TASKS).reshape(1, TASKS, 1, 1)
    again = np.repeat(flat, TRIALS, axis=2)
    assert compare(flat, again, 1, judged, 1.0, TRIALS).p == 1.0
    stolen = flat + (np.arange(TASKS) == 1).reshape(1, TASKS, 1, 1)
    with pytest.raises(Fault):
        compare(stolen, again, 1, judged, 1.0, TRIALS)


def test_the_same_policy_is_refused_as_rarely_as_stated():
    """Skewed returns, few repeats, tasks of different noise: one in a hundred, here of 60."""
    refused = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        scale = rng.uniform(0.01, 3.0, size=(1, TASKS, 1, 1))
        draw = lambda n, rng=rng, scale=scale: scale * rng.exponential(size=(RUNS, TASKS, n, 2))  # noqa: E731
        try:
            compare(draw(4), draw(4), seed)
        except Fault:
            refused += 1
    assert FALSE_ALARM == 0.01 and refused <= 4  # 5 or more would have a probability of 0.0004


def test_differences_that_matter_to_nobody_pass():
    """Another processor's last digits, the same in every trial."""
    rng = np.random.default_rng(0)
    before = played(rng, 0.4, noise=0.0)
    found = compare(before, before + 1e-7, 1, scale=1.0)
    assert found.p == 1.0 and abs(found.again - found.submitted) < 1e-6


def test_the_stated_power_is_reached():
    """A shift of `detectable` is found out nine times in ten."""
    found = 0
    for seed in range(30):
        rng = np.random.default_rng([7, seed])
        before, again = played(rng, 0.4), played(rng, 0.4)
        honest = compare(before, again, 1, scale=1.0)
        assert 0.0 < honest.detectable < 0.2
        try:
            compare(before + honest.detectable, again, 1, scale=1.0)
        except Fault:
            found += 1
    assert found >= 23  # fewer would have a probability of 0.008 at 90 %


def story(name, plugin, track="online", **changes):
    return about(agent=name, plugin=plugin, track=track, trains=False, training=Training(env_steps=0), **changes)


@pytest.fixture(scope="module")
def boards(tmp_path_factory):
    root = tmp_path_factory.mktemp("reruns")
    return write_boards(root, [board("grid", "GridNavigation-v0", repeats=2, tracks=("online", "oracle", "prompt-k"))])


class Posing:
    """The oracle, that says it is prompted."""

    def __init__(self, oracle, track):
        self.oracle, self.track, self.privileged, self.name = oracle, track, True, "posing"

    def begin(self, num_trials):
        return self.oracle.begin(num_trials)

    def act(self, step, belief):
        return self.oracle.act(step, belief)


def test_another_agent_under_a_plugins_name_is_refused(boards, tmp_path):
    grid = boards["grid"]
    own = [
        e._replace(agent=o.agent)
        for e, o in zip(open_yardstick("zero", grid, 2), entrants(grid.benchmark, 2), strict=True)
    ]
    folder = submit(grid, own, story("stay", "zero"), tmp_path)
    verdict = verify(folder, boards, rerun_seed=3)
    assert "played again on fresh seeds, the policies reach" in verdict.fault
    edit_submission(folder, lambda told: told.update(agent="random"))
    assert "random is the name of a plug-in, and the entry is played by zero" in verify(reseal(folder), boards).fault


def test_a_hash_of_ones_choice_is_refused_where_it_follows_from_the_name(boards, tmp_path):
    grid = boards["grid"]
    own = [entrant._replace(sha256="a" * 64) for entrant in open_yardstick("zero", grid, 2)]
    with pytest.raises(ValueError, match="follows from its name"):
        submit(grid, own, story("zero", "zero"), tmp_path)


def test_an_oracle_passed_as_prompt_k_is_refused_or_not_ranked(boards, tmp_path):
    """Its traces are those of an agent that is shown the task, as prompted ones are; what it is shows when it runs."""
    grid, sets = boards["grid"], ({"id": "x", "sha256": "0" * 64},)
    sly = [e._replace(agent=Posing(e.agent, "prompt-k"), train_seed=i, sha256=f"{i:064x}")
           for i, e in enumerate(open_yardstick("oracle", grid, 2))]  # fmt: skip
    told = about(agent="sly", track="prompt-k", plugin="oracle", training=Training(env_steps=0, datasets=sets))
    folder = submit(grid, sly, told, tmp_path)
    assert "nothing to run again" in verify(folder, boards, rerun_seed=3).fault
    record(verify(folder, boards))
    table = rank(grid, "prompt-k", read_entries(tmp_path, boards))
    assert not table.rows and "ranked once its policies were played again" in table.unranked[0].why_unranked


def test_an_oracle_is_no_prompted_agent_when_it_is_run(boards, tmp_path):
    grid = boards["grid"]
    folder = submit(grid, open_yardstick("oracle", grid, 2), story("oracle", "oracle", "oracle"), tmp_path)
    assert verify(folder, boards, rerun_seed=3).tier == "reproduced"
    from metabench.leaderboard.folder import Folder
    from metabench.leaderboard.rerun import _play

    asked = {"folder": str(folder), "board": grid.model_dump(mode="json"), "seed": 3, "rounds": 1}
    submission = Folder(folder).submission().model_copy(update={"track": "prompt-k"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Folder, "submission", lambda self: submission)
        with pytest.raises(Fault, match="was played as oracle, which does not go with prompt-k"):
            _play(asked)


def test_a_rerun_that_takes_too_long_is_ended_with_one_sentence(boards, tmp_path):
    grid = boards["grid"]
    folder = submit(grid, open_yardstick("zero", grid, 2), story("zero", "zero"), tmp_path)
    short = {"grid": grid.model_copy(update={"rerun_seconds": 0})}
    verdict = verify(folder, short, rerun_seed=3)
    assert "take more than the 0 seconds that the board grid allows" in verdict.fault
