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
    compile_loop: Annotated[
        bool,
        typer.Option(
            "--compile",
            help="First compile the denoising steps for this CPU; needs a C compiler, a second.",
        ),
    ] = False,
) -> None:
    """Check versions, devices and memory, and say what to do.

    Optional parts that are missing are named with what they would make possible.
    `--compile` is worth it once on a machine that draws on its CPU: up to four pictures at a time
    are then drawn about 1.5 times as fast, and equal up to rounding.

    Exit code 1 means that something required is missing or too old. The network is left alone
    unless --hub is given.
    """
    r = reporter(ctx)

    from orthus_core.checkpoint.hub import BUNDLED, cache_folder, cached, reach
    from orthus_core.device import devices
    from orthus_core.model.compiled_loop import build, compiler, library, library_path
    from orthus_core.output_checks import free_disk
    from orthus_core.plan.software import optional, required

    # 1. Compile, and look.
    if compile_loop:
        built = build()
        r.say(f"compiled the denoising steps with {built.compiler} in {built.seconds:.1f} s")
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
    has_loop, can_compile = library() is not None, compiler() is not None
    advice = [*broken, *_advice(here, answers)]
    if here[0].kind == "cpu" and can_compile and not has_loop:
        advice.append("orthus doctor --compile makes drawing on this CPU faster; a second, once")
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
        [
            *((each.name, each.version or "-", each.use) for each in extra),
            (
                "compiled steps",
                "yes" if has_loop else "-",
                "drawing on a CPU; orthus doctor --compile",
            ),
        ],
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
            "compiled_steps": str(library_path()) if has_loop else None,
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
