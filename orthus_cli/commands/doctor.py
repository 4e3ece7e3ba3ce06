"""`orthus doctor`: what this installation and this machine can do, and what to do next."""

from __future__ import annotations

import os
import platform
from typing import Annotated, Any

import typer

from orthus_cli.console import reporter
from orthus_core.version import __version__

GIB = 2**30
# The released 7B in bf16 with room for one picture; `orthus plan` computes it for any model.
MEMORY_OF_7B = 18 * 10**9


def doctor(
    ctx: typer.Context,
    hub: Annotated[
        bool, typer.Option("--hub", help="Also ask the hub for its models; needs a network.")
    ] = False,
) -> None:
    """Check versions, devices and memory, and say what to do.

    Optional parts that are missing are named with what they would make possible.

    Exit code 1 means that something required is missing or too old. The network is left alone
    unless --hub is given.
    """
    r = reporter(ctx)

    from orthus_core.checkpoint.hub import BUNDLED, cache_folder, cached, reach
    from orthus_core.device import devices
    from orthus_core.output_checks import free_disk
    from orthus_core.plan.software import optional, required

    # 1. Look.
    needed, extra, here = required(), optional(), devices()
    models = {**dict.fromkeys(BUNDLED, True), **cached()}
    disk = free_disk(cache_folder())
    answers = reach() if hub else []
    # 2. Judge.
    broken = [
        f"pip install '{package.name}{package.wanted}'"
        + (f", for {package.version} is too old" if package.version else ", which is missing")
        for package in needed
        if not package.fits
    ]
    advice = [*broken, *_advice(here, answers)]
    # 3. Report.
    r.table(
        ("what", "version", "needs"),
        [
            ("orthus", __version__, ""),
            ("python", platform.python_version(), ">=3.10"),
            *((each.name, each.version or "missing", each.wanted) for each in needed),
        ],
    )
    r.table(
        ("optional", "version", "good for"),
        [(each.name, each.version or "-", each.use) for each in extra],
    )
    r.table(
        ("device", "memory free of", "about"),
        [
            (each.kind, _free_of(each.free, each.total), f"{each.name}; {each.about}")
            for each in here
        ],
    )
    r.table(
        ("model", "on this machine"),
        [
            (name, "yes" if there else "no, is downloaded when used")
            for name, there in models.items()
        ],
    )
    if answers:
        r.table(("hub", "reached"), [(each.hub_id, each.answer) for each in answers])
    r.result(
        {
            "orthus": __version__,
            "python": platform.python_version(),
            "system": platform.platform(),
            "required": [{**each._asdict(), "fits": each.fits} for each in needed],
            "optional": [each._asdict() for each in extra],
            "devices": [each._asdict() for each in here],
            "models": models,
            "cache": {"folder": str(cache_folder()), "free": disk},
            "offline": _is_offline(),
            "hub": [
                {"alias": each.alias, "hub_id": each.hub_id, "answer": each.answer}
                for each in answers
            ]
            if hub
            else None,
            "next": advice,
        },
        text="\n".join(f"next: {line}" for line in advice) or "all is well",
        quiet=advice or ["ok"],
    )
    if broken:
        raise typer.Exit(1)


def _advice(here: list[Any], answers: list[Any]) -> list[str]:
    """Optional improvements; none of them is an error."""
    best = here[0]
    advice = []
    if best.kind == "cpu":
        advice.append("no accelerator is here: mini draws in seconds on a CPU, the 7B in hours")
    elif best.free is not None and best.free < MEMORY_OF_7B:
        advice.append(
            f"{_size(best.free)} are free on {best.name}; "
            "orthus plan generate -m instruct says how the 7B fits"
        )
    unreached = [each for each in answers if not each.reached]
    if unreached and _is_offline():
        advice.append("HF_HUB_OFFLINE is set; unset it to reach the hub")
    elif unreached:
        advice.append("the hub is out of reach; a model's folder can be brought here and named")
    return advice


def _is_offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "on", "yes", "true")


def _free_of(free: int | None, total: int | None) -> str:
    return " of ".join(_size(each) for each in (free, total) if each is not None) or "unknown"


def _size(count: int) -> str:
    return f"{count / GIB:.1f} GiB"
