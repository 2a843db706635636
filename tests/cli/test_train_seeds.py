"""`metabench train --seeds`: several seeds in one process, each into a run of its own."""

import json

import pytest

from metabench.cli.main import main


def test_seeds_are_trained_and_evaluated_together(tmp_path, capsys):
    small = ["--frames", "960", "--trials", "8", "--network.hidden", "8", "--network.embed", "8", "--network.head", "8"]
    asked = ["train", "rl2", "GridSwitch-v0", "--seeds", "0-1", "--folder", str(tmp_path), "--evaluate", "test"]
    main([*asked, *small, "--device", "cpu", "--progress", "none"])
    for seed in (0, 1):
        folder = tmp_path / f"GridSwitch-v0-rl2-s{seed}"
        assert json.loads((folder / "config.json").read_text())["seed"] == seed
        assert json.loads((folder / "result.json").read_text())["train_seed"] == seed
        assert (folder / "checkpoint.safetensors").is_file()


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (["dt", "PointRobot-v0", "--seeds", "0-1"], "one seed at a time"),
        (["rl2", "GridSwitch-v0", "--seeds", "0-1", "--ppo.target-kl", "0.01"], "leave out --ppo.target-kl"),
    ],
)
def test_what_cannot_learn_together_is_told_in_a_sentence(tmp_path, capsys, monkeypatch, asked, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["train", *asked, "--progress", "none"])
    told = capsys.readouterr()
    assert words in " ".join((told.out + told.err).split())
