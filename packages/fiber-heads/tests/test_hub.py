"""A task model and its processor go to the hub and come back, against a hub on the loopback."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import torch
from fiber_backbone import fiber_tiny
from fiber_heads import AutoFiber, FiberForRetrieval
from torch import Tensor

REPOSITORY = "somebody/tiny-fiber"
UNTRUSTED = "somebody/tiny-fiber is loaded without its processor"


class WordHasher:
    """A processor that no entry point declares, with a setting to lose."""

    def __init__(self, offset: int) -> None:
        self.offset = offset

    def __call__(self, images: Any = None, text: Any = None) -> dict[str, Tensor]:
        ids = torch.tensor([[self.offset + len(word) for word in one.split()] for one in text])
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def save_pretrained(self, folder: Path) -> None:
        settings = {"processor_class": f"{__name__}:WordHasher", "offset": self.offset}
        (folder / "preprocessor_config.json").write_text(json.dumps(settings))

    @classmethod
    def from_pretrained(cls, folder: Path) -> WordHasher:
        return cls(json.loads((Path(folder) / "preprocessor_config.json").read_text())["offset"])


class Hub(ThreadingHTTPServer):
    """What of the hub its client needs to push a model and to load it: one repository, one branch."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), HubRequest)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.stored: dict[str, bytes] = {}  # large files by their SHA-256, before a commit names them
        self.files: dict[str, bytes] = {}
        self.tokens: set[str | None] = set()  # of the requests that write

    @property
    def commit(self) -> str:
        return hashlib.sha1(repr(sorted(self.files.items())).encode()).hexdigest()


class HubRequest(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        hub, path, body = self.server, unquote(urlsplit(self.path).path), self.body()
        hub.tokens.add(self.headers.get("Authorization"))
        if path == "/api/repos/create":
            self.reply({"url": f"{hub.url}/{REPOSITORY}", "id": "1"})
        elif path == "/api/validate-yaml":
            self.reply({"errors": [], "warnings": []})
        elif path == f"/api/models/{REPOSITORY}/preupload/main":
            files = json.loads(body)["files"]
            for each in files:
                each["uploadMode"] = "lfs" if each["path"].endswith(".safetensors") else "regular"
                each["shouldIgnore"] = False
            self.reply({"files": files})
        elif path == f"/{REPOSITORY}.git/info/lfs/objects/batch":
            objects = json.loads(body)["objects"]
            for each in objects:
                each["actions"] = {"upload": {"href": f"{hub.url}/store/{each['oid']}"}}
            self.reply({"transfer": "basic", "objects": objects})
        elif path == f"/api/models/{REPOSITORY}/commit/main":
            self.take_commit([json.loads(line) for line in body.splitlines()])
        else:
            self.reply({"error": f"no POST {path}"}, 404)

    def take_commit(self, lines: list[dict[str, Any]]) -> None:
        hub = self.server
        for kind, value in ((line["key"], line["value"]) for line in lines):
            if kind == "file":
                hub.files[value["path"]] = base64.b64decode(value["content"])
            elif kind == "lfsFile":
                hub.files[value["path"]] = hub.stored[value["oid"]]
        url = f"{hub.url}/{REPOSITORY}/commit/{hub.commit}"
        self.reply({"commitUrl": url, "commitOid": hub.commit, "pullRequestUrl": None})

    def do_PUT(self) -> None:
        body = self.body()
        assert self.path == f"/store/{hashlib.sha256(body).hexdigest()}"
        self.server.stored[hashlib.sha256(body).hexdigest()] = body
        self.reply({})

    def do_GET(self) -> None:
        hub, path = self.server, unquote(urlsplit(self.path).path)
        revisions, about = ("main", hub.commit), f"/api/models/{REPOSITORY}"
        if path in (about, *(f"{about}/revision/{each}" for each in revisions)):
            siblings = [{"rfilename": name} for name in hub.files]
            self.reply({"id": REPOSITORY, "sha": hub.commit, "siblings": siblings})
        elif path in {f"{about}/tree/{each}" for each in revisions}:
            entries = [(name, len(data), hashlib.sha1(data).hexdigest()) for name, data in hub.files.items()]
            self.reply([{"type": "file", "path": name, "size": size, "oid": oid} for name, size, oid in entries])
        else:
            found = {f"/{REPOSITORY}/resolve/{each}/{name}": name for each in revisions for name in hub.files}
            if path in found:
                self.reply(hub.files[found[path]])
            else:
                self.reply({"error": f"no {self.command} {path}"}, 404)

    do_HEAD = do_GET

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def reply(self, content: Any, status: int = 200) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/octet-stream" if content is data else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", self.server.commit)
        if status == 404:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def push_and_load() -> None:
    """In a process of its own, as the client reads on import where the hub is."""
    model = FiberForRetrieval(fiber_tiny()).eval()
    model.processor = WordHasher(7)
    model.push_to_hub(REPOSITORY)
    trusted = [f"{__name__}:WordHasher"]
    for kind in (FiberForRetrieval, AutoFiber):
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            loaded = kind.from_pretrained(REPOSITORY, trusted=trusted)
        check_weights(loaded, model)
        assert type(loaded.processor) is WordHasher
        assert loaded.prepare(text="a cat")["input_ids"].tolist() == [[8, 10]]
        with pytest.warns(UserWarning, match=UNTRUSTED):
            loaded = kind.from_pretrained(REPOSITORY)
        check_weights(loaded, model)
        assert loaded.processor is None


def check_weights(loaded: torch.nn.Module, model: torch.nn.Module) -> None:
    assert type(loaded) is type(model)
    found, expected = loaded.state_dict(), model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_a_model_comes_back_from_the_hub_with_its_processor(hub: Hub, tmp_path: Path) -> None:
    elsewhere = ("HF_", "HUGGING", "TRANSFORMERS_")  # settings of the machine, such as to stay offline
    environment = {name: value for name, value in os.environ.items() if not name.startswith(elsewhere)} | {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path),
        "HF_TOKEN": "hf_of_nobody",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
        "PYTHONPATH": str(Path(__file__).parent),
    }
    code = f"import {Path(__file__).stem} as test; test.push_and_load()"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert {"config.json", "model.safetensors", "preprocessor_config.json"} <= hub.files.keys()
    assert json.loads(hub.files["preprocessor_config.json"])["offset"] == 7
    assert "Bearer hf_of_nobody" in hub.tokens
    assert [path for path in tmp_path.rglob("model.safetensors") if REPOSITORY.replace("/", "--") in str(path)]
