"""Measure what runs: telemetry, the first thing to be left out when there is trouble."""

from __future__ import annotations

from oakestra.control.clock import Clock
from oakestra.model.errors import OakestraError
from oakestra.model.machine import InstanceUsage
from oakestra.runtime import Runtime
from oakestra.runtime.machine import Machine
from oakestra.wire.native import InstanceMeasurement, Telemetry
from oakestra.worker.desired import Desired

LOG_TAIL_BYTES = 1024


class Meter:
    """Turns counters into loads; remembers the previous reading."""

    def __init__(self, runtime: Runtime, machine: Machine, clock: Clock) -> None:
        self._runtime = runtime
        self._machine = machine
        self._clock = clock
        self._cpu_ns: dict[int, int] = {}
        self._read_s = clock.uptime_s()

    async def measure(self, desired: Desired) -> Telemetry | None:
        """Return the loads since the last reading; None if there is nothing new to tell."""
        try:
            counters = await self._runtime.usage()
        except OakestraError:
            return None
        now_s = self._clock.uptime_s()
        elapsed_ns = max(now_s - self._read_s, 0.001) * 1e9
        self._read_s = now_s
        instances: list[InstanceMeasurement] = []
        for instance in desired.instances:
            counter = counters.get(instance.number)
            if counter is None:
                continue
            before_ns = self._cpu_ns.get(instance.number, counter.cpu_ns)
            self._cpu_ns[instance.number] = counter.cpu_ns
            usage = InstanceUsage(
                cpu_ratio=round(max(counter.cpu_ns - before_ns, 0) / elapsed_ns, 4),
                memory_bytes=counter.memory_bytes,
                disk_bytes=counter.disk_bytes,
                log_tail=await self._log_tail(instance.number),
            )
            instances.append(InstanceMeasurement(key=instance.key, usage=usage))
        self._cpu_ns = {number: ns for number, ns in self._cpu_ns.items() if number in counters}
        return Telemetry(machine=self._machine.usage(), instances=tuple(instances))

    async def _log_tail(self, number: int) -> str:
        lines = self._runtime.logs(number, tail_bytes=LOG_TAIL_BYTES, follow=False)
        try:
            tail = b"".join([piece async for piece in lines])
        except OakestraError:
            return ""
        return tail[-LOG_TAIL_BYTES:].decode(errors="replace")
