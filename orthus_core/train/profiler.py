"""A look into the steps of a training: torch's trace of a few of them, and where the time goes."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from orthus_core.atomic import write_text
from orthus_core.errors import OutputError
from orthus_core.train.throughput import BETWEEN, PARTS, Meter

TRACE, TABLE = "trace.json.gz", "parts.txt"
# Steps before the trace, in which memory is first taken and kernels are chosen; and those traced.
WARM_UP, TRACED = 3, 3


class StepProfiler:
    """Traces some steps after a warm-up, and sums the parts of those that follow.

    The trace slows its steps down, so they are in the table only if the training ends with them.

    Args:
        folder: Folder to write to.
        meter: Measures the steps' parts; made exact.
    """

    def __init__(self, folder: Path, meter: Meter) -> None:
        self.folder, self.meter = folder, meter
        meter.exact = True
        self.steps = 0
        self._trace: profile | None = None
        self._from: tuple[int, dict[str, float]] = (0, dict(meter.seconds))

    def begin_step(self) -> None:
        """Before a step."""
        if self.steps == WARM_UP:
            self.meter.enter(self.meter.part)
            self._from = self.steps, dict(self.meter.seconds)
            activities = [ProfilerActivity.CPU]
            activities += [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
            self._trace = profile(activities=activities)
            self._trace.start()
            self.meter.leave_out()

    def end_step(self) -> list[str]:
        """After a step; returns what to say of it."""
        self.meter.enter(self.meter.part)
        self.steps += 1
        if self._trace is None or self.steps < WARM_UP + TRACED:
            return []
        return self._end_trace()

    def _end_trace(self) -> list[str]:
        trace, self._trace = self._trace, None
        assert trace is not None, "it was begun"
        trace.stop()
        lost = ""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            trace.export_chrome_trace(str(self.folder / TRACE))
        except OSError as error:  # such as a full disk; the training goes on
            lost = f"the trace of some steps was not written to {self.folder}: {error}"
        self.meter.leave_out()
        first, last = self._from[0] + 1, self.steps
        if last >= WARM_UP + TRACED:
            self._from = self.steps, dict(self.meter.seconds)
        if lost:
            return [lost]
        return [
            f"steps {first} to {last} of this run are traced in {self.folder / TRACE}: open it in "
            "https://ui.perfetto.dev"
        ]

    def finish(self) -> list[str]:
        """At the end of a training: write the table; returns it, and what else to say."""
        self.meter.enter(self.meter.part)
        notes = self._end_trace() if self._trace is not None else []
        before, seconds = self._from
        if self.steps == before:  # it ended with the trace
            before, seconds = 0, dict.fromkeys(PARTS, 0.0)
        steps = self.steps - before
        spent = {part: self.meter.seconds[part] - seconds[part] for part in PARTS}
        lines = table(spent, steps)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_text(self.folder / TABLE, "".join(line + "\n" for line in lines))
        except (OSError, OutputError) as error:
            notes.append(f"this table was not written to {self.folder}: {error}")
        return [*notes, *lines]


def table(spent: dict[str, float], steps: int) -> list[str]:
    """Lines of a table: milliseconds a step of each part, and its share of the whole."""
    whole = sum(spent.values()) or 1.0
    of_steps = f"{steps} steps" if steps != 1 else "1 step"
    lines = [f"where the time of {of_steps} went, in milliseconds a step"]
    for part, seconds in spent.items():
        lines.append(f"  {part:<26}{1e3 * seconds / max(1, steps):>10.1f}  {seconds / whole:>6.1%}")
    stepping = {part: seconds for part, seconds in spent.items() if part not in BETWEEN}
    own = sum(stepping.values()) - sum(spent[part] for part in PARTS[:3])
    share = own / (sum(stepping.values()) or 1.0)
    lines.append(f"  of a step itself, {share:.1%} are not forward, backward or optimiser")
    return lines
