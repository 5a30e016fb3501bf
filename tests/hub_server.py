"""A small stand-in for Hugging Face's hub: the few requests that its library makes, over HTTP."""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import unquote

import pytest
from huggingface_hub import constants

Files = dict[str, bytes]


class Hub(ThreadingHTTPServer):
    """Repositories in memory, each a list of commits; ``alice`` is logged in.

    Attributes:
        repos: commits, the newest last, by the name of their repository.
        private, gated: names of repositories.
        tags: revision -> number of a commit.
        role: of the token.
        asked: requests that would change something.
        refusal: status that changing requests are answered with.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.repos: dict[str, list[Files]] = {}
        self.private: set[str] = set()
        self.gated: set[str] = set()
        self.tags: dict[str, int] = {}
        self.role = "write"
        self.asked: list[str] = []
        self.refusal: int | None = None

    def sha(self, repo: str, number: int) -> str:
        number %= len(self.repos[repo])
        return hashlib.sha1(f"{repo} {number}".encode()).hexdigest()

    def number(self, repo: str, revision: str) -> int | None:
        if revision == "main":
            return len(self.repos[repo]) - 1
        known = {self.sha(repo, k): k for k in range(len(self.repos[repo]))}
        return {**self.tags, **known}.get(revision)


class Answer(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def say(self, content: Any, status: int = 200, **headers: str) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def refuse(self, status: int, code: str) -> None:
        self.say({"error": code}, status, X_Error_Code=code, X_Error_Message=code)

    def do_GET(self) -> None:
        path = unquote(self.path.partition("?")[0])
        if path == "/api/whoami-v2":
            token = {"accessToken": {"role": self.server.role}}
            self.say(
                {"name": "alice", "orgs": [{"name": "lab", "roleInOrg": "write"}], "auth": token}
            )
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+?)(?:/(revision|tree)/(.+))?", path):
            self.tell(found[1], found[2], found[3] or "main")
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self.give(*found.groups())

    def do_HEAD(self) -> None:
        self.do_GET()

    def tell(self, repo: str, kind: str | None, revision: str) -> None:
        hub = self.server
        if repo not in hub.repos:
            return self.refuse(401, "RepoNotFound")
        if (number := hub.number(repo, revision)) is None:
            return self.refuse(404, "RevisionNotFound")
        files = hub.repos[repo][number]
        if kind == "tree":
            entries = [
                {"type": "file", "path": name, "size": len(data), "oid": name}
                for name, data in files.items()
            ]
            return self.say(entries)
        siblings = [{"rfilename": name} for name in files]
        private = repo in hub.private
        sha = hub.sha(repo, number)
        return self.say(
            {"id": repo, "sha": sha, "siblings": siblings, "private": private, "tags": []}
        )

    def give(self, repo: str, revision: str, name: str) -> None:
        hub = self.server
        if repo in hub.gated:
            return self.refuse(403, "GatedRepo")
        number = hub.number(repo, revision)
        assert number is not None
        if name not in hub.repos[repo][number]:
            return self.refuse(404, "EntryNotFound")
        data = hub.repos[repo][number][name]
        etag = hashlib.sha1(data).hexdigest()
        return self.say(data, ETag=f'"{etag}"', X_Repo_Commit=hub.sha(repo, number))

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        hub = self.server
        if self.path == "/api/validate-yaml":
            return self.say({"errors": [], "warnings": []})
        hub.asked.append(self.path)
        if hub.refusal is not None:
            return self.refuse(hub.refusal, "Forbidden")
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked.get('organization') or 'alice'}/{asked['name']}"
            if repo in hub.repos:
                return self.say({"error": "exists", "url": self.url(repo)}, 409)
            hub.repos[repo] = [{".gitattributes": b""}]
            is_private = asked.get("private") or asked.get("visibility") == "private"
            hub.private |= {repo} if is_private else set()
            return self.say({"url": self.url(repo), "id": repo})
        repo, kind = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(\w+)/main", self.path).groups()
        if kind == "preupload":
            modes = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return self.say({"files": modes})
        lines = [json.loads(line) for line in body.splitlines()]
        added = {
            line["value"]["path"]: base64.b64decode(line["value"]["content"])
            for line in lines if line["key"] == "file"
        }  # fmt: skip
        hub.repos[repo].append({**hub.repos[repo][-1], **added})
        sha = hub.sha(repo, -1)
        url = f"{self.url(repo)}/commit/{sha}"
        return self.say({"success": True, "commitOid": sha, "commitUrl": url})

    def url(self, repo: str) -> str:
        return f"{constants.ENDPOINT}/{repo}"


@contextmanager
def serving(patch: pytest.MonkeyPatch, cache: str) -> Iterator[Hub]:
    """A hub that the library talks to meanwhile, with a cache of its own and a token."""
    hub = Hub()
    thread = Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{hub.server_address[1]}"
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, url)
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    patch.setattr(constants, "ENDPOINT", url)
    patch.setattr(constants, "HF_HUB_CACHE", cache)
    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    patch.setenv("HF_TOKEN", "hf_of_alice")
    try:
        yield hub
    finally:
        hub.shutdown()
        thread.join()
        hub.server_close()
