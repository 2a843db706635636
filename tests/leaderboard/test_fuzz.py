"""Fuzzing: no mutated submission makes the verifier stumble, and none that says anything else is accepted.

A mutation may leave what a submission says as it was (a byte of a zip file's dates), or change an action that changes
nothing (an episode's last, where no reward is near). So the rule is: whatever is accepted has the original's scores
exactly, and its rewards within the tolerance of a replay; and what else decides a rank (track, runs, steps, test tasks,
name, version) is the original's too, or the entry is no longer signed by its author, so that it cannot stand under
their name.
"""

import contextlib
import io
import json
import random
import shutil
import zipfile

import numpy as np
import pytest
from forging import honest, reseal

from metabench.evaluation.traces import Trace
from metabench.leaderboard.folder import Folder
from metabench.leaderboard.names import NOBODY, owner_of
from metabench.leaderboard.replay import TOLERANCE
from metabench.leaderboard.verify import verify
from metabench.npz import pack

TRACE = "traces/run_000.npz"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder, boards = honest(tmp_path_factory.mktemp("fuzz") / "boards", "grid", "SparsePointRobot-v0", runs=1)
    return folder, boards, evidence(folder)


def evidence(folder):
    return Folder(folder).results(), Trace.load(folder / TRACE)


def told(folder):
    """What beside the scores decides where an entry is ranked."""
    s = Folder(folder).submission()
    steps = (s.training.env_steps, [name for name in s.files if name.startswith("training/")])
    return s.board, s.agent, s.version, s.track, s.trains, s.test_tasks, steps, len(s.runs), s.plugin


def same(before, after):
    """Whether two submissions have the same scores, from the same rewards."""
    (results, trace), (other_results, other) = before, after
    return (
        [r.returns for r in results.results] == [r.returns for r in other_results.results]
        and np.array_equal(trace.lengths, other.lengths)
        and np.abs(trace.rewards - other.rewards).max() <= 2 * TOLERANCE
    )


SPECIAL = [np.nan, np.inf, -np.inf, 0, -1, 1, 2**31, 2**62, -(2**63), 1e308, 1e-308, 0.1]


def mutate_array(rng, array):
    """Another array: changed numbers, another shape, another type."""
    kind = rng.randrange(9)
    array = array.copy()
    if kind <= 3 and array.size:  # numbers
        flat = array.reshape(-1)
        for _ in range(rng.choice([1, 1, 2, 20])):
            place = rng.randrange(len(flat))
            with np.errstate(all="ignore"):
                if kind == 0:
                    value = np.array(rng.choice(SPECIAL))
                    flat[place] = value.astype(array.dtype) if np.isfinite(value) or array.dtype.kind == "f" else 1
                elif kind == 1 and array.dtype.kind == "f":
                    flat[place] += rng.choice([1e-5, -1e-5, 1e-3, 1.0]) * max(1.0, abs(float(flat[place])))
                else:
                    raw = bytearray(flat[place].tobytes())
                    raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
                    flat[place] = np.frombuffer(bytes(raw), array.dtype)[0] if array.dtype != bool else not flat[place]
    elif kind == 4 and len(array) > 1:  # rows dropped, doubled, swapped
        i, j = rng.randrange(len(array)), rng.randrange(len(array))
        array = rng.choice(
            [np.delete(array, i, 0), np.insert(array, i, array[j], 0), array[::-1], np.roll(array, 1 + i, 0)]
        )
    elif kind == 5:
        array = array.reshape(-1)[: rng.randrange(array.size + 1)]
    elif kind == 6:
        array = array[None] if rng.random() < 0.5 else array[..., None]
    elif kind == 7:
        with np.errstate(all="ignore"):
            array = array.astype(rng.choice([np.float16, np.float32, np.int8, np.uint64, bool, ">f8", "<i4"]))
    else:
        array = np.zeros((0,) * max(1, array.ndim), array.dtype)
    return array


def mutate_arrays(rng, content):
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    name = rng.choice(sorted(arrays))
    action = rng.random()
    if action < 0.05:
        del arrays[name]
    elif action < 0.1:
        arrays[rng.choice(["extra", "checkpoint.extra", "successes"])] = arrays[name]
    elif action < 0.2:
        other = rng.choice(sorted(arrays))
        arrays[name], arrays[other] = arrays[other], arrays[name]
    else:
        arrays[name] = mutate_array(rng, arrays[name])
    return pack(arrays)


def mutate_bytes(rng, content):
    raw = bytearray(content)
    for _ in range(rng.choice([1, 1, 3, 30])):
        kind = rng.randrange(3)
        place = rng.randrange(len(raw)) if raw else 0
        if kind == 0 and raw:
            raw[place] = rng.randrange(256)
        elif kind == 1:
            raw[place : place + rng.choice([1, 8, 200])] = b""
        else:
            raw[place:place] = rng.randbytes(rng.choice([1, 8, 200]))
    return bytes(raw)


def mutate_json(rng, content):
    """Another value, key or shape somewhere in the tree."""
    record = json.loads(content)
    node, path = record, []
    while isinstance(node, dict | list) and node and rng.random() < 0.85:
        key = rng.choice(sorted(node)) if isinstance(node, dict) else rng.randrange(len(node))
        path.append((node, key))
        node = node[key]
    if not path:
        return rng.choice([b"[]", b"{}", b"null", b"1e999", b'"x"', b""])
    parent, key = path[-1]
    action = rng.randrange(5)
    old = parent[key]
    if action == 0:
        del parent[key]
    elif action == 1 and isinstance(old, int | float) and not isinstance(old, bool):
        parent[key] = old + rng.choice([1, -1, 0.5, 1e-3, 1e9])
    elif action == 2 and isinstance(parent, list):
        parent.insert(rng.randrange(len(parent) + 1), rng.choice(parent))
    elif action == 3 and isinstance(old, str):
        parent[key] = rng.choice(["", "../" + old, old[:-1], old + "x", old.upper() + "0", "a" * 5000, "\u0000"])
    else:
        values = [None, True, -1, 10**30, 1e308, "", "x", [], {}, [[]], {"a": {"b": []}}, float("nan"), "../../etc"]
        parent[key] = rng.choice(values)
    return json.dumps(record).encode()


def mutate_files(rng, folder):
    names = list(Folder(folder).names)
    name = rng.choice(names)
    kind = rng.randrange(5)
    if kind == 0:
        (folder / name).unlink()
    elif kind == 1:
        (
            folder / rng.choice(["x.py", "traces/run_001.npz", "policies/run_000/x", "traces/../y", ".hidden"])
        ).write_bytes(b"x")
    elif kind == 2:
        (folder / name).unlink()
        (folder / name).symlink_to(rng.choice(["/etc/passwd", str(folder / names[0])]))
    elif kind == 3:
        shutil.copy(folder / name, folder / "traces" / "run_001.npz")
    else:
        with zipfile.ZipFile(folder / TRACE, "a") as file:
            file.writestr(rng.choice(["../x.npy", "y.npy", "a/b.npy"]), b"\x93NUMPY\x01\x00")


def mutate(rng, folder):
    """Changes one thing about the submission; says what."""
    kind = rng.choice(["arrays"] * 6 + ["json"] * 5 + ["bytes"] * 2 + ["files"])
    if kind == "arrays":
        path = folder / TRACE
        path.write_bytes(mutate_arrays(rng, path.read_bytes()))
    elif kind == "files":
        mutate_files(rng, folder)
    else:
        name = rng.choice(
            ["submission.json", "result.json", "result.json", TRACE if kind == "bytes" else "result.json"]
        )
        path = folder / name
        path.write_bytes((mutate_json if kind == "json" else mutate_bytes)(rng, path.read_bytes()))
    return kind


def fuzz(original, root, seeds):
    folder, boards, before = original
    accepted, owner = 0, owner_of(Folder(folder).submission())
    assert owner != NOBODY
    for seed in seeds:
        rng = random.Random(seed)
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(folder.parents[2], root)
        forged = root / folder.relative_to(folder.parents[2])
        kind = mutate(rng, forged)
        if rng.random() < 0.8 and not any(path.is_symlink() for path in forged.rglob("*")):
            # Where its submission.json can no longer be made to fit, it is verified as it is.
            with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError, OSError):
                forged = reseal(forged)
        verdict = verify(forged, boards)
        assert verdict.fault or verdict.tier == "claimed" or verdict.accepted
        assert "it cannot be verified" not in verdict.fault or "Error" in verdict.fault, (seed, verdict.fault)
        if verdict.accepted:
            accepted += 1
            assert same(before, evidence(forged)), f"seed {seed}: the forgery by {kind} was accepted"
            if told(forged) != told(folder):
                assert owner_of(Folder(forged).submission()) != owner, f"seed {seed}: it still passes for its author's"
    return accepted


def test_fuzzed_submissions(original, tmp_path):
    assert fuzz(original, tmp_path / "x", range(300)) < 100


@pytest.mark.slow
def test_many_fuzzed_submissions(original, tmp_path):
    fuzz(original, tmp_path / "x", range(300, 2300))
