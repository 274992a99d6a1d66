"""What an evaluation loads: upstreams and correctors, one at a time."""

from __future__ import annotations

import gc
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aligner.evaluate.apis import api_upstream
from aligner.evaluate.config import CorrectorSpec, EvalConfig, UpstreamSpec
from aligner.evaluate.inputs import corrector_place
from aligner.generate.store import ResponseStore
from aligner.runs import RunDir
from aligner.types import Generator

if TYPE_CHECKING:
    from aligner.correct.aligner import Aligner


@dataclass(frozen=True, slots=True, kw_only=True)
class Loader:
    """Makes what a run works with. `live` are upstreams that the caller brought, by name."""

    config: EvalConfig
    run_dir: RunDir
    live: Mapping[str, Generator]
    responses: ResponseStore | None

    def upstream(self, spec: UpstreamSpec) -> Generator:
        """A live one, one behind an address, or one that is loaded here.

        Raises:
            CheckpointError: its model is not there.
            ConfigError: its address is none, or its key is not set.
        """
        if spec.name in self.live:
            return self.live[spec.name]
        if spec.url is not None:
            return api_upstream(spec, self.responses)
        from aligner.correct.looped import load_upstream

        say(f"{spec.name}: loading {spec.model}")
        config = self.config
        return load_upstream(str(spec.model), device=config.device, dtype=config.dtype, max_rows=config.batch_size)

    def aligner(self, spec: CorrectorSpec) -> Aligner:
        """A corrector that is run here; its size goes to metrics.jsonl.

        Raises:
            CheckpointError: it is not there.
        """
        from aligner.correct.aligner import Aligner

        say(f"{spec.name}: loading {spec.aligner}")
        config = self.config
        aligner = Aligner.from_pretrained(
            corrector_place(spec),
            prompt=spec.prompt,
            device=config.device,
            dtype=config.dtype,
            max_rows=config.max_rows,
            cache_tokens=config.cache_tokens,
            gate=spec.gate,
            guards=config.guards,
            quantize=config.quantize,
        )
        with self.run_dir.metrics() as metrics:
            metrics.write({"corrector": spec.name, "parameters": aligner.model.num_parameters()})
        return aligner


def free_memory() -> None:
    """Give back what a model held before the next one is loaded."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - progress
