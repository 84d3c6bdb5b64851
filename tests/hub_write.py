"""The Hub of `tests.hub`, which can also be written to, and which fails where a test says so.

with WritableHub() as hub:
    hub.fail("POST", r"/commit/", "lost")          # once: applied, and the answer never arrives
    hub.fail("PUT", r"/lfs/", "reset", times=2)    # twice: the connection breaks in the middle of the body
    hub.fail("POST", r"/preupload/", 503)
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import yaml

from tests.hub import _LFS_SUFFIXES, Hub, Repo, RepoType, Request, Response, _find, _git_oid, _handler, _json


@dataclass
class Fault:
    """What happens to the next `times` requests that fit."""

    method: str
    path: str
    kind: int | Literal["reset", "lost"]
    times: int
    headers: dict[str, str]


class WritableHub(Hub):
    """A Hub with uploads.

    Attributes:
        blobs: LFS objects by their SHA-256.
        before_commit: Called with the repository before a commit is applied: another push may come first.
        part_bytes: When set, LFS uploads come in parts of this size.
    """

    def __init__(self) -> None:
        super().__init__()
        self.blobs: dict[str, bytes] = {}
        self.parts: dict[tuple[str, int], bytes] = {}
        self.part_bytes: int | None = None
        self.injected: list[Fault] = []
        self.private: set[str] = set()
        self.before_commit: Callable[[Repo], None] | None = None
        self._server.RequestHandlerClass = _failing_handler(self)

    def fail(
        self, method: str, path: str, kind: int | Literal["reset", "lost"], *, times: int = 1, **headers: str
    ) -> None:
        """Lets the next requests fail: with a status, a reset connection, or an answer that gets lost."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.injected.append(Fault(method, path, kind, times, named))

    def take_fault(self, method: str, path: str) -> Fault | None:
        for fault in self.injected:
            if fault.times and method in fault.method and re.search(fault.path, path):
                fault.times -= 1
                return fault
        return None

    def commits(self, repo_id: str, repo_type: RepoType = "dataset") -> list[str]:
        """Titles of the commits of the main branch that a client made."""
        repo = self.repos.get((repo_type, repo_id))
        return [commit.title for commit in repo.commits.values() if commit.title != "initial commit"] if repo else []

    def respond(self, request: Request) -> Response:
        for method, pattern, route in _ROUTES:
            found = re.fullmatch(pattern, request.path)
            if found and request.method == method:
                self.requests.append(f"{request.method} {request.path}")
                signed = not request.path.startswith("/lfs/")
                if signed and self.token and request.headers.get("authorization") != f"Bearer {self.token}":
                    return Response(401)
                return route(self, request, **{name: _unquote(part) for name, part in found.groupdict().items()})
        return super().respond(request)


def _unquote(part: str | None) -> str:
    from urllib.parse import unquote

    return unquote(part or "")


def _create(hub: WritableHub, request: Request) -> Response:
    asked = json.loads(request.body)
    repo_type: RepoType = asked.get("type") or "model"
    repo_id = f"{asked.get('organization') or 'owner'}/{asked['name']}"
    url = f"{hub.url}/{'datasets/' if repo_type == 'dataset' else ''}{repo_id}"
    if (repo_type, repo_id) in hub.repos:
        return Response(409, json.dumps({"error": "You already created this repo", "url": url}).encode())
    hub.repo(repo_id, repo_type).commit(
        {".gitattributes": b"*.parquet filter=lfs\n"}, revision="main", title="initial commit"
    )
    if asked.get("private") or asked.get("visibility") == "private":
        hub.private.add(repo_id)
    return _json({"url": url, "name": repo_id, "id": repo_id})


def _branch(hub: WritableHub, request: Request, *, repos: str, id: str, branch: str) -> Response:
    found = _find(hub, repos, id, "main")
    if isinstance(found, Response):
        return found
    repo, head = found
    if branch in repo.refs:
        return Response(409, code="RefAlreadyExists")
    repo.refs[branch] = head.oid
    return _json({})


def _validate(hub: WritableHub, request: Request) -> Response:
    """The Hub's own rules are its own; this one checks what it surely refuses."""
    asked = json.loads(request.body)
    header = re.match(r"---\n(.*?)\n---", asked["content"], re.DOTALL)
    try:
        metadata = yaml.safe_load(header[1]) if header else {}
    except yaml.YAMLError as error:
        return Response(400, json.dumps({"errors": [{"message": str(error)}], "warnings": []}).encode())
    errors = []
    for entry in metadata.get("model-index", []):
        for result in entry.get("results", []):
            if {"task", "dataset", "metrics"} - result.keys():
                errors.append({"message": '"model-index[0].results[0]" is incomplete'})
            if {"type", "name"} - result.get("dataset", {}).keys():
                errors.append({"message": '"dataset" needs "type" and "name"'})
            if not all(isinstance(metric.get("value"), int | float | str) for metric in result.get("metrics", [])):
                errors.append({"message": '"value" of a metric is missing'})
    for name in ("tags", "datasets"):
        if not isinstance(metadata.get(name, []), list):
            errors.append({"message": f'"{name}" must be an array'})
    status = 400 if errors else 200
    return Response(status, json.dumps({"errors": errors, "warnings": []}).encode())


def _preupload(hub: WritableHub, request: Request, *, repos: str, id: str, revision: str) -> Response:
    found = _find(hub, repos, id, revision)
    if isinstance(found, Response):
        return found
    files = []
    for file in json.loads(request.body)["files"]:
        path = file["path"]
        lfs = path.endswith(_LFS_SUFFIXES) or file["size"] > 10 << 20
        content = found[1].files.get(path)
        oid = None if content is None else hashlib.sha256(content).hexdigest() if lfs else _git_oid(content)
        files.append({"path": path, "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False, "oid": oid})
    return _json({"files": files})


def _batch(hub: WritableHub, request: Request, *, repos: str, id: str) -> Response:
    asked = json.loads(request.body)
    objects, transfer = [], "basic"
    for entry in asked["objects"]:
        known: dict[str, Any] = {"oid": entry["oid"], "size": entry["size"]}
        if entry["oid"] not in hub.blobs:
            address = f"{hub.url}/lfs/{entry['oid']}"
            upload: dict[str, Any] = {"href": address}
            if hub.part_bytes and entry["size"] > hub.part_bytes:
                transfer = "multipart"
                n_parts = -(-entry["size"] // hub.part_bytes)
                parts = {f"{number:05d}": f"{address}/{number}" for number in range(1, n_parts + 1)}
                upload = {"href": f"{address}/complete", "header": {"chunk_size": str(hub.part_bytes), **parts}}
            known["actions"] = {"upload": upload, "verify": {"href": f"{address}/verify"}}
        objects.append(known)
    return _json({"transfer": transfer, "objects": objects})


def _put(hub: WritableHub, request: Request, *, oid: str) -> Response:
    if hashlib.sha256(request.body).hexdigest() != oid:
        return Response(400)
    hub.blobs[oid] = request.body
    return Response(200)


def _put_part(hub: WritableHub, request: Request, *, oid: str, number: str) -> Response:
    hub.parts[oid, int(number)] = request.body
    return Response(200, headers={"ETag": f'"{hashlib.md5(request.body).hexdigest()}"'})


def _complete(hub: WritableHub, request: Request, *, oid: str) -> Response:
    numbers = [part["partNumber"] for part in json.loads(request.body)["parts"]]
    content = b"".join(hub.parts[oid, number] for number in numbers)
    if hashlib.sha256(content).hexdigest() != oid:
        return Response(400)
    hub.blobs[oid] = content
    return _json({})


def _verify(hub: WritableHub, request: Request, *, oid: str) -> Response:
    return _json({}) if oid in hub.blobs else Response(404)


def _commit(hub: WritableHub, request: Request, *, repos: str, id: str, revision: str) -> Response:
    found = _find(hub, repos, id, revision)
    if isinstance(found, Response):
        return found
    repo, _ = found
    if hub.before_commit:
        interfere, hub.before_commit = hub.before_commit, None
        interfere(repo)
    head = repo.at(revision)
    assert head is not None
    files, title = dict(head.files), ""
    for line in request.body.splitlines():
        entry = json.loads(line)
        key, value = entry["key"], entry["value"]
        if key == "header":
            title = value["summary"]
            if value.get("parentCommit") not in (None, head.oid):
                return Response(412, json.dumps({"error": "A commit has happened since."}).encode())
        elif key == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif key == "lfsFile":
            if value["oid"] not in hub.blobs:
                return Response(400, json.dumps({"error": "LFS pointer to a file that does not exist"}).encode())
            files[value["path"]] = hub.blobs[value["oid"]]
        elif key == "deletedFile":
            if value["path"] not in files:
                return Response(404, code="EntryNotFound")
            del files[value["path"]]
    made = repo.commit(files, revision=revision, title=title)
    address = f"{hub.url}/{repos + '/' if repos == 'datasets' else ''}{id}/commit/{made.oid}"
    return _json({"success": True, "commitOid": made.oid, "commitUrl": address, "hookOutput": ""})


_REPO = r"/api/(?P<repos>datasets|models)/(?P<id>[^/]+/[^/]+)"
_ROUTES: list[tuple[str, str, Callable[..., Response]]] = [
    ("POST", r"/api/repos/create", _create),
    ("POST", r"/api/validate-yaml", _validate),
    ("POST", _REPO + r"/branch/(?P<branch>[^/]+)", _branch),
    ("POST", _REPO + r"/preupload/(?P<revision>[^/]+)", _preupload),
    ("POST", _REPO + r"/commit/(?P<revision>[^/]+)", _commit),
    ("POST", r"/(?:(?P<repos>datasets)/)?(?P<id>[^/]+/[^/]+)\.git/info/lfs/objects/batch", _batch),
    ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})", _put),
    ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})/(?P<number>\d+)", _put_part),
    ("POST", r"/lfs/(?P<oid>[0-9a-f]{64})/complete", _complete),
    ("POST", r"/lfs/(?P<oid>[0-9a-f]{64})/verify", _verify),
]


def _failing_handler(hub: WritableHub) -> type:
    base: Any = _handler(hub)

    class Handler(base):
        def answer(self) -> None:
            fault = hub.take_fault(self.command, self.path)
            if fault is None:
                super().answer()
            elif fault.kind == "reset":
                self.rfile.read(int(self.headers.get("Content-Length") or 0) // 2)
                self.break_off()
            elif fault.kind == "lost":
                self.wfile, sent = _Nowhere(), self.wfile
                super().answer()
                self.wfile = sent
                self.break_off()
            else:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                hub.requests.append(f"{self.command} {self.path} -> {fault.kind}")
                self.send_response(fault.kind)
                for name, value in fault.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "0")
                self.end_headers()

        def break_off(self) -> None:
            """Closes the connection as a crash does: with a reset."""
            hub.requests.append(f"{self.command} {self.path} -> reset")
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.rfile.close()
            self.connection.close()

        do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answer

    return Handler


class _Nowhere:
    """A file that swallows what is written."""

    closed = False

    def write(self, data: bytes) -> int:
        return len(data)

    def flush(self) -> None:
        """Nothing to do."""
