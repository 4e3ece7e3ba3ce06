"""How large data sets are opened: python benchmarks/data_index.py

Makes a million records in each of four layouts, then opens each in a fresh process, first without
an index and then with it, and prints a table: seconds and peak memory of indexing, seconds to the
first row once there is an index, and memory after ten thousand random rows with their pictures.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import resource
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from shutil import rmtree
from tempfile import gettempdir

ROWS_READ = 10_000
SIDE = 8
TARS, TABLES = 100, 10
WORDS = "a small red cat sits on the green hill under one bright star while rain falls".split()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=1_000_000, help="in each layout")
    parser.add_argument("--folder", type=Path, default=Path(gettempdir()) / "index_bench")
    parser.add_argument("--keep", action="store_true", help="leave the data there")
    parser.add_argument("--layout", choices=LAYOUTS, action="append", help="all by default")
    parser.add_argument("--measure", choices=LAYOUTS, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.measure:
        measure(asked.folder / asked.measure, asked.folder / "cache")
        return
    names = "layout | records | MB | index, s | peak, MB | first row, s | after 10,000 rows, MB"
    print(f"| {names} |\n| {' | '.join(['---'] * 7)} |")
    for layout in asked.layout or LAYOUTS:
        folder = asked.folder / layout
        folder.mkdir(parents=True, exist_ok=True)
        LAYOUTS[layout](folder, asked.records)
        size = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
        first, again = run(asked.folder, layout), run(asked.folder, layout)
        print(
            f"| {layout} | {first['rows']:,} | {size:,.0f} | {first['open']:.1f} | "
            f"{first['peak_after_open']:.0f} | {again['first_row']:.1f} | {again['after']:.0f} |",
            flush=True,
        )
        if not asked.keep:
            rmtree(folder)
            rmtree(asked.folder / "cache", ignore_errors=True)
    if not asked.keep:
        rmtree(asked.folder)


def run(folder: Path, layout: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--folder", str(folder), "--measure", layout]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def measure(folder: Path, cache: Path) -> None:
    """Open one data set, read rows, and print the figures; the clock begins before the imports."""
    begun = time.perf_counter()
    from orthus_core.data.formats.sniff import open_rows
    from orthus_core.data.rows import SourceOptions

    imported = time.perf_counter()
    [file, *others] = sorted(folder.iterdir())
    opening = open_rows(folder if others else file, SourceOptions(index=cache))
    while True:
        try:
            next(opening)
        except StopIteration as end:
            rows = end.value
            break
    opened, peak = time.perf_counter(), peak_mb()
    numbers = random.Random(0).sample(range(len(rows)), ROWS_READ)
    held_out = int((rows.keys() % 100 == 0).sum())
    for count, number in enumerate(numbers):
        for segment in rows.document(number).segments:
            if segment.type == "image":
                segment.value.load(SIDE)
        if not count:
            first = time.perf_counter()
    figures = {
        "rows": len(rows),
        "held_out": held_out,
        "open": opened - imported,
        "peak_after_open": peak,
        "first_row": first - begun,
        "after": memory_mb(),
        "peak": peak_mb(),
        "rows_a_second": ROWS_READ / (time.perf_counter() - first),
    }
    print(json.dumps(figures))


def peak_mb() -> float:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def memory_mb() -> float:
    """The memory that is resident now; the peak where the system does not say."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return peak_mb()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024 / 1e6


def texts(count: int) -> Iterator[str]:
    draw = random.Random(0)
    for number in range(count):
        yield f"{number} {' '.join(draw.choices(WORDS, k=12))}"


def pictures() -> Iterator[bytes]:
    """Tiny pictures without end. All bytes differ: what follows the end of a PNG is not drawn."""
    from PIL import Image

    draw, files = random.Random(0), list[bytes]()
    for _ in range(100):
        file = io.BytesIO()
        Image.frombytes("RGB", (SIDE, SIDE), draw.randbytes(3 * SIDE * SIDE)).save(file, "PNG")
        files.append(file.getvalue())
    for file in cycle(files):
        yield file + draw.randbytes(SIDE)


def conversations(count: int) -> Iterator[str]:
    for number, text in enumerate(texts(count)):
        turns = [("human", "What do you see?"), ("gpt", text), ("human", "Where?"), ("gpt", text)]
        record = {
            "id": f"{number:09}",
            "conversations": [{"from": said, "value": words} for said, words in turns],
        }
        yield json.dumps(record)


def make_array(folder: Path, count: int) -> None:
    with (folder / "train.json").open("w") as file:
        for number, record in enumerate(conversations(count)):
            file.write(("," if number else "[") + record)
        file.write("]")


def make_lines(folder: Path, count: int) -> None:
    with (folder / "train.jsonl").open("w") as file:
        file.writelines(record + "\n" for record in conversations(count))


def make_tars(folder: Path, count: int) -> None:
    drawn, size, written = pictures(), -(-count // TARS), texts(count)
    for number in range(TARS):
        with tarfile.open(folder / f"{number:05}.tar", "w") as tar:
            for sample in range(number * size, min(count, (number + 1) * size)):
                text = next(written).encode()
                for suffix, content in (("png", next(drawn)), ("txt", text)):
                    member = tarfile.TarInfo(f"{sample:09}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))


def make_tables(folder: Path, count: int) -> None:
    import pyarrow
    import pyarrow.parquet

    drawn, size, written = pictures(), -(-count // TABLES), texts(count)
    for number in range(TABLES):
        rows = range(number * size, min(count, (number + 1) * size))
        table = pyarrow.table(
            {
                "image": [{"bytes": next(drawn), "path": f"{row:09}.png"} for row in rows],
                "text": [next(written) for _ in rows],
            }
        )
        pyarrow.parquet.write_table(table, folder / f"train-{number:05}-of-{TABLES:05}.parquet")


LAYOUTS = {"array": make_array, "lines": make_lines, "tar": make_tars, "parquet": make_tables}


if __name__ == "__main__":
    main()
