"""What the device says of itself: power, energy, temperatures, clocks, power mode.

>>> from time import perf_counter
>>> from adaptrt.runtime.telemetry import Telemetry
>>> with Telemetry.find() as telemetry:
...     reading = telemetry.read(perf_counter())
>>> reading.total_power_w is None or reading.total_power_w > -1e4
True

``docs/telemetry.md`` says what is read where, and what it takes to be allowed to.
"""

from adaptrt.runtime.telemetry.discovery import find_sensors
from adaptrt.runtime.telemetry.energy import EnergyMeter
from adaptrt.runtime.telemetry.latency_histogram import LatencyHistogram
from adaptrt.runtime.telemetry.reading import EnergyCounter, PowerMode, Reader, Reading, merge
from adaptrt.runtime.telemetry.telemetry import Telemetry

__all__ = [
    "EnergyCounter",
    "EnergyMeter",
    "LatencyHistogram",
    "PowerMode",
    "Reader",
    "Reading",
    "Telemetry",
    "find_sensors",
    "merge",
]
