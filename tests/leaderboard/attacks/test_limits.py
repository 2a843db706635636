"""What an entry costs its verifier is in proportion to its bytes, and to what its board allows."""

import io
import json
import resource
import shutil
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from forging import about, board, edit_header, edit_result, entrants, honest, reseal, write_boards

from metabench.evaluation.traces import Trace
from metabench.leaderboard.submit import submit
from metabench.leaderboard.verify import verify
from metabench.npz import RATIO, SMALL, SafeNpz, pack
from metabench.runs import policy_sha256

ID = "GridNavigation-v0"
MEASURE = """
import resource, sys
from pathlib import Path
from metabench.leaderboard.records import read_boards
from metabench.leaderboard.verify import verify
folder = Path(sys.argv[1])
boards = read_boards(folder.parents[2] / "boards.toml")
verify(folder.parent / "nothing", boards)
import metabench
metabench.make_vec(sys.argv[2], 2).reset(seed=0)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(verify(folder, boards).fault)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("limits") / "boards"
    return honest(root, "grid", ID, repeats=1)


@pytest.fixture
def entry(made, tmp_path):
    folder, boards = made
    shutil.copytree(folder.parents[2], tmp_path / "boards")
    return tmp_path / "boards" / folder.relative_to(folder.parents[2]), boards


def arrays_of(folder):
    with np.load(folder / "traces" / "run_000.npz", allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def many_episodes(folder):
    """The trace's own header tells of a million episodes a trial, and has them."""
    arrays = arrays_of(folder)
    header = json.loads(arrays["header"].tobytes())
    header["protocol"]["episodes"] = 2**20
    arrays["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
    arrays["lengths"] = np.ones((25, 2**20), np.uint8)
    (folder / "traces" / "run_000.npz").write_bytes(pack(arrays))


def wide_checkpoints(folder):
    arrays = arrays_of(folder)
    name = next(name for name in arrays if name.startswith("checkpoint."))
    arrays[name] = np.zeros((len(arrays[name]), 200_000), np.int64 if arrays[name].dtype.kind in "iu" else float)
    (folder / "traces" / "run_000.npz").write_bytes(pack(arrays))


def wide_actions(folder):
    arrays = arrays_of(folder)
    arrays["actions"] = np.zeros((len(arrays["actions"]), 50_000))
    (folder / "traces" / "run_000.npz").write_bytes(pack(arrays))


def many_members(folder):
    with zipfile.ZipFile(folder / "traces" / "run_000.npz", "a", zipfile.ZIP_DEFLATED) as file:
        content = io.BytesIO()
        np.lib.format.write_array(content, np.zeros(2**20))
        for number in range(20):
            file.writestr(f"checkpoint.x{number}.npy", content.getvalue())


def nested_returns(folder):
    edit_result(folder, lambda told: told["results"][0].update(returns=[[[0.0] * 4]] * 100_000))


BOMBS = {
    many_episodes: "was played with episodes 1048576",
    wide_checkpoints: f"more than {RATIO} times as many are not read",
    wide_actions: f"more than {RATIO} times as many are not read",
    many_members: "the episodes' lengths ask for|times as many are not read",
    nested_returns: "has 100000 tasks",
}


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured as Linux tells it")
@pytest.mark.parametrize("bomb", BOMBS, ids=lambda bomb: bomb.__name__)
def test_memory_is_in_proportion_to_an_entrys_bytes(entry, bomb):
    import re

    folder, _ = entry
    bomb(folder)
    folder = reseal(folder)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert size < 2_500_000
    ran = subprocess.run([sys.executable, "-c", MEASURE, str(folder), ID], capture_output=True, text=True)
    fault, kilobytes = ran.stdout.strip().split("\n")
    assert re.search(BOMBS[bomb], fault), fault
    assert int(kilobytes) * 1024 < 2 * RATIO * size + 64 * SMALL, f"{kilobytes} kB for {size} bytes"


def test_an_archive_may_unpack_to_so_many_times_its_size(tmp_path):
    path = tmp_path / "x.npz"
    path.write_bytes(pack({"small": np.zeros(10), "large": np.zeros(2**21)}))
    file = SafeNpz(path)
    assert file.read("small").sum() == 0  # what is small costs nothing
    with pytest.raises(ValueError, match="times as many are not read"):
        file.read("large")
    path.write_bytes(pack({"large": np.random.default_rng(0).normal(size=2**18)}))
    assert SafeNpz(path).read("large").shape == (2**18,)


def test_what_a_header_counts_is_compared_before_it_is_read(entry, monkeypatch):
    folder, boards = entry
    edit_header(folder, lambda header: header["protocol"].update(episodes=10**9))
    monkeypatch.setattr(Trace, "load", lambda *_: pytest.fail("it was read"))
    assert "was played with episodes 1000000000" in verify(reseal(folder), boards).fault


def large_policy(size):
    head = json.dumps({"w": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}).encode()
    own = []
    for seed, entrant in enumerate(entrants(ID, 2)):
        data = np.random.default_rng(seed).normal(size=size // 4).astype("<f4").tobytes()
        files = {"policy.safetensors": struct.pack("<Q", len(head)) + head + data}
        own.append(entrant._replace(policy=files, sha256=policy_sha256(files)))
    return own


def test_a_board_bounds_the_policies(tmp_path):
    boards = write_boards(tmp_path, [board("grid", ID, repeats=1, max_policy_bytes=100_000)])
    with pytest.raises(ValueError, match=r"the policy of run 0 has 200,0.. bytes, more than the 100,000 of the board"):
        submit(boards["grid"], large_policy(200_000), about(), tmp_path)
    assert verify(submit(boards["grid"], large_policy(80_000), about(), tmp_path), boards).accepted


def hostile_entry(root, config, state=None, iteration=3):
    """An entry of RL2 whose settings and weights are as one likes."""
    safetensors = pytest.importorskip("safetensors.numpy")
    boards = write_boards(root, [board("switch", "GridSwitch-v0", repeats=1)])
    own = []
    for seed, entrant in enumerate(entrants("GridSwitch-v0", 2)):
        record = {"agent": "rl2", "benchmark": "GridSwitch-v0", "seed": seed, "protocol": "slots-2", "config": config}
        weights = {"network/x": np.random.default_rng(seed).normal(size=50).astype(np.float32)}
        tensors = safetensors.save(weights, metadata={"state": json.dumps(state or {"iteration": iteration})})
        files = {"config.json": json.dumps(record).encode(), "policy.safetensors": tensors}
        own.append(entrant._replace(policy=files, sha256=policy_sha256(files)))
    return submit(boards["switch"], own, about(agent="rl2", plugin="rl2"), root), boards


HOSTILE = {
    "a network larger than any memory": {"network": {"hidden": 10**7}},
    "a size below nothing": {"network": {"hidden": -5}},
    "a size that is no number": {"network": {"hidden": "x"}},
    "settings that it does not have": {"evil": 1},
    "no settings that fit": {"network": [1]},
    "weights of something else": {},
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_policies_are_refused_in_one_sentence(tmp_path, kind):
    folder, boards = hostile_entry(tmp_path, HOSTILE[kind])
    verdict = verify(folder, boards, rerun_seed=3)
    words = ("the policy cannot be loaded", "the policies cannot be played again")
    assert not verdict.accepted and verdict.fault.startswith(words) and "\n" not in verdict.fault, verdict.fault
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert used < 8 * 2**20, "it was played in a process of its own"
