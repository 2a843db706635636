import pytest

from metabench.sweep import Job


@pytest.fixture
def study():
    """Makes a job of a function in `sweep_steps`."""

    def make(function, seed=0, **arguments):
        settings = {"function": f"sweep_steps:{function}"} | ({"arguments": arguments} if arguments else {})
        return Job("study", settings, seed)

    return make
