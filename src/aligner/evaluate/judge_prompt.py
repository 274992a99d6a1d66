"""JudgePrompt: the text a judge is asked with, the code that only its own verdict carries, and how that is read."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal

from aligner.config import nearest
from aligner.errors import ConfigError
from aligner.rows import storage_errors

Choice = Literal["A", "B", "Equal"]

_FIELDS = ("question", "answer_a", "answer_b", "code")
_FIELD = re.compile("{(" + "|".join(_FIELDS) + ")}")
# No 0, 1, i, l and o, which are read for one another; 31^12 codes are 59 bits.
_LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"
_LENGTH = 12
_SUFFIX = ".txt"
# At the start alone: elsewhere a judge may be quoting the answer before it.
_THOUGHT = re.compile(r"\A\s*<think>.*?(?:</think>|\Z)", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgePrompt:
    """What a judge is asked about one dimension: a text with {question}, {answer_a}, {answer_b} and {code}."""

    dimension: str
    text: str

    def fill(self, *, question: str, answer_a: str, answer_b: str, code: str) -> str:
        """The prompt of one request. What is filled in is not looked at again: an answer with {code} stays so."""
        values = {"question": question, "answer_a": answer_a, "answer_b": answer_b, "code": code}
        return _FIELD.sub(lambda found: values[found[1]], self.text)


def code_of(key: str, *parts: str) -> str:
    """The code of one request: HMAC-SHA-256 under `key` over all of its texts, as 12 letters and digits.

    Whoever writes an answer cannot put its code into it: with every change of the answer the code changes too.
    """
    mac = hmac.new(key.encode("utf-8", "surrogatepass"), digestmod=hashlib.sha256)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        mac.update(b"%d:" % len(data) + data)
    number = int.from_bytes(mac.digest(), "big")
    letters = []
    for _ in range(_LENGTH):
        number, rest = divmod(number, len(_LETTERS))
        letters.append(_LETTERS[rest])
    return "".join(letters)


def read_verdict(reply: str, code: str) -> Choice | None:
    """The last line that is nothing but `Verdict-<code>: A`, `B` or `Equal`; None where there is none.

    Reasoning in a `<think>` block at the start holds drafts and is passed over, to the end where it never closes.
    """
    line = re.compile(rf"^[ \t]*Verdict-{re.escape(code)}: (A|B|Equal)[ \t\r]*$", re.MULTILINE)
    found: list[Choice] = line.findall(_THOUGHT.sub("", reply))
    return found[-1] if found else None


def load_prompts(directory: str | Path | None = None, dimensions: Iterable[str] | None = None) -> list[JudgePrompt]:
    """The prompts of some dimensions: `<dimension>.txt` of a directory, else the one that comes with the package.

    Args:
        directory: of prompts of one's own; None: only those of the package.
        dimensions: in this order; None: all of the package's and the directory's.

    Raises:
        ConfigError: the directory or a prompt is missing, or a prompt lacks one of its four fields or the verdict line.
    """
    texts = {path.name.removesuffix(_SUFFIX): path.read_text(encoding="utf-8") for path in _packaged()}
    if directory is not None:
        own = Path(directory)
        if not own.is_dir():
            raise ConfigError(f"{directory}: no such directory of judge prompts; make one with "
                              "aligner.evaluate.judge_prompt.copy_prompts")  # fmt: skip
        for path in sorted(own.glob(f"*{_SUFFIX}")):
            texts[path.name.removesuffix(_SUFFIX)] = _read(path)
    prompts = []
    for dimension in texts if dimensions is None else dimensions:
        if dimension not in texts:
            where = f"{directory}: " if directory is not None else ""
            raise ConfigError(f"{where}no judge prompt for '{dimension}' ({nearest(dimension, list(texts))}); write "
                              f"{dimension}{_SUFFIX} into a directory and name that in 'prompts'")  # fmt: skip
        prompts.append(JudgePrompt(dimension=dimension, text=texts[dimension]))
    return prompts


def copy_prompts(directory: str | Path) -> list[Path]:
    """Write the package's prompts into a directory, to be changed there; files that exist stay as they are.

    Raises:
        StorageError: it cannot be written.
    """
    target = Path(directory)
    written = []
    with storage_errors(target):
        target.mkdir(parents=True, exist_ok=True)
        for source in _packaged():
            path = target / source.name
            if not path.exists():
                path.write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
                written.append(path)
    return written


def _packaged() -> list[Path]:
    folder = resources.files("aligner.evaluate").joinpath("judge_prompts")
    return sorted(Path(str(path)) for path in folder.iterdir() if path.name.endswith(_SUFFIX))


def _read(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"{path}: cannot be read ({e}); save it as UTF-8 text") from None
    lacking = [name for name in _FIELDS if f"{{{name}}}" not in text]
    if lacking:
        raise ConfigError(f"{path}: the prompt lacks {', '.join(f'{{{name}}}' for name in lacking)}; "
                          "it needs all four of the package's fields")  # fmt: skip
    if "Verdict-{code}:" not in text:
        raise ConfigError(f"{path}: the prompt does not ask for the line 'Verdict-{{code}}: A, B or Equal', "
                          "and no other verdict is read")  # fmt: skip
    return text
