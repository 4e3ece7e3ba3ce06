"""Results as tables, for a terminal and for docs/benchmarks.md alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from orthus_core.bench.heads import HeadLap
from orthus_core.bench.preset_timings import PresetLap
from orthus_core.bench.race import Race

GIB = 2**30


class Table(NamedTuple):
    """Columns, rows of text, and a note below them."""

    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    note: str = ""

    def markdown(self) -> str:
        """The table in Markdown."""
        lines = [self.columns, ("---",) * len(self.columns), *self.rows]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return f"{table}\n\n{self.note}" if self.note else table


def race_table(race: Race) -> Table:
    """One row per side, with its parts in columns; then the roofline at each batch size."""
    parts = list(dict.fromkeys(part for lap in race.laps for part in lap.parts))
    rows = []
    for lap in race.laps:
        ratio = "" if lap is race.laps[0] else f"{race.ratios[lap.batch]:.1f}x"
        peak = "" if lap.peak_bytes is None else f"{lap.peak_bytes / GIB:.2f}"
        split = [seconds(lap.parts[part]) if part in lap.parts else "" for part in parts]
        total = seconds(lap.seconds_a_picture)
        rows.append((lap.side, str(lap.batch), total, ratio, *split, peak))
    for batch, least in race.roofline.items():
        split = [seconds(least[part]) if part in least else "" for part in parts]
        rows.append(("roofline", str(batch), seconds(sum(least.values())), "", *split, ""))
    return Table(
        ("side", "batch", "s a picture", "faster", *parts, "peak GiB"),
        rows,
        f"Largest difference of features {race.difference:.2g}, of features of size "
        f"{race.feature_size:.3g}; of pictures {race.pixel_difference:.2g} of 255 levels. "
        f"Roofline at the measured {race.bandwidth / 1e9:.0f} GB/s of a copy.",
    )


def head_table(laps: Sequence[HeadLap]) -> Table:
    """The head alone, one row per layout."""
    return Table(
        ("patches at once", "layout", "release, s", "engine, s a patch", "faster", "difference"),
        [
            (
                str(lap.pictures),
                lap.layout or "own choice",
                seconds(lap.released_seconds),
                seconds(lap.seconds),
                f"{lap.ratio:.1f}x",
                f"{lap.difference:.2g}",
            )
            for lap in laps
        ],
    )


def preset_table(laps: Sequence[PresetLap]) -> Table:
    """One row per preset."""
    return Table(
        ("preset", "scheduler", "steps", "s a picture", "faster", "feature error", "PSNR, dB"),
        [
            (
                lap.name,
                lap.scheduler,
                str(lap.steps),
                seconds(lap.seconds_a_picture),
                f"{lap.ratio:.1f}x",
                f"{100 * lap.feature_error:.1f}%",
                "equal" if lap.psnr is None else f"{lap.psnr:.1f}",
            )
            for lap in laps
        ],
    )


def seconds(value: float) -> str:
    """Three digits: "12.3", "0.0123"."""
    return f"{value:.3g}"
