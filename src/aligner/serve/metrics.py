"""Metrics: what the gateway counts, for Prometheus. Numbers only: no text, no keys."""

from __future__ import annotations

import math

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from aligner.serve.measures import Measures
from aligner.types import Correction, Usage

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_SHARES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)

_NATS = (0.001, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)


class Metrics:
    """The counters of one gateway, apart from any other of the process."""

    def __init__(self) -> None:
        at = self._registry = CollectorRegistry(auto_describe=True)
        self.requests = Counter("aligner_requests", "Requests answered.", ("endpoint", "status"), registry=at)
        self.in_flight = Gauge("aligner_requests_in_flight", "Requests under way.", registry=at)
        self.waiting = Gauge("aligner_queue_depth", "Answers before the corrector.", registry=at)
        self.seconds = Histogram(
            "aligner_request_seconds", "From a request to its last byte.", ("endpoint",), buckets=_SECONDS, registry=at
        )
        self.upstream_seconds = Histogram(
            "aligner_upstream_seconds", "From asking the upstream to its last byte.", buckets=_SECONDS, registry=at
        )
        self.correction_seconds = Histogram(
            "aligner_correction_seconds", "From an answer to its whole correction.", buckets=_SECONDS, registry=at
        )
        self.first_seconds = Histogram(
            "aligner_first_correction_seconds",
            "From an answer to the first text of its correction, in streams.",
            buckets=_SECONDS,
            registry=at,
        )
        self.answers = Counter(
            "aligner_answers",
            "Answers by what became of them: changed, copied, passed by the gate, kept, failed or untouched.",
            ("outcome",),
            registry=at,
        )
        self.kept = Counter("aligner_kept", "Answers that were not corrected, by reason.", ("reason",), registry=at)
        self.edit_ratio = Histogram(
            "aligner_edit_ratio", "Share of words that a correction changed.", buckets=_SHARES, registry=at
        )
        self.copied_share = Histogram(
            "aligner_copied_share", "Share of a correction's words that stand in the answer.", buckets=_SHARES,
            registry=at,
        )  # fmt: skip
        self.read_ahead = Counter(
            "aligner_read_ahead", "Answers that the corrector began to read while they were written.", registry=at
        )
        self.gate = Counter("aligner_gate", "What the gate decided: passed or held.", ("decision",), registry=at)
        self.gate_nats = Histogram(
            "aligner_gate_nats", "Minus the log-likelihood of a copy, as far as a gate read it; 0 is certain.",
            buckets=_NATS, registry=at,
        )  # fmt: skip
        self.tokens = Counter("aligner_corrector_tokens", "Tokens of the corrector.", ("kind",), registry=at)
        self.shadow_dropped = Counter(
            "aligner_shadow_dropped",
            "Answers that shadow mode left out: too many waited, it was stopped, or they broke off.",
            registry=at,
        )

    def corrected(self, correction: Correction, measures: Measures, seconds: float) -> None:
        """Count one answer that the corrector saw to its end."""
        self.correction_seconds.observe(seconds)
        self.spent(correction.completion.usage)
        if correction.gate is not None:
            self.gate.labels("passed" if correction.gate.passed else "held").inc()
            if math.isfinite(correction.gate.score):
                self.gate_nats.observe(-correction.gate.score)
        if correction.kept_because is not None:
            self.answers.labels("kept").inc()
            self.kept.labels(correction.kept_because).inc()
            return
        passed = correction.gate is not None and correction.gate.passed
        self.answers.labels("passed" if passed else "copied" if correction.is_copy else "changed").inc()
        self.edit_ratio.observe(measures.edit_ratio)
        self.copied_share.observe(measures.copied_share)

    def untouched(self, reason: str, count: int = 1) -> None:
        """Count answers that the corrector never saw."""
        self.answers.labels("untouched").inc(count)
        self.kept.labels(reason).inc(count)

    def failed(self, reason: str) -> None:
        """Count one answer whose correction failed."""
        self.answers.labels("failed").inc()
        self.kept.labels(reason).inc()

    def spent(self, usage: Usage) -> None:
        """Count the corrector's tokens."""
        self.tokens.labels("prompt").inc(usage.prompt_tokens)
        self.tokens.labels("completion").inc(usage.completion_tokens)

    def page(self) -> tuple[bytes, str]:
        """The text that Prometheus reads, and its content type."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST
