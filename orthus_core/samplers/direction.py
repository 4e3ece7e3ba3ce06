"""What a panel's text may do at its next token: words come first, a picture comes in time.

A story's controller speaks through the logits, as any of transformers' processors does. What is
said since the last picture is read off the row's tokens, so that it holds in any context.

Legend: S tokens of one row, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor
from transformers import LogitsProcessor, PreTrainedTokenizerBase

from orthus_core.model.config import InterleavedConfig
from orthus_core.samplers.row import ends

NEVER = float("-inf")


class Direction(LogitsProcessor):
    """Rules for the text of one panel.

    Args:
        config, tokenizer: Of the model.
        longest: Tokens the text may have; the last of them is a word if none was said before.
        may_end: Whether the row may end here without a picture. Then it is also here, rather than
            in the row, that a picture is begun when the text is at its longest.

    went_on: Whether the model would have ended before it said a word, and was not let.
    began: Whether a picture was begun for it here.
    """

    def __init__(
        self,
        config: InterleavedConfig,
        tokenizer: PreTrainedTokenizerBase,
        *,
        longest: int,
        may_end: bool = False,
    ) -> None:
        assert config.boi_token_id is not None, "a configuration without [BOI] tells no stories"
        self._tokenizer, self._longest, self._may_end = tokenizer, longest, may_end
        self._boi = config.boi_token_id
        self._ends = [token for token in ends(config) if token is not None]
        self._marks = {config.sep_token_id, config.eoi_token_id}
        self.went_on = self.began = False

    def __call__(self, ids_1S: Tensor, scores_1V: Tensor) -> Tensor:  # type: ignore[override]
        said = self._since_last_mark(ids_1S[0].tolist())
        if not self._has_words(said):
            return self._words_first(scores_1V, is_last=len(said) + 1 >= self._longest)
        if self._may_end and len(said) >= self._longest:
            self.began = int(scores_1V.argmax()) != self._boi
            return _only(scores_1V, [self._boi])
        return scores_1V

    def _words_first(self, scores_1V: Tensor, *, is_last: bool) -> Tensor:
        if not self._may_end and int(scores_1V.argmax()) in self._ends:
            self.went_on = True
        if is_last:
            scores_1V = _only(scores_1V, [*self._words, *self._ends])
        special = {*self._tokenizer.all_special_ids, self._boi, *self._ends}
        ruled_out = sorted(special - set(self._ends) if self._may_end else special)
        return scores_1V.index_fill(1, torch.tensor(ruled_out, device=scores_1V.device), NEVER)

    def _since_last_mark(self, ids: Sequence[int]) -> list[int]:
        """The tokens after SEP, or after the last picture."""
        marked = [place for place, token in enumerate(ids) if token in self._marks]
        return list(ids[marked[-1] + 1 :]) if marked else list(ids)

    def _has_words(self, tokens: Sequence[int]) -> bool:
        text = self._tokenizer.decode(list(tokens), skip_special_tokens=True)
        return any(char.isalnum() for char in str(text))

    @cached_property
    def _words(self) -> list[int]:
        """The tokens that are words, or parts of words, by themselves."""
        special = set(self._tokenizer.all_special_ids)
        every = [token for token in range(len(self._tokenizer)) if token not in special]
        return [token for token in every if self._has_words([token])]


def _only(scores_1V: Tensor, allowed: Sequence[int]) -> Tensor:
    """The scores of these tokens; no other can be chosen."""
    index_N = torch.tensor(list(allowed), device=scores_1V.device)
    return torch.full_like(scores_1V, NEVER).index_copy(1, index_N, scores_1V[:, index_N])
