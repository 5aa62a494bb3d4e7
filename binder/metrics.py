"""BinderHub's Prometheus metrics, under its names."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

BUILD_TIME = Histogram(
    "binderhub_build_time_seconds",
    "How long builds took",
    ["status"],
    buckets=[1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, float("inf")],
)
LAUNCH_TIME = Histogram(
    "binderhub_launch_time_seconds",
    "How long launches took",
    ["status", "retries"],
    buckets=[2, 5, 10, 20, 30, 60, 120, 300, 600, float("inf")],
)
BUILD_COUNT = Counter(
    "binderhub_build_count", "Builds by repository", ["status", "provider", "repo"]
)
LAUNCH_COUNT = Counter(
    "binderhub_launch_count", "Launches by repository", ["status", "provider", "repo"]
)
BUILDS_INPROGRESS = Gauge("binderhub_inprogress_builds", "Builds in progress")
LAUNCHES_INPROGRESS = Gauge("binderhub_inprogress_launches", "Launches in progress")
BUILDS_WAITING = Gauge("binderhub_waiting_builds", "Builds in the queue")
