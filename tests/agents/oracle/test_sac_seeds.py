"""The soft actor-critic of several seeds at once, and as a graph: the numbers of the single, eager one."""

import pytest
import torch
from metabench_agents.oracle import sac_oracle
from metabench_agents.parts.device import Device
from metabench_agents.parts.fast.sac import SAC, SACBatch, SACConfig
from metabench_agents.parts.run import Run, load_checkpoint

SMALL = sac_oracle.Config(
    frames=20 * 4 * 2, slots=4, updates=1, sac=SACConfig(hidden=8, batch=16), stage_every=5, device="cpu"
)


def test_seeds_together_are_the_single_runs(tmp_path):
    """One random episode and one with an update after each of its steps; numbers within what 20 updates round to."""
    seeds = (3, 5)
    for seed in seeds:
        sac_oracle.train("PointRobot-v0", SMALL, seed=seed, run=Run(tmp_path / f"{seed}", show=False))
    runs = [Run(tmp_path / f"together-{seed}", show=False) for seed in seeds]
    sac_oracle.train_seeds("PointRobot-v0", SMALL, seeds=seeds, runs=runs)
    for seed in seeds:
        one, other = (load_checkpoint(tmp_path / name) for name in (f"{seed}", f"together-{seed}"))
        assert one.state["written"] == other.state["written"] and one.tensors.keys() == other.tensors.keys()
        for name, tensor in one.tensors.items():
            assert torch.allclose(tensor.float(), other.tensors[name].float(), atol=2e-4), name


def batch(generator, size=16):
    shapes = ((size, 5), (size, 3), (size,), (size, 5))
    drawn = [torch.randn(shape, generator=generator) for shape in shapes]
    return SACBatch(drawn[0], torch.tanh(drawn[1]), drawn[2], drawn[3], torch.zeros(size))


def test_one_update_of_seeds_is_each_ones():
    from metabench_agents.parts.fast.sac import SeedSAC

    config, g = SACConfig(hidden=8, batch=16), torch.Generator().manual_seed(0)
    alone, members = ([SAC(5, 3, config, torch.Generator().manual_seed(i)) for i in range(3)] for _ in range(2))
    together = SeedSAC(members)
    batches, drawn = [batch(g) for _ in range(3)], torch.randn(3, 2, 16, 3, generator=g)
    together.step(SACBatch(*(torch.stack(column) for column in zip(*batches, strict=True))), drawn)
    together.write_back()
    for one, member, own, noise in zip(alone, members, batches, drawn, strict=True):
        one.step(own, noise)
        for name, tensor in one.tensors().items():
            assert torch.allclose(tensor, member.tensors()[name], atol=1e-5), name


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_captured_update_is_the_eager_one(precision):
    """Ten updates on new batches with new noise: what a graph may not freeze."""
    made = []
    for form in ("eager", "captured"):
        one = SAC(5, 3, SACConfig(hidden=8, batch=16), torch.Generator().manual_seed(0), Device("cpu", precision, form))
        generator = torch.Generator().manual_seed(5)
        for _ in range(10):
            one.observe(torch.randn(7, 5, generator=generator))
            metrics = one.update(batch(generator), generator)
        made.append((one.tensors(), metrics, [one.act(torch.ones(4, 5), generator) for _ in range(5)]))
    (eager, told, acted), (captured, also, replayed) = made
    assert all(torch.allclose(tensor, captured[name], atol=1e-5) for name, tensor in eager.items())
    assert all(torch.allclose(value, also[name], atol=1e-5) for name, value in told.items())
    assert torch.allclose(torch.stack(acted), torch.stack(replayed), atol=1e-5)
    assert torch.stack(replayed).std(0).min() > 0, "replays repeat their noise"


def test_a_captured_run_learns_what_an_eager_one_does(tmp_path):
    from dataclasses import replace

    for form in ("eager", "captured"):
        config = replace(SMALL, form=form, updates=2)
        sac_oracle.train("PointRobot-v0", config, seed=1, run=Run(tmp_path / form, show=False))
    one, other = (load_checkpoint(tmp_path / form).tensors for form in ("eager", "captured"))
    assert torch.equal(one["replay/rows"][:80], other["replay/rows"][:80])
    assert not torch.equal(one["learner/0"], torch.zeros_like(one["learner/0"]))
