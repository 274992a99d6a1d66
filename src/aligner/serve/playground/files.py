"""What the gateway serves at its root: the playground's files, with headers that let nothing else in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files

from aligner.serve.headers import Headers

# Text of models is shown on the page. Were any of it ever taken for markup, it could still load and run nothing.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS: Headers = [
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-cache"),
]
_FILES = {
    "/": ("index.html", b"text/html; charset=utf-8"),
    "/playground/page.css": ("page.css", b"text/css; charset=utf-8"),
    "/playground/page.js": ("page.js", b"text/javascript; charset=utf-8"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaygroundFile:
    """One file, ready to be sent."""

    data: bytes
    headers: Headers


def playground_files() -> Mapping[str, PlaygroundFile]:
    """The files by the paths that they are served at."""
    place = files("aligner.serve.playground")
    return {
        path: PlaygroundFile(data=(place / name).read_bytes(), headers=[(b"content-type", kind), *_HEADERS])
        for path, (name, kind) in _FILES.items()
    }
