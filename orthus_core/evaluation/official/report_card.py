"""A result on one page, in Markdown and as HTML that opens from disk: its numbers, what is needed
to repeat them, samples, and a sheet of pictures.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from orthus_core.data.pixels import open_image
from orthus_core.errors import DataError
from orthus_core.evaluation.official.comparison import EvalResult, markdown_row
from orthus_core.evaluation.official.score_report import table_rows
from orthus_core.image_grid import labelled_sheet

MARKDOWN, PAGE, SHEET = "report.md", "report.html", "sheet.png"
# Pictures on the sheet, their side and frame in pixels, and samples in the table.
PICTURES, SIDE, FRAME = 24, 160, 4
SAMPLES_SHOWN = 20
GREEN, RED, GREY = "#1aa633", "#d92633", "#bbbbbb"
LONGEST_CELL = 120  # characters
SETTINGS = ("rule", "n", "n_missing", "n_unparsed", "paper", "data", "data_hash", "predictions")
SETTINGS += (
    "predictions_hash",
    "answers",
    "answers_hash",
    "settings",
    "model",
    "run",
    "judge",
    "version",
    "versions",
)
COLUMNS = ("id", "prompt", "question", "answer", "gold", "truth", "right", "why", "scores")
# The page fetches nothing, whatever a model has answered.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STYLE = """
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto; }
th, td { border-bottom: 1px solid #ccc; padding: .25rem .75rem; text-align: left; }
td { overflow-wrap: anywhere; vertical-align: top; }
img { max-width: 100%; height: auto; }
""".strip()


def report_card(result: EvalResult, pictures: Path | None = None) -> dict[str, bytes]:
    """The files of the report: `report.md`, `report.html`, and `sheet.png` if there are pictures.

    Args:
        result: The result.
        pictures: Folder that the pictures of samples are relative to; None takes the folder that
            the result names, if it is there.

    Raises:
        DataError: When a folder is named and holds none of the pictures.
    """
    files: dict[str, bytes] = {}
    sheet = _sheet(result.samples, _folder(result, pictures))
    if pictures is not None and sheet is None:
        raise DataError(
            "none of the pictures of the samples are here",
            where=str(pictures),
            hint="give the folder that was scored; results of questions name no pictures",
        )
    if sheet is not None:
        files[SHEET] = sheet
    # `orthus eval mini` has made its sheets itself.
    sheets = {SHEET: sheet} if sheet else {}
    sheets |= {
        path.name: path.read_bytes() for path in sorted(result.path.parent.glob("mini-*.png"))
    }
    title = result.task + (f" ({result.variant})" if result.variant else "")
    sections = [
        ("Numbers", ("", "value", "95%"), _numbers(result)),
        ("How it was measured", ("", ""), _settings(result.table)),
        (_samples_title(result.samples), *_sample_rows(result.samples)),
    ]
    sections = [section for section in sections if section[2]]
    notes = [str(note) for note in result.table.get("notes", ())]
    files[MARKDOWN] = _markdown(title, notes, sections, sheets).encode()
    files[PAGE] = _page(title, notes, sections, sheets).encode()
    return files


Rows = Sequence[Sequence[str]]
Section = tuple[str, Sequence[str], Rows]


def _numbers(result: EvalResult) -> list[Sequence[str]]:
    if "metrics" in result.table:
        return [*table_rows({"intervals": {}, "per_category": {}, **result.table})]
    rows = []
    for name, value in result.values.items():
        bounds = result.intervals.get(name)
        rows.append(
            (name, f"{value:.4g}", f"{bounds.low:.4g} to {bounds.high:.4g}" if bounds else "")
        )
    return rows


def _settings(table: Mapping[str, Any]) -> list[Sequence[str]]:
    return [
        (name, _text(table[name])) for name in SETTINGS if table.get(name) not in (None, "", {})
    ]


def _samples_title(samples: Sequence[Mapping[str, Any]]) -> str:
    wrong = sum(sample.get("right") is False or sample.get("right") == 0 for sample in samples)
    if not any("right" in sample for sample in samples):
        return f"The first of {len(samples)} samples"
    return f"Samples: {wrong} of {len(samples)} are wrong; the first of these"


def _sample_rows(samples: Sequence[Mapping[str, Any]]) -> tuple[Sequence[str], Rows]:
    judged = any("right" in sample for sample in samples)
    shown = [sample for sample in samples if not judged or not sample.get("right", True)]
    shown = shown[:SAMPLES_SHOWN]
    columns = [name for name in COLUMNS if any(name in sample for sample in shown)]
    return columns, [[_text(sample.get(name)) for name in columns] for sample in shown]


def _sheet(samples: Sequence[Mapping[str, Any]], folder: Path | None) -> bytes | None:
    """The first pictures, wrong ones first, with a green frame around right ones and a red one
    around wrong ones.
    """
    if folder is None:
        return None
    named = [sample for sample in samples if isinstance(sample.get("picture"), str)]
    there = [sample for sample in named if (folder / sample["picture"]).is_file()]
    there.sort(key=lambda sample: bool(sample.get("right", True)))
    pictures, labels = [], []
    for sample in there[:PICTURES]:
        colour = {None: GREY, True: GREEN, False: RED}[
            None if sample.get("right") is None else bool(sample["right"])
        ]
        small = ImageOps.pad(open_image(folder / sample["picture"]), (SIDE, SIDE), color="white")
        pictures.append(ImageOps.expand(small, FRAME, colour))
        labels.append(str(sample.get("prompt") or sample.get("id", "")))
    if not pictures:
        return None
    file = io.BytesIO()
    sheet: Image.Image = labelled_sheet(pictures, labels)
    sheet.save(file, "PNG")
    return file.getvalue()


def _folder(result: EvalResult, pictures: Path | None) -> Path | None:
    if pictures is not None:
        return pictures
    named = Path(str(result.table.get("predictions") or ""))
    return named if named.is_dir() else None


def _markdown(
    title: str, notes: Sequence[str], sections: Sequence[Section], sheets: Mapping[str, bytes]
) -> str:
    lines = [f"# {title}", *(f"\n- {note}" for note in notes)]
    for heading, columns, rows in sections:
        lines += ["", f"## {heading}", "", markdown_row(columns)]
        lines.append(markdown_row(["---"] * len(columns)))
        lines += [markdown_row([_one_line(cell) for cell in row]) for row in rows]
    lines += [f"\n![{name}]({name})" for name in sheets]
    return "\n".join(lines) + "\n"


def _page(
    title: str, notes: Sequence[str], sections: Sequence[Section], sheets: Mapping[str, bytes]
) -> str:
    parts = [f"<h1>{escape(title)}</h1>"]
    if notes:
        parts.append(f"<ul>{''.join(f'<li>{escape(note)}</li>' for note in notes)}</ul>")
    for heading, columns, rows in sections:
        head = "".join(f"<th>{escape(column)}</th>" for column in columns)
        body = "\n".join(
            f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows
        )
        parts.append(f"<h2>{escape(heading)}</h2>\n<table><tr>{head}</tr>\n{body}</table>")
    for name, png in sheets.items():
        source = base64.b64encode(png).decode()
        parts.append(f'<img src="data:image/png;base64,{source}" alt="{escape(name)}">')
    content = "\n".join(parts)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{escape(title)}</title>
<style>
{STYLE}
</style>
</head>
<body>
{content}
</body>
</html>
"""


def _text(value: Any) -> str:
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST_CELL else text[: LONGEST_CELL - 3] + "..."


def _one_line(text: str) -> str:
    # Markdown would read what a model wrote as its own marks, and GitHub as HTML.
    return escape(" ".join(text.split()), quote=False)
