"""Made: what a recipe's run made itself, what it found in the cache, and how long that took."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from aligner.report.fields import items, number, read_object
from aligner.rows import dumps, write_atomic
from aligner.runs import RunDir

_FILE = "made.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """The names of what was made and found, the seconds of making it where they are known, and those of everything with
    the evaluation."""

    made: tuple[str, ...] = ()
    from_cache: tuple[str, ...] = ()
    making_seconds: float | None = None
    seconds: float = 0.0

    @classmethod
    def read(cls, run: RunDir) -> Made:
        """What earlier processes wrote of a run that is gone on with; nothing where there is no such file.

        Raises:
            DataError: the file is damaged.
        """
        path = run.path / _FILE
        known, where = read_object(path) or {}, str(path)
        return cls(
            made=tuple(items(known, "made", where)),
            from_cache=tuple(items(known, "from_cache", where)),
            making_seconds=number(known, "making_seconds", where),
            seconds=number(known, "seconds", where) or 0.0,
        )

    def and_then(self, later: Made) -> Made:
        """Both processes' work: what the first one made, the later one found in the cache."""
        made = dict.fromkeys([*self.made, *later.made])
        found = dict.fromkeys([*self.from_cache, *later.from_cache])
        return Made(
            made=tuple(made),
            from_cache=tuple(name for name in found if name not in made),
            making_seconds=self._both(later),
            seconds=round(self.seconds + later.seconds, 1),
        )

    def _both(self, later: Made) -> float | None:
        """The seconds of making; None where what an older version made is not timed apart."""
        if self.making_seconds is None and self.made:
            return None
        return round((self.making_seconds or 0.0) + (later.making_seconds or 0.0), 1)

    def write(self, run: RunDir) -> None:
        """Replace the run's file whole.

        Raises:
            StorageError: it cannot be written.
        """
        write_atomic(run.path / _FILE, dumps(asdict(self), indent=2) + "\n")
