"""Benchmarks that come by the dozen are tested one by one in the slow suite; the fast one takes a few of them."""

import os
import signal
import tempfile
from pathlib import Path

import pytest

MANY, FEW = "MetaWorld-", {"MetaWorld-DrawerOpen-v0"}
LIGHT = {"test_frozen_tables_keep_their_digests", "test_gymnasium_spec_is_json"}  # milliseconds each


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        id = item.callspec.params.get("id") if hasattr(item, "callspec") else None
        if isinstance(id, str) and id.startswith(MANY) and id not in FEW and item.originalname not in LIGHT:
            item.add_marker(pytest.mark.slow)


def pytest_configure(config):
    """Entries that tests submit are signed by a key of the tests, not by that of who runs them.

    A shell has what it starts in the background ignore Ctrl-C, and whatever that starts; tests send it.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if not hasattr(config, "workerinput"):
        folder = tempfile.TemporaryDirectory(prefix="metabench-tests-")
        config.add_cleanup(folder.cleanup)
        os.environ["METABENCH_AUTHOR_KEY"] = str(Path(folder.name) / "author.key")
