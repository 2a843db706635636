"""Speed of the leaderboards: what evidence costs an evaluation, verification against raw MuJoCo, the site.

Every limit is a ratio against a reference timed in the same run. Wants a quiet machine with two cores.
"""

import json
import shutil
import time

import numpy as np
import pytest
import torch
from forging import about, board, write_boards
from interleaving import interleaved
from metabench_agents.parts.layers import linear
from test_mujoco_speed import CORES, raw

import metabench
from metabench.evaluation.evaluate import evaluate_traced
from metabench.evaluation.stats import iqm, stratified_bootstrap
from metabench.leaderboard.folder import Folder
from metabench.leaderboard.ranking import read_entries
from metabench.leaderboard.records import BOARDS, Submission, Training, Verification, dump, read_boards
from metabench.leaderboard.replay import replay
from metabench.leaderboard.site.build import build
from metabench.leaderboard.submit import open_yardstick, submit
from metabench.leaderboard.verify import verify
from metabench.plugins import load_plugin

pytestmark = pytest.mark.benchmark
PHYSICS = "CheetahVel-v0"
ENTRIES = 1000


def entry(root, id, runs=5, name="random"):
    boards = read_boards(root / BOARDS)
    story = about(agent=name, title=name, trains=False, plugin=name, training=Training(env_steps=0))
    return submit(boards[id], open_yardstick(name, boards[id], runs), story, root), boards


class Policy:
    """A 256-256 network, as learned agents have; untrained, which costs the same."""

    name = "policy"

    def __init__(self, columns, actions):
        self.net = torch.nn.Sequential(
            linear(columns, 256),
            torch.nn.Tanh(),
            linear(256, 256),
            torch.nn.Tanh(),
            linear(256, actions),
            torch.nn.Tanh(),
        )

    def begin(self, num_trials):
        return None

    @torch.inference_mode()
    def act(self, step, belief):
        return self.net(torch.from_numpy(step.observation).float()).numpy(), belief


def test_the_cost_of_evidence(benchmark, tmp_path):
    """With a network that chooses the actions; and with a random agent, beside which only the physics takes time."""
    env = metabench.make_vec(PHYSICS, 1)
    agents = {
        "policy": Policy(env.single_observation_space.shape[0], env.single_action_space.shape[0]),
        "random": load_plugin("random").build(PHYSICS, "test", 0),
    }
    runs = {}
    for name, agent in agents.items():
        runs[f"{name}, plain"] = lambda agent=agent: metabench.evaluate(agent, PHYSICS)
        runs[f"{name}, recorded"] = lambda agent=agent: evaluate_traced(agent, metabench.standard_protocol(PHYSICS))
        runs[f"{name}, written"] = lambda agent=agent: metabench.evaluate(agent, PHYSICS, trace=tmp_path / "trace.npz")
    seconds = interleaved(runs, rounds=15)
    ratios = {n: s / seconds[n.partition(",")[0] + ", plain"] for n, s in seconds.items() if "plain" not in n}
    benchmark.extra_info |= {name: round(ratio, 3) for name, ratio in ratios.items()}
    benchmark.pedantic(runs["policy, written"], rounds=3)
    print(f"\ntime of an evaluation with evidence, of one without: {benchmark.extra_info}")
    assert ratios["policy, written"] < 1.10 and ratios["random, recorded"] < 1.10
    assert ratios["random, written"] < 1.25


def test_replay_against_raw_physics(benchmark):
    """Of a C loop of `mj_step` on every core: the bare replay, then the whole verification of a submission."""
    _, trace = evaluate_traced(load_plugin("random").build(PHYSICS, "test", 0), metabench.standard_protocol(PHYSICS))
    steps = len(trace.rewards)
    family = metabench.spec(PHYSICS).family()
    family.threads = CORES
    family._steppers.clear()
    seconds = interleaved({"raw": raw(PHYSICS, steps), "replay": lambda: replay(trace)}, rounds=9)
    ratio = seconds["raw"] / seconds["replay"] / CORES
    benchmark.extra_info |= {"of raw on all cores": round(ratio, 2), "steps/s": round(steps / seconds["replay"])}
    benchmark.pedantic(lambda: replay(trace), rounds=3)
    print(f"\nreplay of {steps} steps: {benchmark.extra_info}")
    assert ratio >= 0.5


def test_verification_of_120_000_steps(benchmark, tmp_path):
    """15 runs of 8,000 steps, from its files to the verdict."""
    write_boards(tmp_path, [board("cheetah", PHYSICS)])
    folder, boards = entry(tmp_path, "cheetah", runs=15)
    family = metabench.spec(PHYSICS).family()
    family.threads = CORES
    family._steppers.clear()
    steps = 120_000
    assert verify(folder, boards).accepted
    seconds = interleaved({"raw": raw(PHYSICS, steps), "verify": lambda: verify(folder, boards)}, rounds=2)
    ratio = seconds["raw"] / seconds["verify"] / CORES
    benchmark.extra_info |= {"of raw on all cores": round(ratio, 2), "seconds": round(seconds["verify"], 1)}
    benchmark.pedantic(lambda: verify(folder, boards), rounds=1)
    print(f"\nverification of {steps} steps: {benchmark.extra_info}")
    assert ratio >= 0.45


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A thousand entries of five runs on PointRobot, with their traces: all that is there is read and compared."""
    root = tmp_path_factory.mktemp("many")
    boards = write_boards(root, [board(f"grid-{k}", "PointRobot-v0") for k in range(5)])
    for id in boards:
        folder, _ = entry(root, id)
        folder = folder.rename(root / f".{id}")
        told = json.loads((folder / "submission.json").read_text())
        for k in range(ENTRIES // len(boards)):
            submission = Submission.model_validate({**told, "agent": f"agent-{id}-{k}", "title": f"Agent {k}"})
            target = root / submission.place
            shutil.copytree(folder, target)
            (target / "submission.json").write_bytes(dump(submission))
            sha = Folder(target).sha256()
            found = Verification(submission_sha256=sha, tier="replayed", checks=(), versions={})
            (target / "verification.json").write_bytes(dump(found.sealed()))
        shutil.rmtree(folder)
    return root


def test_a_site_of_a_thousand_entries(benchmark, many, tmp_path):
    """Against what cannot be saved: reading the records and drawing the bootstrap intervals."""
    boards = read_boards(many / BOARDS)
    start = time.perf_counter()
    entries = read_entries(many, boards)
    rng = np.random.default_rng(0)
    for _ in entries:
        stratified_bootstrap(rng.random((5, 5)), rng, iqm)
    needed = time.perf_counter() - start
    start = time.perf_counter()
    built = benchmark.pedantic(lambda: build(many, boards, tmp_path / "site"), rounds=1)
    seconds = time.perf_counter() - start
    assert built.entries == ENTRIES
    benchmark.extra_info |= {"seconds": round(seconds, 1), "times reading and bootstrap": round(seconds / needed, 2)}
    print(f"\nsite of {ENTRIES} entries: {benchmark.extra_info}")
    assert seconds < 3 * needed


def test_the_overview_of_a_thousand_entries_loads(benchmark, many, tmp_path):
    """In chromium, from its start to the load event, against an empty page."""
    playwright = pytest.importorskip("playwright.sync_api", reason="loading needs the package playwright")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("loading needs chromium")
    build(many, read_boards(many / BOARDS), tmp_path / "site")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu", "--disable-quic"])
        page = browser.new_page()
        seconds = {}
        for name in ("index.html", "boards/grid-0.html", "entries.html"):
            times = []
            for _ in range(5):
                page.goto((tmp_path / "site" / name).as_uri(), wait_until="load")
                times.append(page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd") / 1000)
            seconds[name] = float(np.median(times))
        browser.close()
    benchmark.extra_info |= {name: round(s, 3) for name, s in seconds.items()}
    benchmark.pedantic(lambda: None, rounds=1)
    print(f"\nseconds to the load event: {benchmark.extra_info}")
    size = (tmp_path / "site" / "index.html").stat().st_size
    assert size < 100_000 and seconds["index.html"] < 0.5 * seconds["entries.html"] + 0.5
