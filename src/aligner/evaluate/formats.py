"""Formats: how the rows of a published set become questions of ours. Pure: rows in, rows out.

Every reader yields rows as the user's own files have them (id, question, and where there are some a split, a reference
and fields of the set), so that a run can keep its questions in a file that is a task again.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from aligner.errors import DataError
from aligner.evaluate.cells import has_column, listed, text_of
from aligner.evaluate.dialogues import dialogsum, empathetic_dialogues
from aligner.evaluate.exact import final_number
from aligner.rows import Row
from aligner.types import content_hash

FormatName = Literal[
    "rows",
    "empathetic-dialogues",
    "dialogsum",
    "beavertails",
    "harmfulqa",
    "truthfulqa",
    "truthfulqa-mc",
    "alpaca-eval",
    "xstest",
    "gsm8k",
]
QUESTION = "{question}"

# (rows, the name of their place for errors, seed) to rows of ours
Reader = Callable[[Iterable[Row], str, int], Iterator[Row]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One way in which questions are written down.

    `prompt` is put around each question. `by_text` says that a question's id is the hash of its text, so that one that
    stands twice is the same question. `quoted` says that cells of its CSV files may be in quotation marks; where they
    may not, a mark is a character like others.
    """

    columns: tuple[str, ...]
    dimensions: tuple[str, ...]
    read: Reader
    prompt: str | None = None
    hub_split: str = "test"
    by_text: bool = False
    quoted: bool = True


def convert(name: FormatName, rows: Iterable[Row], place: str, seed: int) -> Iterator[Row]:
    """Original rows as rows of ours; those of the format "rows" pass as they are.

    Args:
        name: the format.
        rows: as they stand in the original, column names in any case.
        place: what the rows come from, for errors.
        seed: of what a format draws (which turn of a conversation).

    Raises:
        DataError: a column is missing (names those expected and those found), or a cell is not what it should be.
    """
    if name == "rows":
        yield from rows
        return
    yield from FORMATS[name].read(_checked(name, rows, place), place, seed)


def told_apart(found: Iterable[str]) -> str:
    """A hint where the columns found are those of a published format, else nothing."""
    names = {_column(name) for name in found}
    fitting = [name for name, form in FORMATS.items() if names.issuperset(form.columns)]
    if not fitting:
        return ""
    best = max(fitting, key=lambda name: len(FORMATS[name].columns))
    return f"; they are the columns of the format '{best}'"


def _checked(name: FormatName, rows: Iterable[Row], place: str) -> Iterator[Row]:
    wanted = FORMATS[name].columns
    for row in rows:
        value = {_column(column): cell for column, cell in row.value.items()}
        missing = [column for column in wanted if column not in value]
        if missing:
            what = f"the column '{missing[0]}' is" if len(missing) == 1 else f"the columns {listed(missing)} are"
            raise DataError(f"{place}:{row.line}: {what} missing; the format '{name}' expects {listed(wanted)} "
                            f"(found: {listed(row.value)}){told_apart(value)}")  # fmt: skip
        yield Row(line=row.line, value=value)


def _column(name: str) -> str:
    """TruthfulQA's file says 'Best Answer' where the same set on the Hub says best_answer."""
    return str(name).strip().lower().replace(" ", "_")


def _each(read: Callable[[Row, str], dict[str, Any]]) -> Reader:
    """A reader that makes one question of every row."""

    def reader(rows: Iterable[Row], place: str, _seed: int) -> Iterator[Row]:
        for row in rows:
            yield Row(line=row.line, value=read(row, f"{place}:{row.line}"))

    return reader


def _beavertails(row: Row, where: str) -> dict[str, Any]:
    """BeaverTails-Evaluation: prompts that provoke harm, fifty in each of 14 categories."""
    question = text_of(row.value, "prompt", where)
    return {"id": content_hash(question), "question": question, "category": row.value["category"]}


def _harmfulqa(row: Row, where: str) -> dict[str, Any]:
    """HarmfulQA: harmful questions by topic and subtopic; some stand under several."""
    question = text_of(row.value, "question", where)
    topics = {name: text_of(row.value, name, where) for name in ("topic", "subtopic")}
    return {"id": content_hash(question), "question": question, **topics}


def _truthfulqa(row: Row, where: str) -> dict[str, Any]:
    """TruthfulQA, answers to be written: the best answer is the reference; true and false ones come with it."""
    question = text_of(row.value, "question", where)
    return {
        "id": content_hash(question),
        "question": question,
        "reference": text_of(row.value, "best_answer", where),
        "correct": _several(row.value, "correct_answers", where),
        "incorrect": _several(row.value, "incorrect_answers", where),
        **{name: row.value[name] for name in ("type", "category") if has_column(row.value, name)},
    }


def _several(value: Mapping[str, Any], column: str, where: str) -> list[str]:
    """A list of texts, which a CSV cell holds with semicolons between them."""
    cell = value[column]
    parts = cell.split(";") if isinstance(cell, str) else cell
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        raise DataError(f"{where}: '{column}' is a {type(cell).__name__}; expected texts with ';' between them")
    return [part.strip() for part in parts if part.strip()]


def _truthfulqa_mc(row: Row, where: str) -> dict[str, Any]:
    """TruthfulQA, one right option of several (MC1). In the file the right one stands first, so their order is drawn.

    It is drawn from the texts alone: stored answers are letters, and hold in every run.
    """
    question = text_of(row.value, "question", where)
    options = _options(row.value["mc1_targets"], where)
    right = [option for option, label in options.items() if label == 1]
    if len(right) != 1 or not 2 <= len(options) <= len(string.ascii_uppercase):
        raise DataError(f"{where}: 'mc1_targets' has {len(options)} options and {len(right)} right ones; expected 2 to "
                        f"{len(string.ascii_uppercase)} options, one of them right")  # fmt: skip
    drawn = sorted(options, key=lambda option: content_hash(question, option))
    lines = [f"{letter}. {option}" for letter, option in zip(string.ascii_uppercase, drawn, strict=False)]
    place = drawn.index(right[0])
    return {
        "id": content_hash(question),
        "question": "\n".join([question, "", *lines]),
        "reference": lines[place],
        "options": drawn,
        "right": string.ascii_uppercase[place],
    }


def _options(targets: Any, where: str) -> dict[str, int]:
    """{option: 0 or 1}, as the file has them, or {choices: […], labels: […]}, as the Hub has them."""
    if isinstance(targets, Mapping) and targets.keys() == {"choices", "labels"}:
        choices, labels = targets["choices"], targets["labels"]
        if isinstance(choices, list) and isinstance(labels, list) and len(choices) == len(labels):
            targets = dict(zip(map(str, choices), labels, strict=True))
    # A Hub's column of objects has the options of all rows as its fields; those of other rows are None.
    if isinstance(targets, Mapping):
        known = {option: label for option, label in targets.items() if label is not None}
        if all(label in (0, 1) for label in known.values()):
            return known
    raise DataError(f"{where}: 'mc1_targets' is not what it should be; expected options with 0 or 1 (right) each")


def _alpaca_eval(row: Row, where: str) -> dict[str, Any]:
    """AlpacaEval: instructions of five kinds. The output beside each is some model's, so it is no reference."""
    question = text_of(row.value, "instruction", where)
    kept = {name: row.value[name] for name in ("dataset", "generator", "output") if has_column(row.value, name)}
    return {"id": content_hash(question), "question": question, **kept}


def _xstest(row: Row, where: str) -> dict[str, Any]:
    """XSTest: safe prompts that look unsafe, and unsafe ones beside them; each label is a split of its own.

    Files without labels have them in the types, where the unsafe ones are called contrasts.
    """
    question, kind = (text_of(row.value, name, where) for name in ("prompt", "type"))
    label = row.value.get("label") or ("unsafe" if kind.startswith("contrast") else "safe")
    if label not in ("safe", "unsafe"):
        raise DataError(f"{where}: 'label' is {label!r}; expected safe or unsafe")
    id_ = row.value.get("id")
    kept = {name: row.value[name] for name in ("focus", "note") if has_column(row.value, name)}
    return {
        "id": content_hash(question) if id_ in (None, "") else str(id_),
        "question": question,
        "split": label,
        "label": label,
        "type": kind,
        **kept,
    }


def _gsm8k(row: Row, where: str) -> dict[str, Any]:
    """GSM8K: sums told as stories; the last line of the solution is '#### ' and the number."""
    question, solution = (text_of(row.value, name, where) for name in ("question", "answer"))
    number = final_number(solution.rpartition("####")[2]) if "####" in solution else None
    if number is None:
        raise DataError(f"{where}: 'answer' has no last line with '####' and a number; expected one")
    return {"id": content_hash(question), "question": question, "reference": solution, "number": str(number)}


# The wording of the prompts is ours.
FORMATS: Mapping[FormatName, Format] = {
    "empathetic-dialogues": Format(
        columns=("conv_id", "utterance_idx", "context", "prompt", "speaker_idx", "utterance"),
        dimensions=("empathy",),
        read=empathetic_dialogues,
        quoted=False,
    ),
    "dialogsum": Format(
        columns=("dialogue",),
        dimensions=("summary",),
        read=dialogsum,
        prompt="Summarise this dialogue in one to three sentences. Name the speakers as it does.\n\n{question}",
    ),
    "beavertails": Format(
        columns=("prompt", "category"), dimensions=("helpful", "harmless"), read=_each(_beavertails), by_text=True
    ),
    "harmfulqa": Format(
        columns=("topic", "subtopic", "question"),
        dimensions=("helpful", "harmless"),
        read=_each(_harmfulqa),
        hub_split="train",
        by_text=True,
    ),
    "truthfulqa": Format(
        columns=("question", "best_answer", "correct_answers", "incorrect_answers"),
        dimensions=("honest",),
        read=_each(_truthfulqa),
        hub_split="validation",
        by_text=True,
    ),
    "truthfulqa-mc": Format(
        columns=("question", "mc1_targets"),
        dimensions=("correct",),
        read=_each(_truthfulqa_mc),
        prompt="{question}\n\nOne option is right. Answer with its letter alone.",
        hub_split="validation",
        by_text=True,
    ),
    "alpaca-eval": Format(
        columns=("instruction",), dimensions=("helpful",), read=_each(_alpaca_eval), hub_split="eval", by_text=True
    ),
    "xstest": Format(
        columns=("prompt", "type"), dimensions=("helpful", "harmless"), read=_each(_xstest), hub_split="train"
    ),
    "gsm8k": Format(
        columns=("question", "answer"),
        dimensions=("correct",),
        read=_each(_gsm8k),
        prompt="{question}\n\nWork it out step by step. Write the answer on a last line of its own: '#### ' and the "
        "number.",
        by_text=True,
    ),
}
