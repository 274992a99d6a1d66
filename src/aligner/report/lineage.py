"""Lineage: what models were made from, as rows of a table in which files of one name are told apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aligner.config import read_yaml
from aligner.errors import UserError
from aligner.report import wording
from aligner.report.fields import items, mapping, objects, read_object, text, wrong
from aligner.runs import RunDir

_HASH_SHOWN = 12


def lineage_rows(result: Mapping[str, Any], where: str) -> list[dict[str, str]]:
    """The ancestors of one model, as a list, or of several, as an object that names what each list belongs to.

    Raises:
        DataError: an entry is of the wrong type.
    """
    if not isinstance(result.get("lineage"), dict):
        return [_row(a, "", where) for a in objects(result, "lineage", where)]
    found = []
    for of, ancestors in mapping(result, "lineage", where).items():
        one = [ancestors] if isinstance(ancestors, dict) else ancestors
        if one is not None and not (isinstance(one, list) and all(isinstance(a, dict) for a in one)):
            raise wrong(where, f"lineage.{of}", ancestors, "a list of objects")
        found += [_row(a, of or "(no name)", where) for a in one or ()]
    return found


def told_apart(ancestors: Sequence[Mapping[str, Any]], run: Path) -> list[Mapping[str, Any]]:
    """The ancestors of a model that a training run made, those that need it under `directory/name`: files of one name,
    and a base that is called as every run's model is.

    A lineage has names alone, so that it says nothing of whose machine they lay on; the run's configuration has the
    paths. Where that is not there, or another model lies there now, the names stay as they are.
    """
    known = _settings_of(run, ancestors)
    paths = [Path(str(path)) for key in ("data", "mix") for path in items(known, key, str(run))]
    places: dict[int, Path] = {}
    base = next((i for i, a in enumerate(ancestors) if a.get("role") == "base"), None)
    # A run's own files stand before its base, in the order of its settings; where a pattern among these found several
    # files, or two files are one, they do not match.
    if [(a.get("role"), a.get("name")) for a in ancestors[:base]] == [("data", path.name) for path in paths]:
        places.update(enumerate(paths))
    if base is not None and known.get("model") is not None:
        places[base] = Path(str(known["model"]))
    often = Counter(str(a.get("name")) for a in ancestors)
    found: list[Mapping[str, Any]] = []
    for i, ancestor in enumerate(ancestors):
        name, place = ancestor.get("name"), places.get(i, Path())
        unclear = often[str(name)] > 1 or name == RunDir(run).model_path.name
        shown = f"{place.parent.name}/{name}" if unclear and name == place.name and place.parent.name else name
        found.append({**ancestor, "name": shown})
    return found


def _settings_of(run: Path, ancestors: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The settings of the run that made the model with this lineage; none where it cannot be found or read."""
    try:
        result = read_object(run / "result.json") or {}
        known = read_yaml(RunDir(run).config_path) if result.get("lineage") == list(ancestors) else {}
    except (UserError, OSError, ValueError):  # a page of one run does not fail for the files of another
        return {}
    return {k: v for k, v in known.items() if k == "model" or (k in ("data", "mix") and isinstance(v, list))}


def _row(ancestor: Mapping[str, Any], of: str, where: str) -> dict[str, str]:
    digest = text(ancestor, "hash", where) or ""
    return {
        "of": of,
        "role": text(ancestor, "role", where) or wording.ABSENT,
        "name": text(ancestor, "name", where) or wording.ABSENT,
        "hash": digest,
        "short": wording.name(digest[:_HASH_SHOWN]) or wording.ABSENT,
    }
