"""The command line: parse, make a configuration, run it, say where the result is. Nothing else happens here.

Exit status: 0 done, 2 the input is wrong (one line says what, where and what to do), 130 interrupted, 1 anything else.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from aligner import __version__
from aligner.errors import ConfigError, GenerationError, Interrupted, UserError

if TYPE_CHECKING:
    from aligner.config import Config
    from aligner.data.check import Check
    from aligner.runs import Existing, RunDir

C = TypeVar("C", bound="Config")

HELP = """\
usage: aligner VERB …

Alignment by learning to correct: train a small model once, stack it on any LLM.

  aligner demo [--quick]                            train, stack and judge a corrector; quick: in minutes
  aligner train CONFIG.yaml [--setting value …]     warm-up, then residual training
  aligner correct --aligner DIR --input IN.jsonl --output OUT.jsonl
                                                    correct the answers of a file
  aligner calibrate --aligner DIR --input TRIPLETS  set the gate that lets good answers through
  aligner serve --aligner DIR --upstream URL        an OpenAI-compatible address that corrects any upstream
  aligner eval CONFIG.yaml [--setting value …]      win rates with and without correctors
  aligner data check FILE …                         what is in files of triplets
  aligner reproduce table1|table2 [--quick]         the paper's results, at pocket size
  aligner report DIR                                one self-contained page of a run

  aligner VERB --help                               a verb's settings
  aligner --version

A run directory or output that exists is refused; --resume goes on with it, --overwrite starts anew.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _dispatch(arguments)
    except UserError as e:
        _tell(f"aligner: {' '.join(str(e).split())}")
        return 2
    except GenerationError as e:
        _tell(f"aligner: {' '.join(str(e).split())}; what was written is whole, go on with --resume")
        return 1
    except Interrupted as e:
        _tell(f"aligner: {e}")
        return 130
    except KeyboardInterrupt:
        _tell("aligner: interrupted; what was written is whole, go on with --resume")
        return 130


def _dispatch(arguments: list[str]) -> int:
    verb = arguments.pop(0) if arguments else "--help"
    if verb in ("-h", "--help", "help"):
        _print(HELP)
        return 0
    if verb == "--version":
        _print(__version__)
        return 0
    if verb in ("data", "reproduce"):
        if not arguments or arguments[0].startswith("-"):
            _print(HELP)
            return 0
        verb = f"{verb} {arguments.pop(0)}"
    verbs: dict[str, Callable[[list[str]], int]] = {
        "demo": _recipe("demo.DemoConfig", "run", "demo"),
        "train": _train,
        "correct": _correct,
        "calibrate": _calibrate,
        "serve": _serve,
        "eval": _eval,
        "data check": _data_check,
        "report": _report,
        "reproduce table1": _recipe("demo.Table1Config", "table1", "reproduce table1"),
        "reproduce table2": _recipe("baselines.BaselinesConfig", "table2", "reproduce table2"),
    }
    if verb not in verbs:
        from aligner.config import nearest

        raise ConfigError(f"no verb is called '{verb}'; {nearest(verb, list(verbs))} (aligner --help lists them)")
    _quiet_libraries()
    return verbs[verb](arguments)


def _recipe(settings: str, name: str, verb: str) -> Callable[[list[str]], int]:
    """The verb that runs a function of a module of recipes/ with the settings defined there."""

    def run(arguments: list[str]) -> int:
        place, _, config_name = settings.partition(".")
        module = import_module(f"aligner.recipes.{place}")
        config_class = getattr(module, config_name)
        if _helped(config_class, f"{verb} [--quick] [--resume | --overwrite]", arguments):
            return 0
        existing = _existing(arguments)
        config = _configured(config_class, arguments, f"aligner {verb}")
        return _shown(getattr(module, name)(config, existing))

    return run


def _train(arguments: list[str]) -> int:
    from aligner.config import read_yaml
    from aligner.train.config import TrainConfig

    if _helped(TrainConfig, "train [CONFIG.yaml] [--resume | --overwrite]", arguments):
        return 0
    existing = _existing(arguments)
    path = arguments.pop(0) if arguments and not arguments[0].startswith("-") else None
    from aligner.flags import apply_flags

    values = apply_flags(TrainConfig, read_yaml(path) if path else {}, arguments)
    config = TrainConfig.from_dict(values, where=path or "aligner train")
    from aligner.train.corrector import run

    run_dir = run(config, existing)
    from aligner.train.processes import is_first

    if not is_first():
        return 0
    from aligner.report.render import render_run

    page = render_run(run_dir)
    _print(f"corrector: {run_dir.model_path}\nreport:    {page}")
    return 0


def _correct(arguments: list[str]) -> int:
    from aligner.correct.run import CorrectConfig, run

    if _helped(CorrectConfig, "correct --aligner DIR --input IN --output OUT [--resume | --overwrite]", arguments):
        return 0
    existing = _existing(arguments)
    # A scorer of one's own lies where one works, and a console script does not look there by itself.
    sys.path.append(str(Path.cwd()))
    summary = run(_configured(CorrectConfig, arguments, "aligner correct"), existing)
    kept = "".join(f", {count} kept ({why.replace('_', ' ')})" for why, count in sorted(summary.kept.items()))
    before = f", {summary.skipped} done before" if summary.skipped else ""
    passed = f" ({summary.passed} passed by the gate)" if summary.passed else ""
    _print(
        f"{summary.rows} answers: {summary.changed} changed, {summary.copies} repeated unchanged{passed}{kept}{before}"
    )
    _print(f"corrections: {summary.output}")
    if summary.first_error is not None:
        _tell(f"aligner: {summary.failed} answers could not be corrected; the first: {summary.first_error}; "
              "--resume tries them again")  # fmt: skip
        return 1
    return 0


def _calibrate(arguments: list[str]) -> int:
    from aligner.correct.calibrate import CalibrateConfig, run

    if _helped(CalibrateConfig, "calibrate --aligner DIR --input TRIPLETS", arguments):
        return 0
    config = _configured(CalibrateConfig, arguments, "aligner calibrate")
    found = run(config)
    _print(f"held-out rows: {found.needed} with a correction, {found.faultless} without")
    for mode, threshold in found.thresholds.items():
        _print(f"{mode}: passes {found.passed[mode]:.1%} of those without, above {threshold:.3f} nats")
    return 0


def _serve(arguments: list[str]) -> int:
    from aligner.serve.config import ServeConfig

    usage = "serve --aligner DIR|URL --upstream [NAME=]URL [--upstream …] [--resume | --overwrite]"
    if _helped(ServeConfig, usage, arguments):
        return 0
    existing = _existing(arguments)
    config = _configured(ServeConfig, arguments, "aligner serve")
    # A scorer of one's own lies where one works, and a console script does not look there by itself.
    sys.path.append(str(Path.cwd()))
    from aligner.serve.run import run

    run(config, existing, told=lambda url: _tell(f"aligner: {url} answers, corrected; stop with Ctrl-C"))
    return 0


def _eval(arguments: list[str]) -> int:
    from aligner.config import read_yaml
    from aligner.evaluate.config import EvalConfig, EvalSettings

    if _helped(EvalSettings, "eval CONFIG.yaml [--resume | --overwrite]", arguments):
        return 0
    existing = _existing(arguments)
    if not arguments or arguments[0].startswith("-"):
        raise ConfigError("eval needs a configuration: aligner eval CONFIG.yaml (aligner eval --help shows one)")
    path = arguments.pop(0)
    from aligner.flags import apply_flags

    config = EvalConfig.from_dict(apply_flags(EvalSettings, read_yaml(path), arguments), where=path)
    # A judge of one's own lies where one works, and a console script does not look there by itself.
    sys.path.append(str(Path.cwd()))
    from aligner.evaluate.run import run

    run_dir = run(config, existing)
    if config.batch_out is not None and run_dir.result() is None:
        from aligner.evaluate.batch import part_of

        many = not config.batch_out.exists()
        where = f"{part_of(config.batch_out, 1)} and the other parts" if many else str(config.batch_out)
        _print(f"requests: {where} (go on with --resume --batch-in ANSWERS{' …' if many else ''})")
        return 0
    return _shown(run_dir)


def _shown(run_dir: RunDir) -> int:
    """An evaluation's table and report."""
    from aligner.report.render import render_run

    page = render_run(run_dir)
    _print_eval(run_dir)
    _print(f"table:  {run_dir.path / 'table.json'}\nreport: {page}")
    return 0


def _print_eval(run_dir: RunDir) -> None:
    import json

    from rich.console import Console

    from aligner.report import terminal

    result = run_dir.result() or {}
    table = json.loads((run_dir.path / "table.json").read_text(encoding="utf-8"))
    console = Console(width=None if sys.stdout.isatty() else 160)
    for grid in terminal.grids(table, result):
        console.print(grid)
    for note in terminal.notes(result):
        _tell(f"aligner: {note}")


def _data_check(arguments: list[str]) -> int:
    from aligner.data.check import CheckConfig, check

    if _helped(CheckConfig, "data check FILE …", arguments):
        return 0
    found = check(_configured(CheckConfig, arguments, "aligner data check", positional="files"))
    _print_check(found)
    if found.unusable:
        rows = "row is" if found.unusable == 1 else "rows are"
        _tell(f"aligner: {found.unusable} {rows} no triplet; the first: {found.problems[0]}")
        return 2
    return 0


def _report(arguments: list[str]) -> int:
    from aligner.report.run import ReportConfig, run

    if _helped(ReportConfig, "report DIR", arguments):
        return 0
    run_dir = run(_configured(ReportConfig, arguments, "aligner report", positional="run"))
    _print(f"report: {run_dir.path / 'report.html'}")
    return 0


def _print_check(found: Check) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("source", *_COLUMNS.values(), title="triplets (lengths are medians)")
    for source in found.sources:
        figures = {name: getattr(source, name) for name in _COLUMNS}
        cells = [f"{x:.2f}" if name == "edit_ratio" else f"{x:,.0f}" for name, x in figures.items()]
        table.add_row(Text(source.source.encode("utf-8", "replace").decode()), *cells)
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    for problem in found.problems:
        _print(problem)


_COLUMNS = {
    "rows": "rows",
    "identical": "copies",
    "duplicates": "duplicates",
    "blank": "blank",
    "too_long": "too long",
    "question_length": "question",
    "answer_length": "answer",
    "correction_length": "correction",
    "edit_ratio": "edit ratio",
}


def _configured(cls: type[C], arguments: list[str], where: str, positional: str | None = None) -> C:
    from aligner.flags import apply_flags

    words: list[str] = []
    while positional and arguments and not arguments[0].startswith("-"):
        words.append(arguments.pop(0))
    given = [f"--{positional}", *words] if words else []
    return cls.from_dict(apply_flags(cls, {}, [*given, *arguments]), where=where)


def _helped(cls: type[Config], usage: str, arguments: list[str]) -> bool:
    if "-h" not in arguments and "--help" not in arguments:
        return False
    from inspect import cleandoc

    from aligner.flags import flags_help

    _print(f"usage: aligner {usage} [--setting value …]\n\n{cleandoc(cls.__doc__ or '')}\n\n{flags_help(cls)}")
    return True


def _existing(arguments: list[str]) -> Existing:
    resume, overwrite = "--resume" in arguments, "--overwrite" in arguments
    if resume and overwrite:
        raise ConfigError("--resume and --overwrite exclude each other; give one")
    arguments[:] = [a for a in arguments if a not in ("--resume", "--overwrite")]
    return "resume" if resume else "overwrite" if overwrite else "refuse"


def _quiet_libraries() -> None:
    """The libraries' own bars and notes would bury ours; whoever set these variables keeps the say."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")


def _print(text: str) -> None:
    sys.stdout.write(text.rstrip("\n") + "\n")


def _tell(text: str) -> None:
    sys.stderr.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
