"""`orthus info`: what a checkpoint is, read from its headers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from orthus_cli.console import reporter


def info(
    ctx: typer.Context,
    path: Annotated[
        str,
        typer.Argument(metavar="PATH", help="Model folder, hub id or alias; or a vqgan.ckpt."),
    ],
) -> None:
    """Say what a checkpoint is: its kind, parts, settings, and what it lacks."""
    r = reporter(ctx)

    from orthus_core.checkpoint.describe import describe
    from orthus_core.checkpoint.hub import resolve

    found = describe(Path(path) if Path(path).is_file() else resolve(path))
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
