"""What a server counts, as Prometheus reads it."""

from __future__ import annotations

from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

Kind = TypeVar("Kind", Counter, Gauge, Histogram)

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)


class Metrics:
    """The numbers of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def named(kind: type[Kind], name: str, about: str, labels: tuple[str, ...] = (), **options: Any) -> Kind:
            return kind(f"jaxft_{name}", about, labels, registry=self.registry, **options)

        self.requests = named(Counter, "requests", "Requests that were answered", ("endpoint", "status"))
        self.seconds = named(Histogram, "request_seconds", "From arrival to last word", ("endpoint",), buckets=_SECONDS)
        self.cancelled = named(Counter, "cancelled", "Requests whose client left before the end")
        self.read = named(Counter, "read_tokens", "Tokens of prompts and texts")
        self.written = named(Counter, "written_tokens", "Tokens that were written")
        self.batches = named(Histogram, "batch_texts", "Texts of a batch", buckets=(1, 2, 4, 8, 16, 32, 64))
        self.waiting = named(Gauge, "waiting_texts", "Texts that wait")
        self.working = named(Gauge, "working_texts", "Texts that are worked on")

    def text(self) -> bytes:
        """In the text format."""
        return generate_latest(self.registry)
