"""What rows may write and draw, as numbers rather than modes: text, pictures and stories alike."""

from __future__ import annotations

import math
from dataclasses import dataclass

from orthus_core.errors import PromptError


@dataclass(frozen=True)
class Settings:
    """The same for every row of a batch.

    max_images: Pictures a row may draw; 0 is text only.
    min_images: Pictures a row must draw; one is begun for the model where it would rather end or
        write on.
    max_text: Text tokens a row may write in all; 0 is pictures only.
    text_before_image: Text tokens after which a picture that must come is begun; None waits for the
        model.
    end_with_image: The row ends with its last picture instead of going on with text.
    steps: Denoising steps a patch; a discrete Chameleon takes one.
    last_steps: Of a picture's last patch, where they fall from `steps` patch by patch (see
        `presets.py`); None is the same for all.
    scheduler: What leads through those steps (see `solver_for`).
    step_tolerance: Share of its size by which a patch's estimate may still change when it stops
        before its last step; 0 takes all steps.
    noise_scale: Factor on the noise each patch starts from: 1 as trained, less is calmer. For a
        discrete Chameleon it is the temperature (see `choose_codes`).
    code_top_k, code_top_p: Of a discrete Chameleon's codes; 0 and 1 leave all codes in.
    temperature, top_k, top_p: Of the text; temperature 0 is greedy, top_k 0 and top_p 1 leave all
        tokens in.

    Raises: PromptError for numbers that cannot be.
    """

    max_images: int = 1
    min_images: int = 0
    max_text: int = 0
    text_before_image: int | None = None
    end_with_image: bool = False
    steps: int = 100
    last_steps: int | None = None
    scheduler: str = "ddim"
    step_tolerance: float = 0.0
    noise_scale: float = 1.0
    code_top_k: int = 0
    code_top_p: float = 1.0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        rules = {
            "max_images": self.max_images >= 0,
            "min_images": 0 <= self.min_images <= self.max_images,
            "max_text": self.max_text >= 0,
            "text_before_image": self.text_before_image is None or self.text_before_image >= 0,
            "last_steps": self.last_steps is None or 1 <= self.last_steps <= self.steps,
            "step_tolerance": 0 <= self.step_tolerance < 1,
            "noise_scale": 0 <= self.noise_scale < math.inf,
            "code_top_k": self.code_top_k >= 0,
            "code_top_p": 0 < self.code_top_p <= 1,
            "temperature": 0 <= self.temperature < math.inf,
            "top_k": self.top_k >= 0,
            "top_p": 0 < self.top_p <= 1,
        }
        for name, holds in rules.items():
            if not holds:
                raise PromptError(f"{name} cannot be {getattr(self, name)}", where="settings")
        if not (self.max_images or self.max_text):
            raise PromptError("neither text nor pictures are asked for", where="settings")

    @property
    def owed_images(self) -> int:
        """Pictures that come whatever the model would rather do; without text, all of them."""
        return self.min_images if self.max_text else self.max_images
