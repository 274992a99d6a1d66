"""Page: what the pages of every kind of run share: templates, the writing of files, the facts at the end."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from aligner.report import wording
from aligner.report.fields import mapping, read_object
from aligner.report.lineage import lineage_rows
from aligner.rows import storage_errors, write_atomic
from aligner.runs import RunDir

# Lone surrogates cannot be written as UTF-8, and HTML has no place for the other control characters.
_UNWRITABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_HARDWARE = {
    "started": "Started",
    "accelerator": "Accelerator",
    "processor": "Processor",
    "cpus": "Processor cores",
    "platform": "Platform",
    "python": "Python",
    "git": "Revision",
    "command": "Command",
}


@cache
def environment() -> Environment:
    """The templates, with the filters that they use."""
    made = Environment(
        loader=PackageLoader("aligner.report"),
        autoescape=True,  # model text is text, whatever it says
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(count=wording.count, decimal=wording.decimal, share=wording.share, name=wording.name)
    made.filters["kept"] = lambda reason: wording.KEPT.get(reason, reason.replace("_", " "))
    return made


def render(template: str, run: RunDir, result: Mapping[str, Any] | None, **values: Any) -> str:
    """The page of a run as text: the template's own values, and what stands on every page.

    Raises:
        DataError: env.json, or the lineage of the result, is damaged.
    """
    path, where = run.path / "env.json", str(run.path / "result.json")
    known = read_object(path) or {}
    return environment().get_template(template).render(
        name=run.path.resolve().name,
        finished=result is not None,
        config=run.config_path.read_text(encoding="utf-8", errors="replace"),
        hardware=_hardware(known),
        packages={k: str(v) for k, v in mapping(known, "packages", str(path)).items()},
        lineage=lineage_rows(result or {}, where),
        **values,
    )  # fmt: skip


def write_page(run: RunDir, page: str, name: str = "report.html") -> Path:
    """Replace a page whole.

    Raises:
        StorageError: the directory cannot be written.
    """
    path = run.path / name
    write_atomic(path, _UNWRITABLE.sub("\ufffd", page))
    return path


def write_png(path: Path, content: bytes | None) -> None:
    """Replace the file whole, or remove one that an earlier rendering left when there is nothing to draw now.

    Raises:
        StorageError: it cannot be written.
    """
    with storage_errors(path):
        if content is None:
            path.unlink(missing_ok=True)
            return
        temporary = path.with_name(f".{path.name}.part")
        try:
            temporary.write_bytes(content)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def _hardware(known: Mapping[str, Any]) -> dict[str, str]:
    named = {title: known.get(key) for key, title in _HARDWARE.items()}
    others = {k.replace("_", " "): v for k, v in known.items() if k not in _HARDWARE and k != "packages"}
    return {k: _shown(v) for k, v in {**named, **others}.items()}


def _shown(value: Any) -> str:
    if value is None:
        return wording.ABSENT
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
