"""Mirrors that lie, drip, lead astray or never end: the next one is asked, a token stays with its host."""

import contextlib
import hashlib
import json
import socket
import threading
import time

import pytest

from metabench.datasets import transfer
from metabench.datasets.download import INDEX, _address, fetch, mirror_index, publish
from metabench.datasets.format import MANIFEST, Manifest

ID, KEY = "point-robot/mixed-v0", "point-robot/mixed-v0/train"


class Raw(threading.Thread):
    """Answers every request by a function of its head, byte for byte."""

    def __init__(self, answer):
        super().__init__(daemon=True)
        self.answer, self.heads = answer, []
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.socket.getsockname()[1]}"

    def run(self):
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        with connection, contextlib.suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                head += connection.recv(4096)
            self.heads.append(head.decode())
            for part in self.answer(head.decode()):
                connection.sendall(part)

    def close(self):
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


@pytest.fixture
def raw():
    made = []

    def make(answer):
        made.append(Raw(answer))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    from metabench.datasets import download

    monkeypatch.setattr(download, "PAUSE", 0.01)
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv("METABENCH_MIRRORS", raising=False)


@pytest.fixture(scope="module")
def tree(sets, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tree")
    publish([sets / KEY], folder)
    return folder


def whole(content, *more):
    head = "\r\n".join(("HTTP/1.1 200 OK", f"Content-Length: {len(content)}", "Connection: close", *more, "", ""))
    return [head.encode() + content]


def serving(tree, **instead):
    """A mirror that has the tree, but for some files."""

    def answer(head):
        path = head.split(" ")[1].lstrip("/")
        name = path.rpartition("/")[2]
        if name in instead:
            return instead[name](head)
        return whole((tree / path).read_bytes()) if (tree / path).is_file() else [b"HTTP/1.1 404 no\r\n\r\n"]

    return answer


def index(tree, **changes):
    told = json.loads((tree / INDEX).read_text())
    for entry in told["splits"].values():
        entry.update(changes)
    return json.dumps(told).encode()


def deep(*_):
    return whole(b'{"manifest": ' + b"[" * 100_000 + b"]" * 100_000 + b"}")


def huge_number(*_):
    return whole(b'{"manifest": ' + b"9" * 10_000 + b"}")


def endless(*_):
    yield b"HTTP/1.1 200 OK\r\n\r\n"
    for _ in range(10_000):
        yield b" " * 65_536


def endless_head(*_):
    yield b"HTTP/1.1 200 OK\r\n"
    for number in range(10_000):
        yield f"X-{number}: y\r\n".encode()


def dripping_head(*_):
    for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n" * 100:
        yield bytes([byte])
        time.sleep(0.05)


def dripping(*_):
    yield b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"
    for _ in range(1000):
        yield b"x"
        time.sleep(0.05)


def leading(where):
    return lambda *_: [f"HTTP/1.1 302 Found\r\nLocation: {where}\r\nContent-Length: 0\r\n\r\n".encode()]


def nonsense(*_):
    return [b"\x00\xff\x1b[2J not http\r\n\r\n"]


def bad_reason(*_):
    return [b"HTTP/1.1 404 \x1b[31mred\r\nContent-Length: 0\r\n\r\n"]


HOSTILE = {
    "deep manifest": (MANIFEST, deep),
    "a number of many digits": (MANIFEST, huge_number),
    "an endless index": (INDEX, endless),
    "an endless head": (INDEX, endless_head),
    "a dripping head": (INDEX, dripping_head),
    "a dripping index": (INDEX, dripping),
    "dripping steps": ("steps.npy", dripping),
    "a head of nonsense": (INDEX, nonsense),
    "an escape in a reason": (MANIFEST, bad_reason),
    "leading to a file": (INDEX, leading("file:///etc/passwd")),
    "leading to ftp": (INDEX, leading("ftp://127.0.0.1/x")),
    "leading to no address": (INDEX, leading("http://[::1")),
    "leading to a name that is none": (INDEX, leading("http://" + "a" * 70 + ".\u00e9/")),
    "leading in circles": (INDEX, leading("/index.json")),
    "a deep index": (INDEX, lambda *_: whole(b"[" * 200_000)),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_the_next_mirror_is_asked_and_each_fault_is_one_sentence(raw, tree, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(transfer, "GRACE", 1.5)
    monkeypatch.setattr(transfer, "SLOWEST", 1e12)
    name, fault = HOSTILE[kind]
    bad, good = raw(serving(tree, **{name: fault})), raw(serving(tree))
    start = time.monotonic()
    with pytest.raises(ValueError, match="no mirror gave") as caught:
        fetch(ID, root=tmp_path, mirror=bad.url)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000
    assert time.monotonic() - start < 20
    assert fetch(ID, root=tmp_path, mirror=[bad.url, good.url]).is_dir()


def test_absurd_sizes_are_the_mirrors_fault(raw, tree, tmp_path):
    manifest = Manifest.from_bytes((tree / KEY / MANIFEST).read_bytes())
    files = tuple(file.model_copy(update={"bytes": 10**18}) for file in manifest.files)
    content = manifest.model_copy(update={"files": files}).to_bytes()

    told = index(
        tree, manifest_sha256=hashlib.sha256(content).hexdigest(), manifest_bytes=len(content), bytes=3 * 10**18
    )
    bad = raw(serving(tree, **{INDEX: lambda _: whole(told), MANIFEST: lambda _: whole(content)}))
    with pytest.raises(ValueError, match=r"no mirror gave .* bytes free"):
        fetch(ID, root=tmp_path, mirror=bad.url)
    other = index(tree, bytes=5)
    wrong = raw(serving(tree, **{INDEX: lambda _: whole(other)}))
    with pytest.raises(ValueError, match="bytes, the index of 5"):
        fetch(ID, root=tmp_path, mirror=wrong.url)
    good = raw(serving(tree))
    assert fetch(ID, root=tmp_path, mirror=[bad.url, wrong.url, good.url]).is_dir()


def test_a_mirrors_index_is_told_in_one_sentence(raw):
    for answer in (nonsense, bad_reason, leading("file:///etc/passwd")):
        with pytest.raises(ValueError) as caught:
            mirror_index(raw(answer).url)
        assert "\n" not in str(caught.value)


TOKEN = "hf_secretsecretsecret"


@pytest.fixture
def hub(monkeypatch):
    made = pytest.importorskip("huggingface_hub")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return made


def test_a_token_stays_with_the_hubs_host(raw, tree, tmp_path, monkeypatch, hub):
    """The hub leads on to other hosts that serve the bytes; and on its own host to a renamed repository."""
    elsewhere = raw(serving(tree))

    def answer(head):
        path = head.split(" ")[1].lstrip("/")
        if path.startswith("old/"):
            return leading(f"/new/{path[4:]}")(head)
        return leading(f"{elsewhere.url}/{path[4:]}")(head)

    server = raw(answer)
    monkeypatch.setattr(hub, "hf_hub_url", lambda repo, path, **_: f"{server.url}/old/{path}")
    fetch(ID, root=tmp_path, mirror="hf://lab/data")
    assert server.heads and all(TOKEN in head for head in server.heads)
    assert any("/new/" in head for head in server.heads), "within a host it goes along"
    assert elsewhere.heads and not [head for head in elsewhere.heads if TOKEN in head or "uthorization" in head]


def test_another_port_is_another_host_and_https_never_becomes_http():
    request = transfer.request("https://hub/x", {"authorization": "Bearer x", "user-agent": "y"})
    assert "Authorization" not in request.headers and request.unredirected_hdrs["Authorization"] == "Bearer x"
    handler = transfer._Redirects()
    for url, kept in (("https://hub/y", True), ("https://hub:444/y", False), ("https://evil/y", False)):
        made = handler.redirect_request(request, None, 302, "", {}, url)
        assert made.has_header("Authorization") is kept and made.has_header("User-agent")
    with pytest.raises(transfer.MirrorError, match="leads on to"):
        handler.redirect_request(request, None, 302, "", {}, "http://hub/y")


def test_the_hubs_headers_hold_the_token_that_is_kept_back(hub):
    _, headers = _address("hf://lab/data", "x")
    assert TOKEN in json.dumps(headers)
    assert TOKEN not in json.dumps(transfer.request("https://hub/x", headers).headers)
