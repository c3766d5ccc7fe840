"""Metrics scraped over HTTP, as Prometheus would."""

from __future__ import annotations

import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Iterable
from pathlib import Path

import pytest

from adaptrt.runtime.errors import TelemetryError
from adaptrt.runtime.telemetry import LatencyHistogram, Reading, Telemetry
from adaptrt.runtime.telemetry.prometheus import MetricsCollector, MetricsServer, ModelCounters
from tests.runtime.telemetry import device_trees as trees

pytest.importorskip("prometheus_client", reason="prometheus-client is not installed (adaptrt[telemetry])")

Labels = frozenset[tuple[str, str]]


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def scrape(source: MetricsCollector | MetricsServer) -> dict[tuple[str, Labels], float]:
    """What one scrape over HTTP gives, by name and labels."""
    from prometheus_client.parser import text_string_to_metric_families

    if isinstance(source, MetricsCollector):
        with MetricsServer(source, port=0) as server:
            return scrape(server)
    with urllib.request.urlopen(f"http://127.0.0.1:{source.port}/metrics", timeout=30) as answer:
        text = answer.read().decode()
        assert answer.headers["Content-Type"].startswith("text/plain")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def named(samples: Iterable[tuple[str, Labels]]) -> set[str]:
    return {name for name, _ in samples}


def of(**labels: str) -> Labels:
    return frozenset(labels.items())


def test_a_device_is_scraped(tmp_path: Path) -> None:
    trees.orin_nano(tmp_path)
    samples = scrape(MetricsCollector(Telemetry.find(tmp_path), clock=Clock()))
    assert samples["adaptrt_power_watts", of()] == pytest.approx(6.75648)
    assert samples["adaptrt_rail_power_watts", of(rail="VDD_SOC")] == pytest.approx(4.96 * 0.392)
    assert samples["adaptrt_temperature_celsius", of(zone="tj-thermal")] == pytest.approx(47.406)
    assert samples["adaptrt_clock_hertz", of(clock="gpu")] == pytest.approx(624.75e6)
    assert samples["adaptrt_fan_rpm", of(fan="pwm_tach")] == 1786
    assert samples["adaptrt_power_mode_info", of(name="15W", number="0")] == 1
    assert samples["adaptrt_telemetry_problems", of()] == 0


def test_what_is_absent_is_not_exported(tmp_path: Path) -> None:
    assert named(scrape(MetricsCollector(Telemetry.find(tmp_path), clock=Clock()))) == {"adaptrt_telemetry_problems"}
    trees.orin_nano(tmp_path)
    (tmp_path / "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon1/in1_input").write_text("garbage")
    samples = scrape(MetricsCollector(Telemetry.find(tmp_path), clock=Clock()))
    assert "adaptrt_power_watts" not in named(samples)
    assert ("adaptrt_rail_power_watts", of(rail="VDD_IN")) not in samples
    assert ("adaptrt_rail_power_watts", of(rail="VDD_SOC")) in samples
    assert samples["adaptrt_telemetry_problems", of()] == 1


def test_energy_is_a_counter_that_does_not_go_round(tmp_path: Path) -> None:
    trees.laptop(tmp_path)
    clock, telemetry = Clock(), Telemetry.find(tmp_path, interval_s=0)
    with MetricsServer(MetricsCollector(telemetry, clock=clock), port=0) as server:
        for time_s, microjoules in ((0.0, 262_100_000_000), (10.0, 262_140_000_000), (20.0, 10_000_000)):
            clock.now = time_s
            trees.rapl_zone(tmp_path, "intel-rapl:0", "package-0", microjoules)
            samples = scrape(server)
    assert samples["adaptrt_rail_energy_joules_total", of(rail="package-0")] == pytest.approx(40 + 13.32885)
    assert samples["adaptrt_energy_joules_total", of()] == pytest.approx(40 + 13.32885)


def test_an_exported_counter_never_falls() -> None:
    """A rail at rest shows less than 0 W, and a counter that falls would look like a restart."""

    class Rail:
        name = "rail"
        notes = ()
        power_w = 4.0

        def read(self, time_s: float) -> Reading:
            return Reading(time_s, power_w={"VDD_GPU": self.power_w}, total=("VDD_GPU",))

        def close(self) -> None: ...

    rail, clock = Rail(), Clock()
    seen = []
    with MetricsServer(MetricsCollector(Telemetry([rail], interval_s=0), clock=clock), port=0) as server:
        for number, power in enumerate((4.0, 4.0, -1.0, -1.0, -1.0, 4.0, 4.0, 4.0)):
            clock.now, rail.power_w = number / 2, power
            seen.append(scrape(server).get(("adaptrt_rail_energy_joules_total", of(rail="VDD_GPU")), 0.0))
    assert seen == sorted(seen) and seen[-1] > seen[2] == seen[4]


def test_a_models_counters(tmp_path: Path) -> None:
    latency = LatencyHistogram((0.005, 0.01))
    for seconds in (0.004, 0.007, 0.5):
        latency.observe(seconds)
    digits = ModelCounters(
        "digits",
        latency=latency,
        macs_fraction=lambda: 0.42,
        budget=lambda: ("latency", 8.0),
        targets_met=lambda: 97,
        targets_missed=lambda: 3,
    )
    speech = ModelCounters("speech", budget=lambda: ("energy", 40.0), macs_fraction=lambda: None)
    full = ModelCounters("full", budget=lambda: ("full", 0.0))
    samples = scrape(MetricsCollector(Telemetry.find(tmp_path), [digits, speech, full], clock=Clock()))
    assert samples["adaptrt_latency_seconds_bucket", of(model="digits", le="0.005")] == 1
    assert samples["adaptrt_latency_seconds_bucket", of(model="digits", le="0.01")] == 2
    assert samples["adaptrt_latency_seconds_bucket", of(model="digits", le="+Inf")] == 3
    assert samples["adaptrt_latency_seconds_count", of(model="digits")] == 3
    assert samples["adaptrt_latency_seconds_sum", of(model="digits")] == pytest.approx(0.511)
    assert samples["adaptrt_macs_fraction_ratio", of(model="digits")] == 0.42
    assert samples["adaptrt_budget_latency_seconds", of(model="digits")] == pytest.approx(0.008)
    assert samples["adaptrt_budget_energy_joules", of(model="speech")] == pytest.approx(0.04)
    assert samples["adaptrt_budget_calls_total", of(model="digits", outcome="met")] == 97
    assert samples["adaptrt_budget_calls_total", of(model="digits", outcome="missed")] == 3
    assert not [key for key in samples if ("model", "full") in key[1]]
    assert ("adaptrt_macs_fraction_ratio", of(model="speech")) not in samples


def test_a_callable_that_raises_costs_its_series_and_not_the_scrape(tmp_path: Path) -> None:
    def broken() -> float:
        raise ZeroDivisionError("no calls yet")

    model = ModelCounters("digits", macs_fraction=broken, targets_met=lambda: 1)
    samples = scrape(MetricsCollector(Telemetry.find(tmp_path), [model], clock=Clock()))
    assert "adaptrt_macs_fraction_ratio" not in named(samples)
    assert samples["adaptrt_budget_calls_total", of(model="digits", outcome="met")] == 1
    assert samples["adaptrt_telemetry_problems", of()] == 1


def test_a_closed_server_answers_nobody(tmp_path: Path) -> None:
    server = MetricsServer(MetricsCollector(Telemetry.find(tmp_path)), port=0)
    server.close()
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=5)


def test_it_listens_on_this_machine_alone(tmp_path: Path) -> None:
    with MetricsServer(MetricsCollector(Telemetry.find(tmp_path)), port=0) as server:
        assert server._server.server_address[0] == "127.0.0.1"


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    collector = MetricsCollector(Telemetry.find(tmp_path))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(TelemetryError, match="cannot be had .*choose another port, 0 for any"):
            MetricsServer(collector, port=taken.getsockname()[1])
    with pytest.raises(TelemetryError, match="choose another port"):
        MetricsServer(collector, port=70000)


def test_two_models_of_one_name(tmp_path: Path) -> None:
    with pytest.raises(TelemetryError, match="a different name for each"):
        MetricsCollector(Telemetry.find(tmp_path), [ModelCounters("digits"), ModelCounters("digits")])


def test_without_the_client_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client.core", None)
    with pytest.raises(TelemetryError, match=r"install adaptrt\[telemetry\]"):
        MetricsCollector(Telemetry.find(tmp_path))
