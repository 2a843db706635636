"""What the pages say of metaworld-push is what its entries reached."""

import pytest

from studies.meta_dt.pushing import ENTRIES, NEAR, distances, pushed
from studies.tables import ROOT


def test_near_and_far_make_the_whole():
    near = (distances() < NEAR).mean()
    for entry in ENTRIES.values():
        told = pushed(entry)
        assert told.success == pytest.approx(near * told.near + (1 - near) * told.far)
    assert pushed(ENTRIES["the script"]).success == 1.0


def test_pages_say_how_many_succeed():
    told = {name: pushed(entry) for name, entry in ENTRIES.items()}
    shares = {name: [round(100 * share) for share in own[1:]] for name, own in told.items()}
    (_, near, far), (_, near_rl2, far_rl2) = shares["cloning"], shares["RL2"]
    pages = {name: " ".join((ROOT / "docs" / "agents" / name).read_text().split()) for name in ("rl2.md", "meta-dt.md")}
    assert f"({shares['RL2'][0]} and {shares['cloning'][0]} %; the script on all)" in pages["rl2.md"]
    assert f"cloning on {near} %" in pages["rl2.md"] and f"and {far} % of the others" in pages["rl2.md"]
    assert f"on {near_rl2} and {far_rl2} %" in pages["rl2.md"]
    words = f"cloning {shares['cloning'][0]} % ({near} % of the goals near the middle, {far} % of the others)"
    assert f"{words}, Meta-DT {shares['Meta-DT'][0]} %, DT {shares['DT'][0]} %" in pages["meta-dt.md"]
