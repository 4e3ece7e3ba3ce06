"""Editing by an example and without words: before, after, and a picture to change likewise.

    <s> before after picture SEP   against  <s> picture SEP, <s> unconditional SEP

The example is what words are to an edit: guidance leads towards it, image guidance towards the
picture as it is (in-context editing, 2412.00127, fig. 3).
"""

from __future__ import annotations

from collections.abc import Sequence

from orthus_core.data.pictures import Picture
from orthus_core.errors import PromptError
from orthus_core.samplers.guidance import Guidance
from orthus_core.samplers.prompt import Prompt, without_idle_streams
from orthus_core.samplers.requests import Asking, Sampling


def by_example(
    asking: Asking,
    before: Picture,
    after: Picture,
    pictures: Sequence[Picture],
    sampling: Sampling,
) -> Prompt:
    """The pictures changed as the example was.

    Raises:
        PromptError: When there is no picture to change.
        DataError: When a picture does not read.
    """
    if not pictures:
        raise PromptError(
            "there is no picture to change as the example was",
            where="edit",
            hint="orthus edit PICTURE --example BEFORE AFTER",
        )
    return without_idle_streams(
        Prompt(
            asking.context(before, after, *pictures),
            guidance=Guidance.edit(sampling.guidance, sampling.image_guidance),
            against=(asking.context(*pictures), asking.context(sampling.negative_prompt)),
        )
    )
