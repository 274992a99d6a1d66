"""RunDir: one directory per run that can be handed to someone else, and the lineage of what came out of it."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from aligner.config import Config, read_yaml
from aligner.cores import usable_cores
from aligner.errors import ConfigError, DataError, RunError
from aligner.rows import JsonlWriter, dumps, file_hash, storage_errors, write_atomic

Existing = Literal["refuse", "resume", "overwrite"]
LineageRole = Literal["data", "base", "teacher", "judge", "reward", "cost", "upstream"]

_PACKAGES = ("aligner", "torch", "transformers", "trl", "accelerate", "datasets", "tokenizers", "numpy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ancestor:
    """One thing that made, rewarded, stopped, gated or ranked a checkpoint; `hash` is the SHA-256 of its content."""

    role: LineageRole
    name: str
    hash: str


Lineage = tuple[Ancestor, ...]


def ancestor_of_file(role: LineageRole, path: str | Path) -> Ancestor:
    """Name a file by its base name and content, so that the lineage says nothing of whose machine it lay on."""
    return Ancestor(role=role, name=Path(path).name, hash=file_hash(path))


def ancestor_of_model(role: LineageRole, name: str | Path) -> Ancestor:
    """Name a checkpoint directory by the content of its weights and configuration, a Hub id by itself."""
    path = Path(name)
    if not path.is_dir():
        return Ancestor(role=role, name=str(name), hash=hashlib.sha256(str(name).encode()).hexdigest())
    digest = hashlib.sha256()
    for file in sorted(p for p in path.iterdir() if p.suffix in (".safetensors", ".bin", ".json")):
        digest.update(f"{file.name}:{file_hash(file)}\n".encode())
    return Ancestor(role=role, name=path.resolve().name, hash=digest.hexdigest())


def merge_lineage(*parts: Iterable[Ancestor]) -> Lineage:
    """All ancestors once each, in order of first appearance."""
    return tuple(dict.fromkeys(a for part in parts for a in part))


def lineage_to_json(lineage: Lineage) -> list[dict[str, str]]:
    return [asdict(a) for a in lineage]


def lineage_from_json(values: Iterable[object]) -> Lineage:
    """Read back what `lineage_to_json` wrote.

    Raises:
        DataError: an entry lacks a role, name or hash, or its role is unknown.
    """
    found: list[Ancestor] = []
    for i, value in enumerate(values):
        if not isinstance(value, Mapping):
            raise DataError(f"lineage entry {i} is {value!r}; expected a role, a name and a hash")
        role = next((r for r in get_args(LineageRole) if r == value.get("role")), None)
        if role is None or not isinstance(value.get("name"), str) or not isinstance(value.get("hash"), str):
            raise DataError(
                f"lineage entry {i} is {dict(value)!r}; expected a name, a hash and a role of "
                f"{', '.join(get_args(LineageRole))}"
            )
        found.append(Ancestor(role=role, name=value["name"], hash=value["hash"]))
    return tuple(found)


def check_apart(out: str | Path, given: Iterable[str | Path | None]) -> None:
    """Refuse to read what lies in a run's own directory, which --overwrite would empty first.

    A text that names nothing here may be a Hub id and is passed over.

    Raises:
        ConfigError: names what lies there.
    """
    for place in given:
        if place is None or (isinstance(place, str) and not Path(place).exists()):
            continue
        if Path(place).resolve().is_relative_to(Path(out).resolve()):
            raise ConfigError(f"{place}: lies in the run's own directory {out}; choose another 'out'")


def environment() -> dict[str, Any]:
    """Versions, hardware and git revision: what another person needs to know to run it again."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cpus": usable_cores(),
        "accelerator": _accelerator(),
        "packages": versions,
        "git": _git_revision(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()


def _accelerator() -> str | None:
    torch = sys.modules.get("torch")  # whoever uses an accelerator has loaded torch; a run that does not, need not
    if torch is not None and torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return None


def _git_revision() -> str | None:
    here = Path(__file__).resolve()
    # An installed copy may lie inside somebody else's repository, whose revision says nothing of this code.
    tracked = ["git", "ls-files", "--error-unmatch", here.name]
    describe = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        for command in (tracked, describe):
            done = subprocess.run(command, cwd=here.parent, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


@dataclass(frozen=True, slots=True)
class RunDir:
    """config.yaml, env.json, metrics.jsonl, samples.jsonl, result.json or table.json, report.html: all of one run."""

    path: Path

    @classmethod
    def create(cls, path: str | Path, config: Config, existing: Existing = "refuse") -> RunDir:
        """Make the directory and write what is known before the run starts.

        Raises:
            RunError: it exists and `existing` is "refuse"; "resume" or "overwrite" is asked for something that is no
                run; or "resume" is asked with a configuration other than the one it was started with; or another
                process works in what is to be overwritten.
            StorageError: it cannot be written.
        """
        run = cls(Path(path))
        if cls.check_place(path, existing, config):
            return run
        with storage_errors(path):
            run.path.mkdir(parents=True, exist_ok=True)
            # Only where a lock was left: a directory that this may have just made holds none.
            with run.locked() if (run.path / ".lock").exists() else nullcontext():
                run._clear()
        write_atomic(run.path / "env.json", dumps(environment(), indent=2) + "\n")
        config.save(run.config_path)
        return run

    @classmethod
    def check_place(cls, path: str | Path, existing: Existing, config: Config | None = None) -> bool:
        """Whether `create` would go on with a run that is there; for recipes that first make what goes into it.

        Raises:
            RunError: as `create` does; for another configuration only where one is given.
        """
        run = cls(Path(path))
        with storage_errors(path):
            names = _names(run.path)
        if names and existing == "refuse":
            raise RunError(
                f"{path}: exists already; pass --resume to go on, --overwrite to start anew, or another path"
            )
        if names and existing == "resume" and run.config_path.is_file():
            if config is not None:
                run._check_same(config)
            return True
        # A create that was killed leaves no more than env.json and temporary files: both ways may go on from there.
        begun = all(name == "env.json" or name.startswith((".env.json.", ".config.yaml.")) for name in names)
        whole = run.config_path.is_file() and "env.json" in names
        if not begun and not whole:
            raise RunError(
                f"{path}: is not a run directory (no config.yaml and env.json), so it is left as it is; "
                "choose another path or remove it yourself"
            )
        return False

    @classmethod
    def open(cls, path: str | Path) -> RunDir:
        """An existing run.

        Raises:
            RunError: there is none.
        """
        run = cls(Path(path))
        if not run.config_path.is_file():
            raise RunError(f"{path}: is not a run directory (no config.yaml); give the --out of a train run")
        return run

    def _check_same(self, config: Config) -> None:
        try:
            changed = changed_settings(self.config_path, config)
        except ConfigError as e:
            raise RunError(f"{e}; restore it, or choose another --out") from None
        if changed:
            raise RunError(
                f"{self.path}: was started with another configuration (differs in: {', '.join(changed)}); "
                "resume with the same one, pass --overwrite to start anew, or choose another --out"
            )

    def _clear(self) -> None:
        """Empty the directory, which may itself be a link or a mount."""
        # config.yaml and then env.json go last: what an interruption leaves is still a run, or the beginning of one.
        for child in sorted(self.path.iterdir(), key=lambda p: (p.name == "env.json", p.name == "config.yaml")):
            if child.is_dir() and not child.is_symlink():
                shutil.rmtree(child)
            else:
                child.unlink()

    def locked(self) -> AbstractContextManager[None]:
        """Keep a second process out while this one works in the directory.

        Raises:
            RunError: another process is at work here.
        """
        return locked(
            self.path / ".lock", f"{self.path}: another process works here; wait for it or choose another --out"
        )

    @property
    def config_path(self) -> Path:
        return self.path / "config.yaml"

    @property
    def model_path(self) -> Path:
        """Where a training run leaves its checkpoint."""
        return self.path / "model"

    @property
    def metrics_path(self) -> Path:
        return self.path / "metrics.jsonl"

    def metrics(self) -> JsonlWriter:
        """metrics.jsonl, open for appending."""
        return JsonlWriter(self.metrics_path)

    def samples(self) -> JsonlWriter:
        """samples.jsonl, open for appending."""
        return JsonlWriter(self.path / "samples.jsonl")

    def write_result(self, result: Mapping[str, Any]) -> None:
        """result.json; its presence says that the run is finished."""
        write_atomic(self.path / "result.json", dumps(result, indent=2) + "\n")

    def result(self) -> dict[str, Any] | None:
        """The finished run's result, or None."""
        path = self.path / "result.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def environment(self) -> dict[str, Any]:
        path = self.path / "env.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def changed_settings(saved: str | Path, config: Config) -> list[str]:
    """The names of the settings in which a saved configuration and another differ.

    Raises:
        ConfigError: the saved one is not there or cannot be read.
    """
    was, now = _flat(read_yaml(saved)), _flat(yaml.safe_load(config.to_yaml()))
    return [k for k in sorted(was.keys() | now.keys()) if k not in was or k not in now or was[k] != now[k]]


@contextmanager
def locked(path: Path, busy: str) -> Iterator[None]:
    """Keep a second process out by a file of that name; the system lets go when this one ends.

    Raises:
        RunError: `busy`, where another process has it.
    """
    if sys.platform == "win32":  # no such lock there
        yield
        return
    import fcntl

    with storage_errors(path):
        file = path.open("w")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RunError(busy) from None
        yield


def _names(path: Path) -> set[str]:
    """What a directory holds; a file in its place counts as holding itself."""
    if path.is_dir():
        return {child.name for child in path.iterdir()}
    return {path.name} if path.exists() else set()


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings under dotted names."""
    out: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            out |= _flat(value, f"{prefix}{key}.")
        else:
            out[f"{prefix}{key}"] = value
    return out
