"""The verb: render the page of one run directory."""

from __future__ import annotations

from pathlib import Path

from aligner.config import Config
from aligner.report.render import render_run
from aligner.runs import RunDir


class ReportConfig(Config):
    """Write the page of a run again: one self-contained report.html in its directory."""

    run: Path
    """The run directory, as a verb's --out made it."""


def run(config: ReportConfig) -> RunDir:
    """Write report.html into the run directory.

    Raises:
        RunError: it is no run directory.
        DataError: a file in it is damaged.
        StorageError: it cannot be written.
    """
    found = RunDir.open(config.run)
    render_run(found)
    return found
