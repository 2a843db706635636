"""What is told of a task, and what is noted of a policy that is told it, under the view."""

import metabench
from studies.metadreamer import given_task


def test_what_is_told_of_a_task_lies_between_the_training_tasks():
    rows = metabench.spec(given_task.BENCHMARK).table().rows
    told = given_task.told_tasks("train")
    assert told.min(0).values.tolist() == [-1.5] * 2 and told.max(0).values.tolist() == [1.5] * 2
    assert told[rows["train"].argmax(0)[1], 1] == 1.5, "the most courteous drivers"
    assert told.shape == rows["train"].shape and given_task.told_tasks("R8").shape == rows["R8"].shape


def test_told_under_the_view_environment_steps_are_counted_and_test_is_reported(tmp_path):
    short = {"learning_rate": 1e-3, "discount": 0.97, "target_rate": 0.02, "reward_scale": 4.0, "layers": 1}
    short |= {"updates": 1, "tasks_per_iteration": 1, "iterations": 10, "plain": False}
    (row,) = given_task.learn(0, tmp_path, **short, viewed=True, split="R8")
    assert row.keys() == {"frames", "training", "R8", "test"}
    episodes = 8 * given_task.INITIAL + 10 * given_task.EPISODES
    assert 11 * episodes < row["frames"] <= 55 * episodes, "an episode has at most 11 decisions"
