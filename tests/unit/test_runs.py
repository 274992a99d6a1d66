"""Run directories: when one is made, refused, gone on with or emptied; what it tells; and lineage."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import get_args

import pytest
from pydantic import Field

from aligner import runs
from aligner.config import Config
from aligner.cores import usable_cores
from aligner.errors import DataError, RunError, StorageError
from aligner.rows import file_hash, read_rows
from aligner.runs import (
    Ancestor,
    LineageRole,
    RunDir,
    ancestor_of_file,
    environment,
    lineage_from_json,
    lineage_to_json,
    merge_lineage,
)


class Inner(Config):
    rate: float = 0.1
    names: dict[str, int] = Field(default_factory=dict)


class Settings(Config):
    seed: int = 0
    inner: Inner = Inner()


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "one"


class TestCreate:
    def test_new(self, place: Path) -> None:
        run = RunDir.create(str(place), Settings(seed=3))
        assert run == RunDir(place)
        assert names(place) == {"config.yaml", "env.json"}
        assert Settings.from_yaml(run.config_path) == Settings(seed=3)
        assert RunDir.open(place) == run

    def test_empty_directory_is_taken(self, place: Path) -> None:
        place.mkdir(parents=True)
        assert RunDir.create(place, Settings()).config_path.is_file()

    @pytest.mark.parametrize("existing", ["refuse", "resume", "overwrite"])
    def test_file_in_its_place_is_refused(self, tmp_path: Path, existing: runs.Existing) -> None:
        (tmp_path / "file").write_text("mine")
        with pytest.raises(RunError, match=r"file: (exists already|is not a run directory)"):
            RunDir.create(tmp_path / "file", Settings(), existing)
        assert (tmp_path / "file").read_text() == "mine"

    def test_place_that_cannot_be_made(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(StorageError, match="cannot be written"):
            RunDir.create(tmp_path / "file" / "run", Settings())
        with pytest.raises(StorageError, match="name too long"):
            RunDir.create(tmp_path / ("x" * 300), Settings())

    def test_existing_is_refused(self, place: Path) -> None:
        RunDir.create(place, Settings())
        before = (place / "config.yaml").stat().st_mtime_ns
        with pytest.raises(RunError, match=r"one: exists already; pass --resume to go on, --overwrite to start anew"):
            RunDir.create(place, Settings(seed=1))
        assert (place / "config.yaml").stat().st_mtime_ns == before

    def test_overwrite_leaves_a_run_that_is_at_work(self, place: Path) -> None:
        run = RunDir.create(place, Settings())
        with run.locked():
            run.write_result({"kind": "test"})
            with pytest.raises(RunError, match="another process works here"):
                RunDir.create(place, Settings(seed=1), "overwrite")
            assert run.result() == {"kind": "test"}
        assert RunDir.create(place, Settings(seed=1), "overwrite").result() is None

    def test_resume_keeps_everything(self, place: Path) -> None:
        run = RunDir.create(place, Settings(seed=3))
        with run.metrics() as metrics:
            metrics.write({"step": 1})
        env = (place / "env.json").read_bytes()
        again = RunDir.create(place, Settings(seed=3), "resume")
        assert again == run
        assert (place / "env.json").read_bytes() == env
        with again.metrics() as metrics:
            assert metrics.rows == 1

    def test_resume_of_nothing_starts(self, place: Path) -> None:
        assert RunDir.create(place, Settings(), "resume").config_path.is_file()

    @pytest.mark.parametrize(
        ("other", "differs"),
        [
            (Settings(seed=1), "seed"),
            (Settings(inner=Inner(rate=0.2)), "inner.rate"),
            (Settings(seed=1, inner=Inner(names={"a": 1})), "inner.names, inner.names.a, seed"),
        ],
    )
    def test_resume_with_another_configuration_names_what_differs(
        self, place: Path, other: Settings, differs: str
    ) -> None:
        RunDir.create(place, Settings())
        with pytest.raises(RunError) as caught:
            RunDir.create(place, other, "resume")
        assert str(caught.value) == (
            f"{place}: was started with another configuration (differs in: {differs}); "
            "resume with the same one, pass --overwrite to start anew, or choose another --out"
        )

    def test_a_place_is_checked_for_the_configuration_before_anything_is_made(self, place: Path) -> None:
        assert not RunDir.check_place(place, "resume", Settings())
        RunDir.create(place, Settings())
        assert RunDir.check_place(place, "resume", Settings())
        assert RunDir.check_place(place, "resume")
        assert not RunDir.check_place(place, "overwrite", Settings(seed=1))
        with pytest.raises(RunError, match=r"differs in: seed\); .* --overwrite"):
            RunDir.check_place(place, "resume", Settings(seed=1))

    def test_resume_names_settings_that_came_or_went(self, place: Path) -> None:
        run = RunDir.create(place, Settings())
        run.config_path.write_text("seed: 0\nold: null\ninner:\n  rate: 0.1\n  names: {}\n")
        with pytest.raises(RunError, match=r"differs in: old\)"):
            RunDir.create(place, Settings(), "resume")
        run.config_path.write_text("inner:\n  rate: 0.1\n  names: {}\n")
        with pytest.raises(RunError, match=r"differs in: seed\)"):
            RunDir.create(place, Settings(), "resume")

    @pytest.mark.parametrize("content", ["- 1\n", "a: [", "\0"])
    def test_resume_with_a_damaged_configuration(self, place: Path, content: str) -> None:
        RunDir.create(place, Settings()).config_path.write_text(content)
        with pytest.raises(RunError, match=r"config.yaml: .*; restore it, or choose another --out"):
            RunDir.create(place, Settings(), "resume")

    @pytest.mark.parametrize("existing", ["resume", "overwrite"])
    @pytest.mark.parametrize("left", [[".env.json.1a2b"], ["env.json"], ["env.json", ".config.yaml.1a2b"]])
    def test_create_that_was_killed_can_be_done_again(
        self, place: Path, left: list[str], existing: runs.Existing
    ) -> None:
        place.mkdir(parents=True)
        for name in left:
            (place / name).write_text("{")
        with pytest.raises(RunError, match="exists already"):
            RunDir.create(place, Settings())
        run = RunDir.create(place, Settings(), existing)
        assert names(place) == {"config.yaml", "env.json"}
        assert run.environment()["cpus"] == usable_cores()

    @pytest.mark.parametrize("existing", ["resume", "overwrite"])
    @pytest.mark.parametrize("foreign", [["thesis.tex"], ["config.yaml.bak"], ["env.json", "thesis.tex"]])
    def test_directory_that_is_no_run_is_left_alone(
        self, place: Path, foreign: list[str], existing: runs.Existing
    ) -> None:
        place.mkdir(parents=True)
        for name in foreign:
            (place / name).write_text("mine")
        with pytest.raises(RunError, match=r"one: is not a run directory \(no config.yaml and env.json\)"):
            RunDir.create(place, Settings(), existing)
        assert names(place) == set(foreign)

    def test_project_with_a_config_yaml_is_not_overwritten(self, place: Path) -> None:
        place.mkdir(parents=True)
        (place / "config.yaml").write_text("site: blog\n")
        with pytest.raises(RunError, match="is not a run directory"):
            RunDir.create(place, Settings(), "overwrite")
        with pytest.raises(RunError, match="differs in"):
            RunDir.create(place, Settings(), "resume")
        assert names(place) == {"config.yaml"}

    def test_resume_where_config_yaml_is_a_directory(self, place: Path) -> None:
        RunDir.create(place, Settings()).config_path.unlink()
        (place / "config.yaml").mkdir()
        for existing in ("resume", "overwrite"):
            with pytest.raises(RunError, match="is not a run directory"):
                RunDir.create(place, Settings(), existing)  # type: ignore[arg-type]

    def test_overwrite_empties_it(self, place: Path, tmp_path: Path) -> None:
        run = RunDir.create(place, Settings())
        run.model_path.mkdir()
        (run.model_path / "weights").write_text("w")
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "precious").write_text("p")
        (place / "link").symlink_to(tmp_path / "data")
        run.write_result({"a": 1})
        new = RunDir.create(place, Settings(seed=1), "overwrite")
        assert names(place) == {"config.yaml", "env.json"}
        assert Settings.from_yaml(new.config_path).seed == 1
        assert (tmp_path / "data" / "precious").exists()

    def test_overwrite_through_a_link(self, place: Path, tmp_path: Path) -> None:
        RunDir.create(place, Settings()).write_result({})
        (tmp_path / "latest").symlink_to(place)
        RunDir.create(tmp_path / "latest", Settings(), "overwrite")
        assert (tmp_path / "latest").is_symlink()
        assert names(place) == {"config.yaml", "env.json"}

    @pytest.mark.parametrize("stop", range(4))
    def test_overwrite_that_was_killed_can_be_done_again(
        self, place: Path, monkeypatch: pytest.MonkeyPatch, stop: int
    ) -> None:
        """Whatever file the removal stops before, the rest is still taken for a run."""
        RunDir.create(place, Settings()).write_result({})
        (place / "metrics.jsonl").write_text("")
        unlink, removed = Path.unlink, []

        def stopping(path: Path, missing_ok: bool = False) -> None:
            if len(removed) == stop:
                raise KeyboardInterrupt
            removed.append(path)
            unlink(path, missing_ok)

        monkeypatch.setattr(Path, "unlink", stopping)
        with pytest.raises(KeyboardInterrupt):
            RunDir.create(place, Settings(), "overwrite")
        monkeypatch.undo()
        assert len(names(place)) == 4 - stop
        RunDir.create(place, Settings(), "overwrite")
        assert names(place) == {"config.yaml", "env.json"}


def test_open_refuses_what_is_no_run(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(RunError, match=r"is not a run directory \(no config.yaml\); give the --out of a train run"):
            RunDir.open(path)


def test_files(place: Path) -> None:
    run = RunDir.create(place, Settings())
    assert run.result() is None
    run.write_result({"score": 0.5, "text": "ü \ud800"})
    assert run.result() == {"score": 0.5, "text": "ü \ud800"}
    with run.metrics() as metrics, run.samples() as samples:
        metrics.write({"loss": 1.0})
        samples.write({"answer": "a"})
    assert [row.value for row in read_rows(run.metrics_path)] == [{"loss": 1.0}]
    assert [row.value for row in read_rows(place / "samples.jsonl")] == [{"answer": "a"}]
    assert run.model_path == place / "model"
    (place / "env.json").unlink()
    assert run.environment() == {}


class TestEnvironment:
    def test_content(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "argv", ["/somewhere/bin/aligner", "train", "c.yaml", "--seed", "3"])
        env = RunDir.create(place, Settings()).environment()
        assert set(env) == {
            *("started", "python", "platform", "processor", "cpus", "accelerator", "packages", "git", "command")
        }
        assert env["command"] == ["aligner", "train", "c.yaml", "--seed", "3"]
        assert env["python"] == ".".join(map(str, sys.version_info[:3]))
        assert env["packages"]["torch"] == metadata.version("torch")
        assert env["packages"]["aligner"] == metadata.version("aligner")
        assert env["started"].endswith("+00:00")

    def test_names_no_place_on_this_machine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "argv", [str(Path(__file__).resolve()), "--x"])
        text = json.dumps(environment())
        for own in (str(Path.home()), str(Path.cwd()), str(Path(__file__).parent), sys.prefix, os.uname().nodename):
            assert own not in text

    def test_package_that_is_not_there_is_left_out(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(runs, "_PACKAGES", ("numpy", "no-such-package"))
        assert list(environment()["packages"]) == ["numpy"]

    def test_git_revision_is_that_of_this_code(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A copy that is installed inside another repository must not take that one's revision for its own."""

        def git(*arguments: str) -> str:
            who = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
            return subprocess.run(
                ["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
            ).stdout.strip()

        (tmp_path / "other.txt").write_text("x")
        (tmp_path / "runs.py").write_text("")
        git("init", "-q")
        git("add", "other.txt")
        git("commit", "-q", "-m", "one")
        monkeypatch.setattr(runs, "__file__", str(tmp_path / "runs.py"))
        assert environment()["git"] is None
        git("add", "runs.py")
        git("commit", "-q", "-m", "two")
        assert environment()["git"] == git("rev-parse", "--short=12", "HEAD")
        (tmp_path / "runs.py").write_text("changed")
        assert environment()["git"] == git("rev-parse", "--short=12", "HEAD") + "-dirty"

    def test_without_git(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        assert environment()["git"] is None


class TestLineage:
    DATA = Ancestor(role="data", name="t.jsonl", hash="00")
    JUDGE = Ancestor(role="judge", name="j", hash="11")

    def test_ancestor_of_file_names_no_directory(self, tmp_path: Path) -> None:
        path = tmp_path / "t.jsonl"
        path.write_text("{}\n")
        assert ancestor_of_file("data", path) == Ancestor(role="data", name="t.jsonl", hash=file_hash(path))
        assert str(tmp_path) not in json.dumps(lineage_to_json((ancestor_of_file("data", str(path)),)))

    def test_ancestor_of_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="No such file"):
            ancestor_of_file("data", tmp_path / "none")

    def test_merge_keeps_each_once_in_order(self) -> None:
        assert merge_lineage([self.DATA], (self.JUDGE, self.DATA), []) == (self.DATA, self.JUDGE)
        assert merge_lineage() == ()

    def test_round_trip_through_json(self) -> None:
        lineage = tuple(Ancestor(role=role, name=f"n {role}", hash="ff") for role in get_args(LineageRole))
        assert lineage_from_json(json.loads(json.dumps(lineage_to_json(lineage)))) == lineage

    @pytest.mark.parametrize(
        "entry",
        [
            {},
            {"role": "data", "name": "n"},
            {"role": "poet", "name": "n", "hash": "h"},
            {"role": "data", "name": 1, "hash": "h"},
        ],
    )
    def test_damaged_entry(self, entry: dict[str, str]) -> None:
        good = lineage_to_json((self.DATA,))
        with pytest.raises(DataError, match=r"lineage entry 1 is .*; expected a name, a hash and a role of data, base"):
            lineage_from_json([*good, entry])
