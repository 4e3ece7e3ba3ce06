"""What is worth running on a borrowed card, in at most 12 minutes: python benchmarks/card.py

Each part runs in a process of its own and is ended at its share of the minutes, so that one that
fails or hangs costs no other. Findings are appended to OUTPUT/card.jsonl as they come;
OUTPUT/card.md is their table, written anew after each part. `--toy` runs all of it at toy size on a
CPU in less than a minute.

    right     reference tensors, batches, recorded steps, a story, quantised weights
    resume    a training that is killed and continued
    faults    suspected faults of the GPU path that occur only on a GPU (docs/benchmarks.md)
    packing   attention of packed rows: time and memory without masks and with a dense mask
    drawing   seconds a picture at the 7B's shape, for the release's algorithm and the roofline too
    training  steps of a 7B's build-base: tokens/s, use of the card, peak and planned memory
    stages    the five trainings of the bundled models
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from card_parts import drawing, faults, packing, resume, right, stages, training  # noqa: E402
from card_parts.findings import Asked, Finding  # noqa: E402


class Part(NamedTuple):
    """A part of the run.

    Attributes:
        run: Yields findings as they come.
        share: Its share of the minutes.
    """

    run: Callable[[Asked], Iterator[Finding]]
    share: float


# The most useful first; the trainings of the bundled models take what the others leave.
PARTS = {
    "right": Part(right.findings, 1.3),
    "resume": Part(resume.findings, 0.9),
    "faults": Part(faults.findings, 1.0),
    "packing": Part(packing.findings, 0.5),
    "drawing": Part(drawing.findings, 3.0),
    "training": Part(training.findings, 1.8),
    "stages": Part(stages.findings, 4.0),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("card"))
    parser.add_argument("--minutes", type=float, default=12, help="for all parts together")
    parser.add_argument("--only", default="", metavar="PART,PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--set", action="append", default=[], help="STAGE.KEY=VALUE, of stages")
    parser.add_argument("--toy", action="store_true", help="tiny shapes, to try the script")
    options = parser.parse_args()
    chosen = [name for name in options.only.split(",") if name] or [*PARTS]
    for name in chosen:
        if name not in PARTS:
            parser.error(f"there is no part {name!r}: use {', '.join(PARTS)}")
    options.output.mkdir(parents=True)
    began = time.monotonic()
    ends: dict[str, str] = {}
    for place, name in enumerate(chosen):
        # What earlier parts left of their time is shared by those that follow.
        left = 60 * options.minutes - (time.monotonic() - began)
        share = PARTS[name].share / sum(PARTS[later].share for later in chosen[place:])
        asked = Asked(options.output / name, share * left, options.toy, tuple(options.set))
        ends[name] = limited(name, asked, options.output / "card.jsonl")
        write_table(options.output, ends, chosen)
    minutes = (time.monotonic() - began) / 60
    print((options.output / "card.md").read_text(), f"{minutes:.1f} minutes in all", sep="\n")


def limited(name: str, asked: Asked, record: Path) -> str:
    """Run a part in a process of its own, with all that it starts, until its time is over; returns
    how it ended.
    """
    print(f"-- {name}: at most {asked.seconds:.0f} s", flush=True)
    began = time.monotonic()
    # Forked, so that nothing is imported again; this process itself never uses the card.
    process = multiprocessing.get_context("fork").Process(
        target=recorded, args=(name, asked, record)
    )
    process.start()
    process.join(asked.seconds)
    in_time = process.exitcode is not None
    try:
        os.killpg(process.pid or 0, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass  # it left nothing behind
    process.join()
    taken = f"{time.monotonic() - began:.0f} s"
    if not in_time:
        return f"ended at its limit after {taken}"
    return f"done in {taken}" if process.exitcode == 0 else f"failed after {taken}"


def recorded(name: str, asked: Asked, record: Path) -> None:
    """Append a part's findings to the record, each when it comes."""
    os.setsid()  # its own group of processes, so that all it starts ends with it

    def write(finding: Finding) -> None:
        print(f"   {finding.what}: {finding.value} {finding.verdict}", flush=True)
        with record.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"part": name, **finding._asdict()}) + "\n")

    asked.folder.mkdir()
    try:
        for finding in PARTS[name].run(asked):
            write(finding)
    except Exception as error:
        traceback.print_exc()
        write(Finding("the part", f"{type(error).__name__}: {error}".splitlines()[0], "failed"))
        sys.exit(1)


def write_table(output: Path, ends: dict[str, str], chosen: list[str]) -> None:
    """All findings so far as a table, with what was not run."""
    record = output / "card.jsonl"
    lines = record.read_text(encoding="utf-8").splitlines() if record.exists() else []
    found: list[dict[str, Any]] = [json.loads(line) for line in lines]
    rows = [f"{time.strftime('%Y-%m-%d')}: {' '.join(sys.argv)}", "", "| part | what | value | |"]
    rows.append("|---|---|---|---|")
    for name in PARTS:
        ended = ends.get(name, "not run" if name not in chosen else "not yet")
        rows.append(f"| **{name}** | {ended} | | |")
        rows += [
            f"| | {each['what']} | {each['value']} | {each['verdict']} |"
            for each in found
            if each["part"] == name
        ]
    (output / "card.md").write_text("\n".join(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
