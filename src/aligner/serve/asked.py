"""Asked: a request that was read, and what is to become of its answers."""

from __future__ import annotations

from dataclasses import dataclass

from aligner.serve import wire
from aligner.serve.chunks import ChunkStream
from aligner.serve.events import EventStream
from aligner.serve.options import Options
from aligner.serve.stops import stop_sequences
from aligner.serve.upstreams import Route
from aligner.serve.wire import Answer, Json
from aligner.types import Corrector


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request that was read: its body for us and for the upstream, its options, the format that its answers must keep
    to, and why nothing is corrected."""

    kind: wire.Kind
    body: Json
    data: bytes
    options: Options
    corrector: Corrector
    route: Route
    wanted: Json | None
    untouched: str | None

    def stream(self) -> ChunkStream | EventStream:
        """What reads the upstream's stream, and writes ours."""
        return EventStream(self.body) if self.kind == "responses" else ChunkStream(self.kind, self.body)

    def formatted(self, answers: list[Answer]) -> list[Answer]:
        """Answers to this request, which know what their corrections must be."""
        stops = stop_sequences(self.body)
        for answer in answers:
            answer.wanted, answer.stops = self.wanted, stops
        return answers
