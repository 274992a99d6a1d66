"""Baselines: a corrector beside prompting, where a model criticises and revises its own answers.

`aligner reproduce table2` (paper, table 2, at pocket size): the corrector, critique and revision in the manner of
Constitutional AI, and self-critique, with what each costs and whether the upstreams' critiques can tell a fault at all.
"""

from __future__ import annotations

from pathlib import Path

from aligner.config import Config, expand
from aligner.pocket.upstreams import profiles
from aligner.recipes.demo import QUICK_UPSTREAMS, say, stack
from aligner.recipes.suite_models import CACHE
from aligner.runs import Existing, RunDir

METHODS = {"CAI": "pocket-cai", "self-critique": "pocket-self-critique"}


class BaselinesConfig(Config):
    """Compare a corrector with prompting: critique and revision by a drawn principle, and self-critique by all."""

    out: Path | None = None
    """The run directory; left out: runs/table2, or runs/table2-quick."""
    quick: bool = False
    """The small corrector and two upstreams, in minutes."""
    cache: Path = CACHE
    """Where trained models lie, for the next run to find."""


def table2(config: BaselinesConfig, existing: Existing = "refuse") -> RunDir:
    """Correctors and prompting on the upstreams that can be prompted: the trained ones.

    Raises:
        RunError: the directory exists, a run to be resumed is one of other models, or a training process was killed.
        Interrupted: Ctrl-C; what was trained is kept.
    """
    out = expand(config.out or Path("runs/table2-quick" if config.quick else "runs/table2"), "out")
    wanted = [profiles()[name] for name in (QUICK_UPSTREAMS if config.quick else profiles())]
    scripted = [profile.name for profile in wanted if profile.size == "scripted"]
    trained = [profile.name for profile in wanted if profile.size != "scripted"]
    RunDir.check_place(out, existing)
    say(f"left out: {', '.join(scripted)} (scripted upstreams cannot be prompted)")
    return stack(
        out, ("S",) if config.quick else ("M",), trained, quick=config.quick, cache=config.cache, existing=existing,
        methods=METHODS,
    )  # fmt: skip
