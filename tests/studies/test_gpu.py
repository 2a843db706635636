"""The GPU study on the CPU: a graph's numbers are the eager ones, and nothing is left behind on another device."""

import pytest
import torch
from metabench_agents.parts.device import Device

from studies.gpu.works import CHECKED, SMALL, learned


@pytest.mark.parametrize("name", CHECKED)
def test_captured_updates_learn_what_eager_ones_do(name):
    """Nine updates each, dropout and seeds included."""
    (told, eager), (also, captured) = (
        learned(CHECKED[name], Device("cpu", form=form), SMALL) for form in ("eager", "captured")
    )
    assert torch.allclose(eager, captured, atol=1e-5), float((eager - captured).abs().max())
    assert told.keys() == also.keys()
    assert all(told[n] == pytest.approx(also[n], rel=1e-3, abs=1e-4) for n in told)


@pytest.mark.parametrize("name", CHECKED)
def test_nothing_stays_behind_on_the_cpu(name):
    """On a device without numbers ("meta") an update that mixes devices fails, as it would on a GPU."""
    made = CHECKED[name](Device("meta"), SMALL)
    assert {tensor.device.type for tensor in made.tensors()} == {"meta"}
    try:
        made.step()
    except (RuntimeError, NotImplementedError) as error:
        assert "item()" in str(error) and "PPO" in name, error  # its metrics are read, at the very end
