"""The report of `orthus replay` on an image or a story that was made again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from orthus_cli.console import Reporter

if TYPE_CHECKING:
    from orthus_core.api.replay import Remake
    from orthus_core.results.record import Difference, Record


def report_replay(
    r: Reporter,
    record: Record,
    remake: Remake,
    same: bool,
    among: int,
    differences: Sequence[Difference],
    output: Path | None,
) -> None:
    """Reports whether a result is the same again, and what differs.

    Args:
        same: Whether all pixels are those of the record.
        among: Number of images in its batch, itself included; 0 where it was drawn alone.
        differences: Changes in version, model, device and precision.
        output: Where the new image is kept.
    """
    apart = None if same else remake.distance(record)
    others = f", drawn with the {among - 1} others of its run" if same and among else ""
    lines = [f"identical{others}" if same else "not identical"]
    lines += [f"{what}: {then} then, {now} now" for what, then, now in differences]
    if not same and apart is not None:
        lines.append(
            f"{apart.values} of {apart.total} colour values differ, "
            f"by at most {apart.largest} of 255"
        )
    if not same and not differences:
        lines.append("version, model, device and dtype are the same")
        if apart is not None and apart.largest == 1:
            lines.append(
                "a difference of 1 is rounding: it depends on how many pictures are drawn at once, "
                "and on a CPU on whether the denoising steps are compiled"
            )
    if record.is_changed:
        lines.append("the picture in the file was changed after it was drawn")
    elif record.as_drawn is False:
        lines.append("the file is a JPEG, which loses a little: the drawn pixels were compared")
    r.result(
        {
            "path": str(record.path),
            "identical": same,
            "drawn_together": among or 1,
            "differences": [each._asdict() for each in differences],
            "distance": apart._asdict() if apart else None,
            "pixels": record.pixels,
            "output": str(output) if output else None,
        },
        text="\n".join(lines),
        quiet=["identical" if same else "different"],
    )
