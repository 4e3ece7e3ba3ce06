"""The other streams of guidance for the pictures of a training's batch: rows that a model reads
beside the batch to know what guidance draws.

They are those that drawing reads (prompt_builder.py), with the picture as far as it is drawn:

    text to image, story   <s> unconditional SEP [BOI] patches
    edit                   <s> images SEP [BOI] patches, and the one above

Legend: B rows, S sequence, M pictures that are learnt, P patches, N slots of the batch, F features
    that the rows read, 3 streams: the batch's own, without the words, without anything.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from orthus_core.data.encode import TokenIds
from orthus_core.losses.joint import BatchLike
from orthus_core.samplers.prompt import Guidance


class TaughtGuidance(NamedTuple):
    """Guidance that a model is to draw with by itself, and what it leads away from.

    Attributes:
        picture: Scale for a picture from text.
        edit, image: Scales of an edit, towards the instruction and towards the picture.
        story: Scale for the pictures of a story.
        away, story_away: Ids of the unconditional context, and of that of a story.
    """

    picture: float
    edit: float
    image: float
    story: float
    away: tuple[int, ...]
    story_away: tuple[int, ...]


class GuidanceStreams(NamedTuple):
    """The rows beside a batch, and how the streams of each picture are mixed.

    Attributes:
        pictures_M: Number of each learnt picture among those of the batch, ascending.
        weights_M3: Weight of each stream in what guidance predicts; a row sums to 1.
        rows_M3: Row of each stream; -1 for the batch's own, and where the weight is 0.
        ids_BS: Token ids, padded on the right.
        mask_BS: 1 in a row, 0 after its end.
        features_F: Slots of the batch whose features the rows read, in reading order.
        first_B: Position of each row that predicts the first patch.
    """

    pictures_M: Tensor
    weights_M3: Tensor
    rows_M3: Tensor
    ids_BS: Tensor
    mask_BS: Tensor
    features_F: Tensor
    first_B: Tensor

    def to(self, device: torch.device) -> GuidanceStreams:
        """The same on a device."""
        return GuidanceStreams(*(tensor.to(device) for tensor in self))


def guidance_streams(
    rows: BatchLike, patches: int, ids: TokenIds, taught: TaughtGuidance
) -> GuidanceStreams | None:
    """The other streams of the pictures of a batch; None when none of them is learnt.

    The only drawn picture of a document that shows others is an edit, several are a story.
    """
    documents: dict[tuple[int, int], list[int]] = defaultdict(list)
    length = rows.ids_BS.shape[1]
    begins_M = rows.image_index_N.view(-1, patches)[:, 0].tolist()
    documents_BS = rows.attention_mask_BS.cpu()
    for number, place in enumerate(begins_M):
        line, column = divmod(place, length)
        documents[line, int(documents_BS[line, column])].append(number)
    wanted_N = rows.image_targets_N
    wanted = [True] * len(begins_M)
    if wanted_N is not None:
        wanted = wanted_N.view(-1, patches)[:, 0].tolist()

    pictures, weights, numbers = list[int](), list[tuple[float, ...]](), list[list[int]]()
    contexts: list[tuple[Sequence[int], list[int]]] = []

    def add(context: Sequence[int], shown: Sequence[int], drawn: int, weight: float) -> int:
        """The number of a row, which is added unless it counts nothing."""
        if not weight:
            return -1
        contexts.append((context, [*shown, drawn]))
        return len(contexts) - 1

    for of_document in documents.values():
        drawn = [number for number in of_document if wanted[number]]
        for number in drawn:
            shown = [other for other in of_document if other < number]
            away, seen = taught.away, -1
            if len(drawn) == 1 and shown:
                own, without_words, without = Guidance.edit(taught.edit, taught.image).weights
                picture = (ids.boi, *[ids.image] * patches, ids.eoi)
                context = (ids.bos, *picture * len(shown), ids.sep)
                seen = add(context, shown, number, without_words)
            else:
                away = taught.story_away if len(drawn) > 1 else away
                scale = taught.story if len(drawn) > 1 else taught.picture
                (own, without), without_words = Guidance.text(scale).weights, 0.0
            pictures.append(number)
            weights.append((own, without_words, without))
            numbers.append([-1, seen, add(away, (), number, without)])
    if not pictures:
        return None
    # The last patch of the picture is predicted, not read.
    drawing = (ids.boi, *[ids.image] * (patches - 1))
    whole = [(*context, *drawing) for context, _ in contexts]
    longest = max(map(len, whole), default=1)
    ids_BS = torch.full((len(whole), longest), ids.pad)
    mask_BS = torch.zeros_like(ids_BS)
    slots: list[int] = []
    for row, (each, (_, read)) in enumerate(zip(whole, contexts, strict=True)):
        ids_BS[row, : len(each)] = torch.tensor(each)
        mask_BS[row, : len(each)] = 1
        *shown, drawn_last = read
        slots += [picture * patches + patch for picture in shown for patch in range(patches)]
        slots += [drawn_last * patches + patch for patch in range(patches - 1)]
    return GuidanceStreams(
        torch.tensor(pictures),
        torch.tensor(weights),
        torch.tensor(numbers),
        ids_BS,
        mask_BS,
        torch.tensor(slots, dtype=torch.long),
        torch.tensor([len(each) - patches for each in whole], dtype=torch.long),
    ).to(rows.ids_BS.device)
