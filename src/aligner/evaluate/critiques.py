"""Critiques: whether a model that criticises its own answers can tell the faulty ones from the others."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from aligner.evaluate.config import EvalSettings
from aligner.evaluate.metrics import interval, mean_of
from aligner.evaluate.resampling import resampled
from aligner.evaluate.tasks import ALL
from aligner.generate.method import Method

# Of one answer and one principle: what the critique said of an answer without a fault, and of one with.
_ABSENT, _RIGHT_PASS, _WRONG_FAIL, _WRONG_PASS, _RIGHT_FAIL = range(5)
_CODES = {(False, True): _RIGHT_PASS, (False, False): _WRONG_FAIL, (True, True): _WRONG_PASS,
          (True, False): _RIGHT_FAIL}  # fmt: skip
LEAST = 5
"""Answers with a fault, and without one, that it takes to say anything."""


class Critiques:
    """The critiques of one upstream's answers by one method, beside the faults that the judge counts."""

    def __init__(self, corrector: str, upstream: str, method: Method, questions: int) -> None:
        self.corrector, self.upstream, self.method = corrector, upstream, method
        self._codes = np.zeros((questions, len(method.principles)), np.int8)
        self._unread = np.zeros(len(method.principles), np.int64)
        self._known = False

    def add(self, place: int, critiques: Mapping[str, Mapping[str, Any]], faults: Mapping[str, int] | None) -> None:
        """Count the critiques of one answer; those that did not say, and faults that are not known, are left out."""
        for column, principle in enumerate(self.method.principles):
            if faults is None or principle.name not in critiques or principle.dimension not in faults:
                continue
            self._known = True
            passed = critiques[principle.name]["passed"]
            if passed is None:
                self._unread[column] += 1
            else:
                self._codes[place, column] = _CODES[faults[principle.dimension] > 0, passed]

    def rows(self, settings: EvalSettings) -> list[dict[str, Any]]:
        """Balanced accuracy from 0 to 1 with its interval: of each principle, and their mean under "all"; none where
        no faults were counted.

        Balanced accuracy is the mean of two shares: of the faultless answers those that passed, of the faulty ones
        those that failed; a critic that looks at nothing has 0.5, however many answers are faulty. A principle counts
        for the mean where it met `LEAST` answers of both kinds; where none did, nothing can be said. Principles are
        not thrown together: one that all answers keep and one that all break would make a blind critic look good.
        """
        if not self._known:
            return []
        patterns, repeats = np.unique(self._codes, axis=0, return_counts=True)
        counts = np.stack([(self._codes == code).sum(axis=0) for code in range(1, 5)], axis=1)
        can_say = (counts[:, :2].sum(axis=1) >= LEAST) & (counts[:, 2:].sum(axis=1) >= LEAST)
        seed = [settings.seed, zlib.crc32(f"{self.corrector}\0{self.upstream}".encode("utf-8", "replace"))]

        def measure(drawn: Float[np.ndarray, "block patterns"]) -> Float[np.ndarray, "block principles"]:
            return _balanced(np.stack([drawn @ (patterns == code) for code in range(1, 5)], axis=-1))

        replicates = resampled(measure, repeats, settings.resamples, seed, width=4 * patterns.shape[1])
        accuracy = _balanced(counts.astype(np.float64))
        found = []
        for column, principle in enumerate(self.method.principles):
            said = self._values(
                accuracy[column : column + 1],
                replicates[:, column : column + 1],
                can_say[column : column + 1],
                settings,
            )
            key = {"principle": principle.name, "dimension": principle.dimension}
            found.append(self._key() | key | said | _counts(counts[column], int(self._unread[column])))
        said = self._values(accuracy, replicates, can_say, settings)
        total = _counts(counts.sum(axis=0), int(self._unread.sum()))
        return [self._key() | {"principle": ALL, "dimension": None} | said | total, *found]

    def _key(self) -> dict[str, Any]:
        return {"corrector": self.corrector, "upstream": self.upstream}

    def _values(
        self,
        accuracy: Float[np.ndarray, " principles"],
        replicates: Float[np.ndarray, "resamples principles"],
        can_say: np.ndarray,
        settings: EvalSettings,
    ) -> dict[str, Any]:
        bounds = None
        if can_say.any():
            bounds = interval(mean_of([replicates[:, i] for i in np.flatnonzero(can_say)]), settings.confidence)
        if bounds is None:
            return {"accuracy": None, "low": None, "high": None, "at_chance": None}
        return {
            "accuracy": round(float(accuracy[can_say].mean()), 4),
            "low": round(bounds[0], 4),
            "high": round(bounds[1], 4),
            "at_chance": bounds[0] <= 0.5,
        }


def _balanced(counts: Float[np.ndarray, "*any codes"]) -> Float[np.ndarray, "*any"]:
    """(share of the faultless that passed + share of the faulty that failed) / 2; NaN where one kind is missing."""
    with np.errstate(invalid="ignore", divide="ignore"):
        passed = counts[..., 0] / (counts[..., 0] + counts[..., 1])
        failed = counts[..., 3] / (counts[..., 2] + counts[..., 3])
    mean: Float[np.ndarray, "*any"] = (passed + failed) / 2
    return mean


def _counts(counts: Int64[np.ndarray, " codes"], unread: int) -> dict[str, int]:
    names = ("faultless_passed", "faultless_failed", "faulty_passed", "faulty_failed")
    return {**{name: int(count) for name, count in zip(names, counts, strict=True)}, "unread": unread}
