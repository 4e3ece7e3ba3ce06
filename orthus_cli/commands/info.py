"""`orthus info`: what a checkpoint is, or how a finished picture was made."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from orthus_cli.console import Reporter, reporter
from orthus_cli.stored import command_line
from orthus_cli.streams import encoding_of
from orthus_core.user_files import user_path

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")


def info(
    ctx: typer.Context,
    path: Annotated[
        str,
        typer.Argument(
            metavar="PATH",
            help="Model folder, hub id, alias or vqgan.ckpt; or a picture, its JSON, a story.",
        ),
    ],
    words: Annotated[
        bool, typer.Option("--words", help="List what a small model can draw, by group.")
    ] = False,
) -> None:
    """Say what a checkpoint is, or how a picture was made.

    Of a picture it also shows the command that draws it again. With --words it lists everything
    that a small model can draw: things, colours, places, edits.
    """
    r = reporter(ctx)
    if words:
        from orthus_cli.model_words import tell_words

        tell_words(r, path)
    elif _is_result(user_path(path)):
        _tell_picture(r, user_path(path))
    else:
        _tell_checkpoint(r, path)


def _is_result(path: Path) -> bool:
    """Whether this is a drawn result rather than a model. It is decided by name, not by content, so
    that a broken file is reported as what its name says it is.
    """
    if os.path.isdir(path):
        return (path / "story.json").is_file()
    return path.suffix.lower() in (*PICTURES, ".json", ".jsonl")


def _tell_picture(r: Reporter, path: Path) -> None:
    from orthus_core.data.pixels import open_image
    from orthus_core.results.metadata import COMMON_CHUNK, read_record, read_text
    from orthus_core.results.record import adapters_of, asked_of, read_made

    if path.suffix.lower() in PICTURES and read_record(path) is None:
        image = open_image(path)
        size = f"{image.width}x{image.height}"
        theirs = read_text(path, COMMON_CHUNK) or ""
        r.table(("setting", "value"), [("size", size), *([(COMMON_CHUNK, theirs)] * bool(theirs))])
        r.result(
            {"path": str(path), "kind": "picture", "size": size, COMMON_CHUNK: theirs or None},
            text="it does not say that orthus drew it, or how",
            quiet=["picture"],
        )
        return
    record = read_made(path)
    info = record.info
    command = command_line(record, encoding_of(sys.stdout))
    pixels = {True: "as drawn", False: "as drawn, but for what JPEG loses", None: None}
    changed = "changed since they were drawn" + ", or decoded otherwise" * bool(record.stored)
    facts = {
        "prompt": info.prompt,
        "drawn as": info.text,
        "seed": info.seed,
        **{name: value for name, value in asked_of(record).items() if name in info.sampling},
        "model": info.model.get("name"),
        "model hash": str(info.model.get("hash") or "")[:10],
        "adapters": [f"{a['name']} at {a['scale']:g}" for a in adapters_of(info.model)] or None,
        "device": info.model.get("device"),
        "dtype": info.model.get("dtype"),
        "version": record.version or None,
        "best of": _best_of(info.best_of) if info.best_of else None,
        "enlarged": f"{info.scale} times after it was drawn" if info.scale else None,
        "panel": info.panel,
        "made from": list(info.files or info.inputs) or None,
        "pixels": changed if record.is_changed else pixels[record.as_drawn],
    }
    r.table(
        ("setting", "value"),
        [("command", record.command), *((n, v) for n, v in facts.items() if v is not None)],
    )
    r.result(
        {
            "path": str(record.path),
            "kind": "picture" if record.seen else "record",
            "record": {**info._asdict(), "version": record.version, "pixels": record.pixels},
            "as_drawn": record.as_drawn,
            "changed": record.is_changed,
            "command": command,
        },
        text=f"\n{command}" if not r.is_json else None,
        quiet=[command],
    )


def _best_of(chosen: Mapping[str, Any]) -> list[str]:
    """How a picture was chosen among candidates; what does not read is left out."""
    asked = chosen.get("answers")
    answers = [each for each in asked if isinstance(each, dict)] if isinstance(asked, list) else []
    return [
        f"{chosen.get('candidates')} from seed {chosen.get('seed')}",
        *(f"{a.get('question')} {a.get('answer')}, {a.get('probability')}" for a in answers),
    ]


def _tell_checkpoint(r: Reporter, path: str) -> None:
    from orthus_core.checkpoint.describe import describe
    from orthus_core.checkpoint.hub import resolve

    file = user_path(path)
    found = describe(file if os.path.isfile(file) else resolve(path))
    facts = dict(found.facts)
    origin = facts.pop("origin", {})
    about = {
        "kind": found.kind,
        "layout": found.layout,
        "parameters": f"{found.parameters:,}",
        "size": f"{found.bytes / 1e6:.1f} MB",
    }
    r.table(
        ("setting", "value"),
        [(_words(name), _value(value)) for name, value in {**about, **facts, **origin}.items()],
    )
    r.table(
        ("part", "parameters", "MB", "precision"),
        [
            (part.name, f"{part.parameters:,}", f"{part.bytes / 1e6:.1f}", ", ".join(part.dtypes))
            for part in found.parts
        ],
    )
    r.result(
        {
            "path": str(found.path),
            "kind": found.kind,
            "layout": found.layout,
            "parameters": found.parameters,
            "bytes": found.bytes,
            "parts": [part._asdict() for part in found.parts],
            "missing": [missing._asdict() for missing in found.missing],
            **found.facts,
        },
        text="\n".join(f"missing: {missing.part} ({missing.next})" for missing in found.missing),
        quiet=[found.kind],
    )


def _words(name: str) -> str:
    return name.replace("_", " ")


def _value(value: Any) -> Any:
    if isinstance(value, dict):
        return ", ".join(f"{_words(name)} {item}" for name, item in value.items())
    if isinstance(value, list):
        return ", then ".join(map(str, value))
    return value
