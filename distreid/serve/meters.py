"""What the service counts of itself, in the text format of Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Meters:
    """Of one service."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        self.requests = Counter(
            "distreid_requests", "Answers", ("method", "route", "status"), registry=registry
        )
        self.seconds = Histogram(
            "distreid_stage_seconds",
            "Seconds of decode, forward and search",
            ("stage",),
            buckets=SECONDS,
            registry=registry,
        )
        self.batch = Histogram(
            "distreid_batch_images", "Images computed together", buckets=BATCHES, registry=registry
        )
        self.waiting = Gauge(
            "distreid_waiting_images", "Images sent and not yet answered", registry=registry
        )
        self.generation = Gauge(
            "distreid_gallery_generation", "Of the gallery that is searched", registry=registry
        )
        self.rows = Gauge("distreid_gallery_rows", "That can be found", registry=registry)

    def text(self) -> bytes:
        """All of them."""
        return generate_latest(self._registry)
