"""
How full the watched filesystems are and were: readings, gauges, rates and samples, for the loop to decide on.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from survived.decide import forecast
from survived.decide.pressure import check_marks, dwell_left, step_filesystem, worst
from survived.events import Event, about
from survived.model import Filesystem, Gauge, Pressure, Rules, Sample
from survived.store import history
from survived.units import print_share

if TYPE_CHECKING:
    from collections.abc import Mapping

    from survived.machine import Machine
    from survived.store.database import Database

log = logging.getLogger(__name__)
_SAMPLE_SECONDS = 30.0
_SAMPLES = 720  # of them are a week once they are thinned
_WEEK = 7 * 86400.0
_POINT = 0.01


def minute_of_day(now: float) -> int:
    """Return the minute of the local day, 0 to 1439, that quiet hours are about."""
    local = time.localtime(now)
    return local.tm_hour * 60 + local.tm_min


class Levels:
    """What is known of each watched filesystem, by mount."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.filesystems: tuple[Filesystem, ...] = ()
        self.gauges: dict[str, tuple[Gauge, Gauge]] = {}
        self.troubles: dict[str, str] = {}  # marks that make no sense on a filesystem, by mount
        self._least: dict[str, float] = {}  # the lowest usage since there was a reason to measure
        self._rates: dict[str, forecast.Rate] = {}
        self._samples: dict[str, list[Sample]] = {}
        self._is_recalled = False

    def read(self, rules: Rules, now: float) -> tuple[bool, list[Sample]]:
        """
        Read once; return whether there is a reason to measure, and the samples that are worth keeping.

        The reasons are another pressure, and a point more under it: a notice of either names what grew.
        """
        self.filesystems = self._machine.read_filesystems()
        mono, changed, fresh = time.monotonic(), False, []
        troubles = {fs.mount: check_marks(fs, rules) for fs in self.filesystems}
        self.troubles = {mount: trouble for mount, trouble in troubles.items() if trouble is not None}
        for fs in self.filesystems:
            before = self.gauges.get(fs.mount, (Gauge(), Gauge()))
            after = self.gauges[fs.mount] = step_filesystem(before, fs, rules, mono)
            if worst(before) is not worst(after):
                extra = about(Event.PRESSURE, mount=fs.mount, pressure=worst(after), usage=round(fs.usage, 4))
                log.info("%s: pressure %s, at %s", fs.mount, worst(after), print_share(fs.usage), extra=extra)
                changed = True
            least = self._least[fs.mount] = min(fs.usage, self._least.get(fs.mount, fs.usage))
            if worst(after) is not Pressure.NORMAL and fs.usage >= least + _POINT:
                changed, self._least[fs.mount] = True, fs.usage
            self._rates[fs.mount] = forecast.follow(self._rates.get(fs.mount), fs, mono)
            samples = self._samples.setdefault(fs.mount, [])
            if not samples or now - samples[-1].time >= _SAMPLE_SECONDS:
                samples.append(Sample(now, fs.mount, fs.used_bytes, fs.available_bytes, fs.inodes_used))
                fresh.append(samples[-1])
                if len(samples) > _SAMPLES:
                    self._samples[fs.mount] = forecast.thin(samples, now)
        return changed, fresh

    def resume(self, episodes: Mapping[str, str]) -> None:
        """After a restart go on where pressure had been told: once begun it ends only at low."""
        for mount, quantity in episodes.items():
            gauges = self.gauges.get(mount)
            if gauges is not None and worst(gauges) is Pressure.NORMAL:
                begun = Gauge(Pressure.HIGH, time.monotonic())
                self.gauges[mount] = (begun, gauges[1]) if quantity == "bytes" else (gauges[0], begun)

    def recall(self, database: Database, now: float) -> None:
        """Learn once what was before this process began, from the history of a store; SurvivedError if it cannot be read."""
        if self._is_recalled:
            return
        for fs in self.filesystems:
            ours = self._samples.get(fs.mount, [])
            first = ours[0].time if ours else now
            before = [sample for sample in history.since(database, fs.mount, now - _WEEK) if sample.time < first - _SAMPLE_SECONDS]
            self._samples[fs.mount] = forecast.thin([*before, *ours], now)
        self._is_recalled = True

    def pressures(self) -> dict[str, Pressure]:
        """Return the pressure of each filesystem."""
        return {fs.mount: worst(self.gauges[fs.mount]) for fs in self.filesystems}

    def worst(self) -> Pressure:
        """Return the highest pressure of all."""
        return max(self.pressures().values(), key=lambda pressure: pressure.rank, default=Pressure.NORMAL)

    def seconds_to_full(self, now: float) -> dict[str, float | None]:
        """Return the forecasts."""
        return {fs.mount: forecast.seconds_to_full(self._samples.get(fs.mount, []), now) for fs in self.filesystems}

    def wait(self, rules: Rules) -> float:
        """Return how long to sleep before the next reading: a dwell that ends is a reason to look."""
        mono = time.monotonic()
        waits = [forecast.next_wait(self.filesystems, rules, self._rates, mono)]
        waits += [left for fs in self.filesystems if (left := dwell_left(self.gauges[fs.mount], rules, mono)) is not None]
        return min(waits)

    def line(self) -> str:
        """Return one line about all of them."""
        return ", ".join(f"{fs.mount} {print_share(fs.usage)} ({worst(self.gauges[fs.mount])})" for fs in self.filesystems)
