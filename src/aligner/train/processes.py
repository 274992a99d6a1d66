"""The processes that train together: how they meet, which of them writes, and ways to share work that are refused."""

from __future__ import annotations

import os
from datetime import timedelta

from accelerate import PartialState

from aligner.errors import ConfigError
from aligner.generate.hf import default_device

# While the first process reads the data the others wait, and NCCL by itself gives up after ten minutes.
_PATIENCE = timedelta(hours=12)


def processes() -> PartialState:
    """The processes that `accelerate launch` or `torchrun` started; this one alone where neither did.

    Raises:
        ConfigError: they are to share the weights out among them.
    """
    _refuse_sharding()
    # Without being told so, accelerate takes every process on a CPU for one that is alone.
    return PartialState(cpu=default_device() == "cpu", timeout=_PATIENCE)


def is_first() -> bool:
    """Whether this is the process that writes and speaks."""
    return bool(PartialState().is_main_process)


def _refuse_sharding() -> None:
    # Each process measures held-out rows by itself and the first one saves: of a share of the weights that would be
    # a wait without end, and files with nothing in them.
    if _is_set("ACCELERATE_USE_FSDP"):
        way = "FSDP"
    elif _is_set("ACCELERATE_USE_DEEPSPEED") and _zero_stage() == 3:
        way = "DeepSpeed ZeRO-3"
    else:
        return
    raise ConfigError(f"training under {way}, which splits the weights over the processes, is not supported; choose "
                      "multi-GPU alone (DDP), or DeepSpeed with ZeRO stage 1 or 2, in `accelerate config`")  # fmt: skip


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "").lower() in ("1", "true", "yes")


def _zero_stage() -> int:
    from accelerate.utils import DeepSpeedPlugin

    return int(DeepSpeedPlugin().zero_stage)  # of the launcher's variables, or of the file that they name
