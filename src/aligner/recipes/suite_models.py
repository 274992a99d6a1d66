"""The pocket suite's files and models, each made once: base models, upstreams and correctors under a shared cache.

A thing's directory is named by the hash of its resolved configuration, of what it is made from, and of the code that
makes it; so demo, `reproduce` and tests share what has not changed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml

import aligner
from aligner.config import Config
from aligner.pocket.model_triplets import ModelTripletsConfig
from aligner.pocket.suite import SuiteConfig
from aligner.pocket.upstreams import Profile, profiles
from aligner.recipes.lanes import Job
from aligner.train.config import SftConfig, TrainConfig

Size = Literal["S", "M", "L"]
SIZES: tuple[Size, ...] = ("S", "M", "L")
CACHE = Path("runs/.cache")
# What a small run changes: fewer rows, fewer questions; the code is the same.
QUICK: Mapping[str, Mapping[str, Any]] = {
    "suite": {"triplets": 6_000, "texts": 10_000, "reading": 10_000, "upstream_rows": 2_000},
    "model-triplets": {"rows": 1_000},
}
# How long things take beside each other.
_SPEED = {"S": 1.0, "M": 2.2, "L": 3.5}
EVALUATION = 10.0
"""The same of evaluating one corrector."""


def settings(name: str) -> dict[str, Any]:
    """One of the configurations in configs/pocket."""
    text = resources.files("aligner.recipes").joinpath("configs", f"{name}.yaml").read_text(encoding="utf-8")
    found: dict[str, Any] = yaml.safe_load(text)
    return found


@dataclass(slots=True)
class Models:
    """What a recipe needs, planned: `jobs` makes what is not there yet, `from_cache` names what is."""

    quick: bool = False
    cache: Path = CACHE
    jobs: list[Job] = field(default_factory=list)
    from_cache: list[str] = field(default_factory=list)
    _keys: dict[str, str] = field(default_factory=dict)
    _places: dict[str, Path] = field(default_factory=dict)

    def suite(self, upstreams: Sequence[str] | None = None) -> Path:
        """The suite's files."""
        changes = self._changes("suite")
        if upstreams is not None and _trained(upstreams) != _trained(profiles()):
            changes["upstreams"] = [p.name for p in _trained(upstreams)]
        return self._plan("suite", SuiteConfig, settings("suite") | changes, (), ("pocket",), weight=1.7)

    def base(self, size: Size) -> Path:
        """The run of the base model of a size."""
        values = settings(f"base-{size}") | {"data": [str(self._places["suite"] / "world.jsonl")]}
        return self._plan(f"base {size}", SftConfig, values, ("suite",), ("train",), weight=3.0 * _SPEED[size])

    def upstream(self, profile: Profile) -> Path:
        """The run of a trained upstream."""
        base = f"base {profile.size}"
        values = settings("upstream") | {
            "data": [str(self._places["suite"] / "upstreams" / f"{profile.name}.jsonl")],
            "model": str(self._places[base] / "model"),
        }
        weight = 0.6 * _SPEED[profile.size]
        return self._plan(profile.name, SftConfig, values, ("suite", base), ("train",), weight=weight)

    def model_triplets(self, profile: Profile) -> Path:
        """The triplets made from what a trained upstream answers."""
        values = settings("model-triplets") | self._changes("model-triplets") | {
            "name": profile.name,
            "model": str(self._places[profile.name] / "model"),
        }  # fmt: skip
        weight = 0.9 * _SPEED[profile.size]
        return self._plan(
            f"answers {profile.name}", ModelTripletsConfig, values, (profile.name,), ("pocket",), weight=weight
        )

    def corrector(self, size: Size, upstreams: Collection[str] = ()) -> Path:
        """The run of the corrector of a size; it learns from answers of these upstreams and from scripted ones, and no
        faster than its base model did."""
        base = f"base {size}"
        rate = settings(f"base-{size}")["schedule"]["learning_rate"]
        answers = [f"answers {p.name}" for p in _trained(upstreams) if p.seen]
        values = settings("corrector")
        values |= {
            stage: values[stage] | {"learning_rate": min(rate, values[stage]["learning_rate"])}
            for stage in ("warmup", "residual")
        }
        values |= {
            "data": [str(self._places[name] / "triplets.jsonl") for name in ("suite", *answers)],
            "mix": [str(self._places["suite"] / "reading.jsonl")],
            "model": str(self._places[base] / "model"),
        }
        needs = ("suite", base, *answers)
        return self._plan(
            f"corrector {size}", TrainConfig, values, needs, ("train", "prompts.py"), weight=16 * _SPEED[size]
        )

    def _changes(self, name: str) -> dict[str, Any]:
        return dict(QUICK[name]) if self.quick else {}

    def _plan(
        self,
        name: str,
        cls: type[Config],
        values: Mapping[str, Any],
        needs: tuple[str, ...],
        code: tuple[str, ...],
        weight: float,
    ) -> Path:
        if name in self._places:
            return self._places[name]
        bare = cls.from_dict({**values, "out": "."}, where=name).model_dump(mode="json")
        for place in ("out", "data", "mix", "model"):
            bare.pop(place, None)  # where a thing lies says nothing of what it is; the keys of what it needs do
        parts = [json.dumps(bare, sort_keys=True), *(self._keys[n] for n in needs), *map(code_hash, code), name]
        key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
        out = self.cache / f"{name.replace(' ', '-')}-{key}"
        self._keys[name], self._places[name] = key, out
        if (out / "result.json").is_file():
            self.from_cache.append(name)
            return out
        known = {job.name for job in self.jobs}
        self.jobs.append(Job(
            name=name, call=make, arguments=(cls.__name__, {**values, "out": str(out)}), weight=weight,
            needs=tuple(n for n in needs if n in known), log=self.cache / "logs" / f"{out.name}.log",
        ))  # fmt: skip
        return out


def make(kind: str, values: Mapping[str, Any]) -> None:
    """Make one thing in its place; what a stopped run left there is gone on with."""
    out = str(values["out"])
    if kind == "SuiteConfig":
        from aligner.pocket.suite import run as write_suite

        write_suite(SuiteConfig.from_dict(values, where=out), "resume")
    elif kind == "SftConfig":
        from aligner.train.language import run as train_language

        train_language(SftConfig.from_dict(values, where=out), "resume")
    elif kind == "ModelTripletsConfig":
        from aligner.pocket.model_triplets import run as ask_upstream

        ask_upstream(ModelTripletsConfig.from_dict(values, where=out), "resume")
    else:
        from aligner.train.corrector import run as train_corrector

        train_corrector(TrainConfig.from_dict(values, where=out), "resume")


def code_hash(room: str) -> str:
    """Hash of the sources of a room of the package, or of one file."""
    place = Path(aligner.__file__).parent / room
    files = [place] if place.is_file() else sorted(p for p in place.rglob("*") if p.suffix in (".py", ".yaml"))
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()


def _trained(names: Collection[str]) -> list[Profile]:
    return [p for p in profiles().values() if p.name in names and p.size != "scripted"]
