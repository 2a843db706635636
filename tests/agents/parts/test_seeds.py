"""Seeds side by side: each one's numbers are those of its single run."""

import json

import pytest
import torch
from metabench_agents import rl2
from metabench_agents.parts.device import Device
from metabench_agents.parts.run import Run, load_checkpoint
from metabench_agents.parts.seeds import Stack
from torch import nn

from metabench.runs import Stopped

SMALL = rl2.Config(frames=60 * 8 * 3, trials=8, network=rl2.NetworkConfig(hidden=16, embed=16, head=16), device="cpu")


def rows(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if not name.startswith("time/")} for row in lines]


def both(tmp_path, config, benchmark, seeds=(3, 5, 8), every=1):
    """The same seeds one by one, and together."""
    for seed in seeds:
        rl2.train(benchmark, config, seed=seed, run=Run(tmp_path / f"{seed}", show=False, checkpoint_every=every))
    runs = [Run(tmp_path / f"together-{seed}", show=False, checkpoint_every=every) for seed in seeds]
    return rl2.train_seeds(benchmark, config, seeds=seeds, runs=runs)


@pytest.mark.parametrize("id", ["GridSwitch-v0", "PointRobot-v0"])
def test_one_update_of_all_seeds_is_each_seeds_update(tmp_path, id):
    ticks = 60 if id == "GridSwitch-v0" else 40
    config = rl2.Config(frames=ticks * 8, trials=8, network=SMALL.network, device="cpu")
    both(tmp_path, config, id)
    for seed in (3, 5, 8):
        one, other = (load_checkpoint(tmp_path / name) for name in (f"{seed}", f"together-{seed}"))
        assert one.tensors.keys() == other.tensors.keys() and one.state["scale"] == other.state["scale"]
        for name, tensor in one.tensors.items():
            assert torch.allclose(tensor, other.tensors[name], atol=1e-5), name
        (row,), (also,) = rows(tmp_path / f"{seed}"), rows(tmp_path / f"together-{seed}")
        assert row.keys() == also.keys()
        assert row["return"] == pytest.approx(also["return"]), "the trials are not the same"
        assert all(row[name] == pytest.approx(also[name], abs=1e-5) for name in row), (row, also)


def test_seeds_that_were_stopped_together_go_on_together(tmp_path):
    seeds, half = (1, 2), rl2.Config(**{**vars(SMALL), "frames": 60 * 8 * 4})

    def runs(name):
        return [Run(tmp_path / f"{name}{seed}", show=False, checkpoint_every=2) for seed in seeds]

    rl2.train_seeds("GridSwitch-v0", half, seeds=seeds, runs=runs("whole"))
    parted = runs("parted")
    parted[0].request_stop()
    with pytest.raises(Stopped):
        rl2.train_seeds("GridSwitch-v0", half, seeds=seeds, runs=parted)
    assert [load_checkpoint(tmp_path / f"parted{seed}").iteration for seed in seeds] == [1, 1]
    for run in parted:
        run.close()
    rl2.train_seeds("GridSwitch-v0", half, seeds=seeds, runs=runs("parted"))
    for seed in seeds:
        one, other = (load_checkpoint(tmp_path / f"{name}{seed}") for name in ("whole", "parted"))
        assert all(torch.equal(tensor, other.tensors[name]) for name, tensor in one.tensors.items())


def test_seeds_at_different_iterations_are_refused(tmp_path):
    rl2.train("GridSwitch-v0", SMALL, seed=1, run=Run(tmp_path / "1", show=False, checkpoint_every=1))
    runs = [Run(tmp_path / name, show=False) for name in ("1", "2")]
    with pytest.raises(ValueError, match=r"different iterations \(0, 3\)"):
        rl2.train_seeds("GridSwitch-v0", SMALL, seeds=(1, 2), runs=runs)


def test_each_seed_is_clipped_by_its_own_norm():
    torch.manual_seed(0)
    members = [nn.Linear(3, 2) for _ in range(2)]
    stack, x = Stack(members, Device()), torch.randn(2, 5, 3) * torch.tensor([1.0, 100.0])[:, None, None]
    sgd = torch.optim.SGD(stack.parameters.values(), lr=1.0)
    norm = stack.descend(stack.call(lambda network, x: (network(x) ** 2).mean(), x), sgd, 0.5)
    stack.write_back()
    torch.manual_seed(0)
    for index, member in enumerate([nn.Linear(3, 2) for _ in range(2)]):
        (member(x[index]) ** 2).mean().backward()
        alone = nn.utils.clip_grad_norm_(member.parameters(), 0.5)
        assert alone == pytest.approx(float(norm[index]), rel=1e-5)
        for parameter, learned in zip(member.parameters(), members[index].parameters(), strict=True):
            assert torch.allclose(parameter - parameter.grad, learned, atol=1e-5)
