"""A Hub on loopback: as much of its interface as `datasets`, `transformers` and `huggingface_hub` ask for."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

_DATE = "2024-05-01T00:00:00.000Z"


@dataclass(frozen=True, slots=True, kw_only=True)
class Repo:
    """One repository. `revisions` are branches or references and the files of each; `gated` is what a stranger gets."""

    revisions: Mapping[str, Mapping[str, bytes]]
    gated: int | None = None

    def commit(self, revision: str) -> str | None:
        """The commit that a branch, or a commit, names."""
        known = {name: hashlib.sha1(name.encode()).hexdigest() for name in self.revisions}
        return known.get(revision) or next((commit for commit in known.values() if commit == revision), None)

    def files(self, commit: str) -> Mapping[str, bytes]:
        return next(files for name, files in self.revisions.items() if self.commit(name) == commit)


def repo(
    files: Mapping[str, bytes], others: Mapping[str, Mapping[str, bytes]] | None = None, *, gated: int | None = None
) -> Repo:
    """A repository with these files on its main branch, and others at other revisions."""
    return Repo(revisions={"main": files, **(others or {})}, gated=gated)


@dataclass(slots=True)
class Hub:
    """`url` is its endpoint; `paths` are what was asked, such as "GET /api/datasets/org/name"."""

    url: str
    paths: list[str] = field(default_factory=list)


@contextmanager
def hub(models: Mapping[str, Repo], datasets: Mapping[str, Repo]) -> Iterator[Hub]:
    """Serve repositories by their ids until the block ends."""

    class Server(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._answer(self.rfile.read(int(self.headers.get("content-length") or 0)))

        def _answer(self, body: bytes = b"") -> None:
            split = urlsplit(self.path)
            served.paths.append(f"{self.command} {unquote(split.path)}")
            parts = [unquote(part) for part in split.path.strip("/").split("/")]
            api = parts[0] == "api"
            parts = parts[1:] if api else parts
            kind = parts.pop(0) if parts and parts[0] in ("datasets", "models") else "models"
            id_, rest = "/".join(parts[:2]), parts[2:]
            found = (datasets if kind == "datasets" else models).get(id_)
            if found is None:
                # The Hub does not tell a stranger whether a repository is private or not there.
                return self._refuse(401, "RepoNotFound", "Repository not found")
            verb, revision, *path = [*rest, "", ""] if rest else ["revision", "main"]
            commit = found.commit(revision or "main")
            place = "/".join(path).strip("/")
            if found.gated is not None and not (api and verb == "revision"):
                return self._refuse(found.gated, "GatedRepo", f"Access to {kind} {id_} is restricted")
            if commit is None:
                return self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            files = found.files(commit)
            if verb == "resolve":
                if place not in files:
                    return self._refuse(404, "EntryNotFound", "Entry not found", commit)
                return self._file(files[place], commit)
            if verb == "revision":
                info = {"_id": "0" * 24, "id": id_, "sha": commit, "lastModified": _DATE, "private": False,
                        "gated": "auto" if found.gated is not None else False, "disabled": False, "tags": [],
                        "downloads": 0, "likes": 0, "createdAt": _DATE,
                        "siblings": [{"rfilename": name} for name in sorted(files)]}  # fmt: skip
                return self._json(info)
            entries = _entries(files)
            if verb == "tree":
                if place and not any(name.startswith(f"{place}/") for name in files):
                    return self._refuse(404, "EntryNotFound", f"{place} does not exist", commit)
                deep = "true" in map(str.lower, parse_qs(split.query).get("recursive", []))
                inside = f"{place}/" if place else ""
                listed = (name for name in entries if name.startswith(inside))
                return self._json([entries[name] for name in listed if deep or "/" not in name.removeprefix(inside)])
            if verb == "paths-info":
                asked = self._asked(body)
                return self._json([entries[name] for name in asked if name in entries])
            return self._refuse(404, "EntryNotFound", "Not found")

        def _asked(self, body: bytes) -> list[str]:
            if "json" in self.headers.get("content-type", ""):
                paths = json.loads(body)["paths"]
                return [paths] if isinstance(paths, str) else list(paths)
            return parse_qs(body.decode())["paths"]

        def _file(self, content: bytes, commit: str) -> None:
            headers = {"etag": f'"{_oid(content)}"', "x-repo-commit": commit, "accept-ranges": "bytes"}
            wanted = self.headers.get("range")
            if wanted is None:
                return self._send(200, content, headers)
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            begin, end = int(first), min(int(last) if last else len(content) - 1, len(content) - 1)
            headers["content-range"] = f"bytes {begin}-{end}/{len(content)}"
            return self._send(206, content[begin : end + 1], headers)

        def _json(self, value: object) -> None:
            self._send(200, json.dumps(value).encode(), {"content-type": "application/json"})

        def _refuse(self, status: int, code: str, message: str, commit: str | None = None) -> None:
            headers = {"x-error-code": code, "x-error-message": message, "content-type": "application/json"}
            if commit is not None:
                headers["x-repo-commit"] = commit
            self._send(status, json.dumps({"error": message}).encode(), headers)

        def _send(self, status: int, content: bytes, headers: Mapping[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    server.daemon_threads = True
    served = Hub(url=f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _entries(files: Mapping[str, bytes]) -> dict[str, dict[str, object]]:
    """Files and the folders they lie in, as the Hub lists them."""
    found: dict[str, dict[str, object]] = {}
    for name, content in sorted(files.items()):
        folders = name.split("/")[:-1]
        for depth in range(1, len(folders) + 1):
            folder = "/".join(folders[:depth])
            found[folder] = {"type": "directory", "path": folder, "oid": _oid(folder.encode()), "size": 0}
        found[name] = {"type": "file", "path": name, "oid": _oid(content), "size": len(content)}
    return found
