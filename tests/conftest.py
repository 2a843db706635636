"""Benchmarks that come by the dozen are tested one by one in the slow suite; the fast one takes a few of them."""

import pytest

MANY, FEW = "MetaWorld-", {"MetaWorld-DrawerOpen-v0"}
LIGHT = {"test_frozen_tables_keep_their_digests", "test_gymnasium_spec_is_json"}  # milliseconds each


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        id = item.callspec.params.get("id") if hasattr(item, "callspec") else None
        if isinstance(id, str) and id.startswith(MANY) and id not in FEW and item.originalname not in LIGHT:
            item.add_marker(pytest.mark.slow)
