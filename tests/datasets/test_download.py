"""Downloads from real servers on the loopback: ranges, cuts, errors, damage, a full disk, kills, two at once."""

import http.server
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import metabench
from metabench.datasets import download
from metabench.datasets.download import fetch, mirror_index, publish
from metabench.datasets.format import MANIFEST, STEPS, hash_file
from metabench.datasets.verify import verify

ID, KEY = "point-robot/mixed-v0", "point-robot/mixed-v0/train"


class Server(http.server.ThreadingHTTPServer):
    """Serves a folder, with ranges, and with faults: `plan` maps a file name to what its next requests meet."""

    daemon_threads = True

    def __init__(self, folder):
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.plan, self.requests, self.pace = folder, {}, [], 0.0
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def close(self):
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address):  # a client that was killed is no news
        pass


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        name = self.path.rpartition("/")[2]
        self.server.requests.append((name, self.headers.get("Range")))
        faults = self.server.plan.get(name, [])
        fault = faults.pop(0) if faults else None
        path = self.server.folder / self.path.lstrip("/")
        if isinstance(fault, int):
            return self.send_error(fault)
        if not path.is_file():
            return self.send_error(404)
        content = bytearray(path.read_bytes())
        if fault == "flip":
            content[len(content) // 2] ^= 4
        if fault == "longer":
            content += b"more"
        if fault == "truncate":
            content = content[: len(content) * 2 // 3]
        start = 0
        if self.headers.get("Range") and fault != "no ranges":
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                return self.send_error(416)
            self.send_response(206)
            shown = start + (7 if fault == "wrong range" else 0)
            self.send_header("Content-Range", f"bytes {shown}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        body = bytes(content[start:])
        if isinstance(fault, float):  # the connection breaks after this share of what is left
            body = body[: int(len(body) * fault)]
        block = 1 << 14
        for at in range(0, len(body), block):
            self.wfile.write(body[at : at + block])
            if self.server.pace:
                time.sleep(self.server.pace)
        if isinstance(fault, float):
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(download, "PAUSE", 0.01)
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv("METABENCH_MIRRORS", raising=False)


@pytest.fixture(scope="module")
def tree(sets, tmp_path_factory):
    """A published tree."""
    folder = tmp_path_factory.mktemp("tree")
    publish([sets / KEY, sets / "point-robot/mixed-v0/test"], folder)
    return folder


@pytest.fixture
def server(tree):
    one = Server(tree)
    yield one
    one.close()


def hashes(folder):
    return {path.name: hash_file(path) for path in sorted(folder.iterdir())}


def same(root, tree):
    """The split is here, whole and equal, and nothing else lies about."""
    folder = root / KEY
    assert hashes(folder) == hashes(tree / KEY) and not verify(folder)
    assert {p.name for p in folder.parent.iterdir()} <= {"train", ".train.lock"}


def test_a_plain_download_and_load(server, tree, tmp_path, monkeypatch):
    monkeypatch.setenv("METABENCH_DATA", str(tmp_path))
    monkeypatch.setenv("METABENCH_MIRRORS", server.url)
    data = metabench.load_dataset(f"metabench/{ID}")
    assert data.folder == tmp_path / KEY and len(data) == 450
    same(tmp_path, tree)
    count = len(server.requests)
    metabench.load_dataset(ID)
    assert len(server.requests) == count  # it is here: nobody is asked


def test_file_mirrors(tree, tmp_path):
    seen = []
    fetch(ID, root=tmp_path, mirror=tree.as_uri(), progress=lambda done, total: seen.append((done, total)))
    same(tmp_path, tree)
    assert seen[-1][0] == seen[-1][1] == mirror_index(tree.as_uri()).splits[KEY].bytes
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_hub_mirrors_ask_the_hub(server, tree, tmp_path, monkeypatch):
    """hf:// is the hub's own address of a dataset repository; here the hub is the loopback server."""
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub, "hf_hub_url", lambda repo, path, **k: f"{server.url}/{path}?{repo}-{k['revision']}")
    seen = []
    original = hub.hf_hub_url
    monkeypatch.setattr(hub, "hf_hub_url", lambda *a, **k: seen.append((a, k)) or original(*a, **k).partition("?")[0])
    fetch(ID, root=tmp_path, mirror="hf://lab/data@abc")
    same(tmp_path, tree)
    assert seen[0] == (("lab/data", "index.json"), {"repo_type": "dataset", "revision": "abc"})
    with pytest.raises(ValueError, match="names a dataset repository"):
        fetch(ID, root=tmp_path / "other", mirror="hf://lab")


def test_hub_addresses_are_the_hubs():
    pytest.importorskip("huggingface_hub")
    url, _ = download._address("hf://lab/data@v1/sets", "a b/steps.npy")
    assert url.endswith("/datasets/lab/data/resolve/v1/sets/a%20b/steps.npy")


@pytest.mark.parametrize("faults", [[0.3], [0.5, 0.5, 0.5], [0.0, 0.9], [0.1] * 8, [503, 0.5, 502, 429]])
def test_broken_transfers_go_on_where_they_were(server, tree, tmp_path, faults):
    server.plan[STEPS] = list(faults)
    fetch(ID, root=tmp_path, mirror=server.url)
    same(tmp_path, tree)
    ranges = [r for name, r in server.requests if name == STEPS]
    assert len(ranges) == len(faults) + 1
    starts = [int(r.removeprefix("bytes=").removesuffix("-")) if r else 0 for r in ranges]
    assert starts == sorted(starts) and (starts[-1] > 0 or faults == [0.0])


def test_a_server_without_ranges_starts_over(server, tree, tmp_path):
    server.plan[STEPS] = [0.6, "no ranges"]
    fetch(ID, root=tmp_path, mirror=server.url)
    same(tmp_path, tree)


@pytest.mark.parametrize(
    ("name", "fault", "words"),
    [
        (STEPS, [404], "HTTP 404"),
        (STEPS, [503] * 9, "HTTP 503"),
        (STEPS, ["flip"], "another sha256"),
        (STEPS, ["longer"], "longer than"),
        (STEPS, ["truncate"] * 9, "fewer bytes than are here"),
        (STEPS, [0.5, "wrong range"], "asked for the bytes from"),
        (MANIFEST, ["flip"], "not the one the index names"),
        (MANIFEST, [404] * 9, "HTTP 404"),
        ("index.json", ["truncate"], "no valid index.json"),
        ("index.json", [500] * 9, "HTTP 500"),
    ],
)
def test_one_bad_mirror_is_told_and_the_next_one_asked(server, tree, tmp_path, name, fault, words):
    server.plan[name] = list(fault)
    with pytest.raises(ValueError, match=words) as caught:
        fetch(ID, root=tmp_path, mirror=server.url)
    assert "metabench dataset generate metabench/point-robot/mixed-v0 --split train" in str(caught.value)
    assert not (tmp_path / KEY).exists()  # nothing half-done is visible
    server.plan[name] = list(fault)
    good = Server(tree)
    try:
        fetch(ID, root=tmp_path, mirror=[server.url, good.url])
    finally:
        good.close()
    same(tmp_path, tree)


def test_truncated_manifest_or_dead_server(server, tree, tmp_path):
    dead = Server(tree)
    dead.close()
    with pytest.raises(ValueError, match="refused"):
        fetch(ID, root=tmp_path, mirror=dead.url)
    fetch(ID, root=tmp_path, mirror=[dead.url, server.url])
    same(tmp_path, tree)


def test_leftovers_of_another_version_do_no_harm(server, tree, tmp_path):
    part = tmp_path / "point-robot/mixed-v0/.train.downloading"
    part.mkdir(parents=True)
    (part / f"{STEPS}.part").write_bytes(os.urandom(50_000))
    (part / "episodes.npy").write_bytes(b"old")
    (part / "states.npy.part").write_bytes(b"old")
    fetch(ID, root=tmp_path, mirror=server.url)
    same(tmp_path, tree)


def test_what_no_mirror_has(server, tmp_path):
    with pytest.raises(ValueError, match=r"it does not have grid-switch/expert-v0/test.*dataset generate"):
        fetch("grid-switch/expert-v0", "test", root=tmp_path, mirror=server.url)
    with pytest.raises(ValueError, match="no mirror is known"):
        fetch("grid-switch/expert-v0", "test", root=tmp_path)
    with pytest.raises(ValueError, match="must begin with https://"):
        fetch(ID, root=tmp_path, mirror="ftp://somewhere")


def test_a_mirror_cannot_swap_sets(sets, tmp_path):
    """Another set under the wanted name is refused, whatever the mirror's index says."""
    tree = tmp_path / "tree"
    publish([sets / KEY, sets / "point-robot/mixed-v0/test"], tree)
    shutil.rmtree(tree / KEY)
    shutil.copytree(tree / "point-robot/mixed-v0/test", tree / KEY)
    index = json.loads((tree / "index.json").read_text())
    index["splits"][KEY] = index["splits"]["point-robot/mixed-v0/test"]
    (tree / "index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"is metabench/point-robot/mixed-v0 \(test\)"):
        fetch(ID, root=tmp_path / "root", mirror=tree.as_uri())


def test_a_full_disk(server, tree, tmp_path):
    """A tmpfs that is too small: told before and during the transfer; with room, it goes on."""
    disk = tmp_path / "disk"
    disk.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(disk)], capture_output=True, text=True
    )
    if made.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {made.stderr.strip()}")
    try:
        with pytest.raises(ValueError, match="bytes free, metabench/point-robot/mixed-v0"):
            fetch(ID, root=disk, mirror=server.url)
        original = download.shutil.disk_usage
        download.shutil.disk_usage = lambda path: original("/")  # what others write meanwhile cannot be foreseen
        try:
            with pytest.raises(ValueError, match=r"is full.*it goes on"):
                fetch(ID, root=disk, mirror=server.url)
        finally:
            download.shutil.disk_usage = original
        assert not (disk / KEY).exists()
        kept = disk / "point-robot/mixed-v0/.train.downloading" / f"{STEPS}.part"
        assert kept.stat().st_size > 0
        subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
        server.requests.clear()
        fetch(ID, root=disk, mirror=server.url)
        same(disk, tree)
        assert dict(server.requests)[STEPS]  # by a range
    finally:
        subprocess.run(["umount", str(disk)], check=True)


CHILD = """
import sys
from pathlib import Path
from metabench.datasets.download import fetch
fetch("point-robot/mixed-v0", root=Path(sys.argv[2]), mirror=sys.argv[1])
"""


def child(server, root):
    return subprocess.Popen([sys.executable, "-c", CHILD, server.url, str(root)])


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_downloads_lose_nothing(server, tree, tmp_path, kills):
    server.pace = 0.03
    rng, got = np.random.default_rng(1), 0
    part = tmp_path / "point-robot/mixed-v0/.train.downloading"
    for _ in range(kills):
        one = child(server, tmp_path)
        begun = len(server.requests)
        while len(server.requests) == begun and one.poll() is None:  # the start of Python does not count
            time.sleep(0.01)
        time.sleep(rng.uniform(0.0, 0.3))
        os.kill(one.pid, signal.SIGKILL)
        if one.wait() == 0 or (tmp_path / KEY).exists():  # killed after it was done, before it ended
            break
        now = sum(path.stat().st_size for path in part.iterdir()) if part.exists() else 0
        assert now >= got  # nothing that arrived is lost
        got = now
    server.pace = 0.0
    assert child(server, tmp_path).wait() == 0
    same(tmp_path, tree)


def test_two_processes_download_once(server, tree, tmp_path):
    server.pace = 0.01
    both = [child(server, tmp_path) for _ in range(2)]
    assert [one.wait() for one in both] == [0, 0]
    same(tmp_path, tree)
    assert sum(name == STEPS for name, _ in server.requests) == 1


def test_publishing(sets, tree, copied, tmp_path):
    index = mirror_index(tree.as_uri())
    assert set(index.splits) == {KEY, "point-robot/mixed-v0/test"}
    assert publish([sets / KEY], tree) == index  # again: nothing changes
    (copied / STEPS).write_bytes(b"")
    with pytest.raises(ValueError, match="not sound"):
        publish([copied], tmp_path / "other")
    from metabench.datasets import generate

    other = generate(ID, "test", episodes=4, seed=5, root=tmp_path / "seed")
    with pytest.raises(ValueError, match="ids keep their content"):
        publish([other], tree)


def test_the_packaged_index_is_valid():
    assert download.packaged_index().schema_version == 1


NGINX = """
user root; daemon off; pid {tmp}/pid; error_log {tmp}/error.log; worker_processes 1;
events {{ worker_connections 32; }}
http {{ access_log off; client_body_temp_path {tmp}/b; proxy_temp_path {tmp}/p; fastcgi_temp_path {tmp}/f;
  uwsgi_temp_path {tmp}/u; scgi_temp_path {tmp}/s;
  server {{ listen 127.0.0.1:{port}; root {root}; }} }}
"""


@pytest.mark.skipif(shutil.which("nginx") is None or os.geteuid() != 0, reason="needs nginx, and root for its user")
def test_nginx_resumes(tree, tmp_path):
    """A server nobody here wrote: a part of the file is there already, the rest comes by a range."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    served, work = tmp_path / "served", tmp_path / "nginx"
    shutil.copytree(tree, served)
    work.mkdir()
    (work / "conf").write_text(NGINX.format(tmp=work, port=port, root=served))
    nginx = subprocess.Popen(["nginx", "-c", str(work / "conf"), "-p", str(work)], stderr=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}"
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        part = tmp_path / "root/point-robot/mixed-v0/.train.downloading"
        part.mkdir(parents=True)
        (part / f"{STEPS}.part").write_bytes((tree / KEY / STEPS).read_bytes()[:100_000])
        fetch(ID, root=tmp_path / "root", mirror=url)
        same(tmp_path / "root", tree)
        with pytest.raises(ValueError, match="does not have"):
            fetch("grid-switch/expert-v0", "test", root=tmp_path / "root", mirror=url)
    finally:
        nginx.terminate()
        nginx.wait()
