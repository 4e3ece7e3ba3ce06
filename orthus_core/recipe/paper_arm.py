"""The recipe of an arm of `reproduce`: what it does otherwise than the common recipes.

An arm has no values of its own but these differences, so that whatever it does not state is the
same in all arms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from orthus_core.recipe.schema import key


@dataclass(frozen=True)
class ArmRecipe:
    """One arm of a comparison: its differences from the recipes paper/1-pretrain to
    paper/5-posttrain, which all arms share.
    """

    command: ClassVar[str] = "reproduce"

    about: str = key("", "what the arm is, as the plan and the page say it")
    kind: Literal["orthus", "discrete", "decoder", "start"] = key(
        "orthus",
        "orthus is converted, built and posttrained; discrete is the posttrained Chameleon; "
        "decoder is the pixel decoder alone, trained on features; start is the common start itself",
    )
    drawn_by: str = key(
        "", "another arm whose models this one evaluates, with `steps` of its own; trains nothing"
    )
    steps: int = key(
        0, "denoising steps a patch when it is evaluated; 0 is the model's own", minimum=0
    )
    seeds: int = key(3, "trainings at most, one for each seed", minimum=1)
    pretrain: dict[str, Any] = key({}, "differences from paper/1-pretrain: a start of its own")
    convert: dict[str, Any] = key({}, "differences from paper/2-convert")
    finetune_vae: dict[str, Any] = key({}, "differences from paper/3-finetune-vae")
    build_base: dict[str, Any] = key({}, "differences from paper/4-build-base")
    posttrain: dict[str, Any] = key({}, "differences from paper/5-posttrain")

    def __post_init__(self) -> None:
        if self.drawn_by and not self.steps:
            raise ValueError(f"drawn_by {self.drawn_by!r} needs `steps`, or it would be that arm")
        stated = [
            name
            for name in ("pretrain", "convert", "finetune_vae", "build_base", "posttrain")
            if getattr(self, name)
        ]
        if self.drawn_by and stated:
            raise ValueError(f"drawn_by {self.drawn_by!r} trains nothing, so {stated[0]} is unused")
