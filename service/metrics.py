"""Every metric of the service: name, help, labels, buckets. Label values come from closed sets only.

One registry per `Metrics`, so that two apps in one process (tests) do not collide.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from service import __version__

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
ITEMS = (1, 2, 3, 4, 6, 8, 12, 16, 32, 64)
SHARES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75)
LAGS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0)


class Metrics:
    """All counters, gauges and histograms, under the prefix `earmark_`."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"earmark_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"earmark_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"earmark_{name}", text, labels, buckets=buckets, registry=registry)

        build = gauge("build_info", "1, with the version as label.", "version")
        build.labels(__version__).set(1)

        # the door
        self.requests = counter(
            "requests_total", "Requests answered; status 499: the client had gone.", "route", "status"
        )
        self.request_seconds = histogram(
            "request_seconds", "From the first byte of a request to the last of its answer.", SECONDS, "route"
        )
        self.in_flight = gauge("requests_in_flight", "Requests being answered now.")
        self.body_bytes = counter("body_bytes_total", "Bytes of bodies received.")
        self.bodies_bytes = gauge("bodies_in_memory_bytes", "Bytes of bodies held now.")
        self.refusals = counter("refusals_total", "Requests refused, by the code of the problem.", "code")
        self.loop_lag_seconds = histogram("event_loop_lag_seconds", "How late the event loop wakes.", LAGS)

        # audio
        self.audio_seconds = counter("audio_seconds_total", "Seconds of audio listened to.", "task")
        self.decode_seconds = histogram(
            "decode_seconds", "Computing time of decoding and resampling one recording.", SECONDS
        )

        # the engine
        self.queue_items = gauge("queue_items", "Jobs that wait.", "model")
        self.queue_seconds = gauge("queue_seconds", "Predicted seconds of computing that wait.", "model")
        self.wait_seconds = histogram(
            "queue_wait_seconds", "From submission to the start of the batch.", SECONDS, "model"
        )
        self.batch_items = histogram("batch_items", "Jobs in one batch.", ITEMS, "model")
        self.batch_padding = histogram("batch_padding_share", "Share of a batch that is padding.", SHARES, "model")
        self.run_seconds = histogram("run_seconds", "Computing time of one batch.", SECONDS, "model")
        self.jobs = counter("jobs_total", "Jobs by their end.", "model", "end")
        self.batches_split = counter("batches_split_total", "Batches split after a failure.", "model", "reason")
        self.workers_lost = counter("workers_lost_total", "Workers replaced because a run did not come back.")
        self.workers_busy = gauge("workers_busy", "Workers that compute now.")

        # models
        self.model_loaded = gauge("model_loaded", "1 for each version that serves.", "model", "task")
        self.model_bytes = gauge("model_file_bytes", "Size of the file that serves.", "model")
        self.model_load_seconds = histogram(
            "model_load_seconds", "Loading, checking and warming of one version.", SECONDS
        )
