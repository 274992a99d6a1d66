"""What an evaluation is given, read and checked before anything is spent: tasks, stored texts, checkpoints."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from aligner.config import expand
from aligner.errors import CheckpointError, ConfigError, DataError, RunError
from aligner.evaluate.config import CorrectorSpec, EvalConfig
from aligner.evaluate.fingerprint import fingerprint
from aligner.evaluate.originals import content_of
from aligner.evaluate.questions import questions_hash
from aligner.evaluate.stored import UPSTREAM, corrections_of, stored_answers, stored_corrections
from aligner.evaluate.tasks import Suite, read_task
from aligner.generate.method import load_method, shipped
from aligner.prompts import Unit
from aligner.rows import dumps, file_hash, write_atomic
from aligner.runs import RunDir, check_apart

FILE_NAME = "inputs.json"
# What an older version recorded nothing of.
_MODELS = ("models/", "aligners/")
_AT_A_TIME: Mapping[Unit, str] = {"answer": "whole answers", "sentence": "sentence by sentence"}


def read_inputs(config: EvalConfig, live: Collection[str]) -> tuple[Suite, dict[str, Any]]:
    """The suite, and a record of what is read: files by content, models here by fingerprint, and the questions drawn.

    Args:
        config: all of its files are read and checked.
        live: names of the upstreams that the caller brings.

    Raises:
        DataError: a file is not what it should be.
        ConfigError: an upstream has neither a model nor answers, one that is brought is not in the configuration, a
            method is wrong or has to revise answers without their model, or a file or model lies in the run's own
            directory.
        CheckpointError: a corrector is a training run that has not finished.
    """
    for name in live:
        if name not in {spec.name for spec in config.upstreams}:
            raise ConfigError(f"an upstream '{name}' is handed in, and 'upstreams' does not name it")
    for spec in config.upstreams:
        if (spec.model, spec.answers, spec.url) == (None, None, None) and spec.name not in live:
            raise ConfigError(f"upstreams, '{spec.name}': give 'model' (it answers now), 'url' (it answers there) or "
                              "'answers' (they are stored)")  # fmt: skip
    _check_apart(config)
    tasks = [read_task(spec, sample=config.sample, seed=config.seed) for spec in config.tasks]
    suite = Suite(tasks)
    hashes = {
        f"tasks/{task.name}": questions_hash(task)
        for spec, task in zip(config.tasks, tasks, strict=True)
        if spec.file is None  # of a set of the Hub, whose files are not ours to find
    }
    lacking: dict[str, dict[str, list[str]]] = {}
    for spec in config.upstreams:
        if spec.answers is not None and spec.name not in live:
            answered = {place for place, _ in stored_answers(spec.answers, suite, partial=config.partial)}
            if missing := _by_task(suite, answered):
                lacking[spec.name] = missing
    for corrector in config.correctors:
        if corrector.corrections is not None:
            for spec in config.upstreams:
                only = len(config.upstreams) == 1
                _exhaust(stored_corrections(corrector.corrections, suite, spec.name, only=only))
        if corrector.method is not None:
            hashes[f"methods/{corrector.name}"] = _check_method(corrector.name, corrector.method, config, live)
    hashes |= {key: take() for key, take in _sources(config, live).items()}
    return suite, {
        "files": hashes,
        "questions": {
            task.name: {"total": task.total, "used": len(task.items), "repeated": task.repeated} for task in tasks
        },
        "sampled": {task.name: [item.id for item in task.items] for task in tasks if task.sampled},
        "lacking": lacking,
    }


def _sources(config: EvalConfig, live: Collection[str]) -> dict[str, Callable[[], str]]:
    """What takes the hash of each thing that is read from here, by its key in the record; nothing is parsed for it."""
    found: dict[str, Callable[[], str]] = {
        f"tasks/{spec.name}": partial(content_of, spec.file) for spec in config.tasks if spec.file is not None
    }
    for spec in config.upstreams:
        if spec.name in live:
            continue
        if spec.answers is not None:
            found[f"answers/{spec.name}"] = partial(_answers_hash, spec.answers)
        elif spec.model is not None and Path(spec.model).is_dir():
            found[f"models/{spec.name}"] = partial(fingerprint, Path(spec.model))
    for corrector in config.correctors:
        if corrector.aligner is not None and Path(corrector.aligner).is_dir():
            found[f"aligners/{corrector.name}"] = partial(_corrector_hash, corrector)
        if corrector.corrections is not None:
            for spec in config.upstreams:
                each = f"/{spec.name}" if UPSTREAM in str(corrector.corrections) else ""
                key = f"corrections/{corrector.name}{each}"
                found[key] = partial(_corrections_hash, corrector.corrections, spec.name)
    return found


def _answers_hash(path: Path) -> str:
    return file_hash(expand(path, "answers"))


def _corrections_hash(path: Path, upstream: str) -> str:
    return file_hash(corrections_of(path, upstream))


def _corrector_hash(spec: CorrectorSpec) -> str:
    from aligner.correct.card import FILE_NAME as CARD
    from aligner.correct.card import AlignerCard

    place = Path(corrector_place(spec))
    card = AlignerCard.load(place)
    # Of the card, what decides the corrections: calibrating a gate that is off changes none.
    gate = card.gate.to_json() if card is not None and card.gate is not None and spec.gate != "off" else None
    used = dumps({"prompt": None if card is None else card.prompt.to_json(), "gate": gate})
    return hashlib.sha256(f"{fingerprint(place, without=CARD)}:{used}".encode("utf-8", "backslashreplace")).hexdigest()


def _check_method(corrector: str, place: str, config: EvalConfig, live: Collection[str]) -> str:
    """SHA-256 of a method's settings, whose upstreams can all be asked."""
    method = load_method(place)
    for spec in config.upstreams:
        if spec.answers is not None and spec.name not in live:
            raise ConfigError(f"correctors, '{corrector}': by a method each upstream revises its own answers, and of "
                              f"'{spec.name}' there are only stored ones; give its 'model' or 'url', or leave it "
                              "out")  # fmt: skip
    return hashlib.sha256(method.to_yaml().encode("utf-8", "backslashreplace")).hexdigest()


def _check_apart(config: EvalConfig) -> None:
    given: list[Path | None] = [spec.file for spec in config.tasks]
    given += [spec.answers for spec in config.upstreams]
    given += [spec.corrections for spec in config.correctors]
    given += [
        Path(spec.method) for spec in config.correctors if spec.method is not None and spec.method not in shipped()
    ]
    check_apart(config.out, (expand(path) for path in given if path is not None))
    check_apart(config.out, [spec.model for spec in config.upstreams])
    check_apart(config.out, [spec.aligner for spec in config.correctors])


def _by_task(suite: Suite, answered: Collection[int]) -> dict[str, list[str]]:
    """The ids of the questions that are not among the answered places, by task."""
    found: dict[str, list[str]] = {}
    for place, item in enumerate(suite.items):
        if place not in answered:
            found.setdefault(item.task, []).append(item.id)
    return found


def check_checkpoints(config: EvalConfig, live: Collection[str]) -> None:
    """Find out whether every model is there, without loading one: hours of answers come before the first correction.

    Raises:
        CheckpointError: one is not, or was not calibrated for its gate.
        ConfigError: a corrector works on another unit than its `unit` says, or has a gate and works on sentences.
    """
    models = [spec.model for spec in config.upstreams if spec.model is not None and spec.name not in live]
    correctors = [spec for spec in config.correctors if spec.aligner is not None]
    if not models and not correctors:
        return  # nothing here needs torch
    from aligner.generate.hf import load_tokenizer, model_context

    for name in [*models, *(corrector_place(spec) for spec in correctors)]:
        load_tokenizer(name)
        model_context(name)
    for spec in correctors:
        _check_card(spec, config.quantize)


def corrector_place(spec: CorrectorSpec) -> str:
    """The directory of a corrector's weights, also where a training run is named; or its Hub id.

    Raises:
        CheckpointError: it is a training run that has not finished.
    """
    name = str(spec.aligner)
    place = Path(name)
    if (place / "config.yaml").is_file():
        if not (place / "model").is_dir():
            raise CheckpointError(f"{name}: this run has no model yet; finish it first (aligner train … --resume)")
        return str(place / "model")
    return name


def record_inputs(run_dir: RunDir, record: dict[str, Any]) -> None:
    """Write the record into the run directory, or compare it with the one there.

    Raises:
        RunError: something is not what it was when the run was started; names it.
    """
    path = run_dir.path / FILE_NAME
    text = dumps(record, indent=2) + "\n"
    if not path.is_file():
        write_atomic(path, text)
        return
    before, now = _read_record(path), json.loads(text)
    changed = _changed(before.get("files", {}), now["files"])
    changed = changed or [k for k in sorted(before.keys() | now.keys()) if before.get(k) != now.get(k) and k != "files"]
    if changed:
        raise _refusal(run_dir, changed)
    if before != now:  # an older version recorded less
        write_atomic(path, text)


def check_finished(run_dir: RunDir, config: EvalConfig, live: Collection[str]) -> None:
    """Compare what a finished run was made from with what is there of it now; what is gone is passed over.

    Raises:
        RunError: something is not what it was when the run was started; names it.
    """
    path = run_dir.path / FILE_NAME
    if not path.is_file():
        return
    before: dict[str, str] = _read_record(path).get("files", {})
    now = dict(before)
    for key, take in _sources(config, live).items():
        with suppress(DataError, CheckpointError):
            now[key] = take()
    if changed := _changed(before, now):
        raise _refusal(run_dir, changed)


def _read_record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        record = None
    if not isinstance(record, dict) or not isinstance(record.get("files", {}), dict):
        raise RunError(f"{path}: damaged; restore it, or start anew with --overwrite")
    return record


def _changed(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """The keys in which two records of files differ."""
    return [
        key
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and (key in before or not key.startswith(_MODELS))
    ]


def _refusal(run_dir: RunDir, changed: Collection[str]) -> RunError:
    return RunError(
        f"{run_dir.path}: what it is made from changed since the run was started ({', '.join(changed)}); put that back "
        "as it was, start anew with --overwrite, or choose another --out"
    )


def _check_card(spec: CorrectorSpec, quantize: str) -> None:
    from aligner.correct.card import FILE_NAME as CARD
    from aligner.correct.card import AlignerCard
    from aligner.correct.gate import gate_of
    from aligner.generate.hf import stored_bits

    card = AlignerCard.load(corrector_place(spec))
    _check_unit(spec, "answer" if card is None else card.prompt.unit)
    calibration = card.gate if card is not None and spec.prompt is None else None
    if spec.gate != "off" and quantize == "none":
        quantize = stored_bits(corrector_place(spec))
    gate_of(calibration, spec.gate, str(spec.aligner), quantize=quantize)
    if card is None and spec.prompt is None:
        raise CheckpointError(
            f"{spec.aligner}: no {CARD}, so the prompt it was trained with is not known; name it in the corrector's "
            "'prompt': aligner-v1 for the released 7B checkpoint, aligner-repo for the published training code, or chat"
        )


def _check_unit(spec: CorrectorSpec, trained: Unit) -> None:
    if spec.unit is not None and spec.unit != trained:
        raise ConfigError(f"correctors, '{spec.name}': {spec.aligner} corrects {_AT_A_TIME[trained]}, and 'unit' is "
                          f"{spec.unit}; train one with unit={spec.unit}, or leave 'unit' out")  # fmt: skip
    if trained == "sentence" and spec.gate != "off":
        raise ConfigError(f"correctors, '{spec.name}': the gate decides on whole answers, and {spec.aligner} corrects "
                          f"{_AT_A_TIME[trained]}; leave out 'gate'")  # fmt: skip


def _exhaust(values: Any) -> None:
    for _ in values:
        pass
