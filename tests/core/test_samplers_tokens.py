"""Choosing a word: greedy and sampled as transformers does, and never what may not be said."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from transformers import RepetitionPenaltyLogitsProcessor

from orthus_core.samplers.text import choose_token, never_chosen, text_generator, warpers
from tests.conftest import make_tiny_config

LOGITS = torch.tensor([2.0, 1.0, 0.0, -1.0, 3.0])


def counted(**options) -> Counter:
    generator = text_generator(0)
    warp = warpers(**options)
    return Counter(
        choose_token(LOGITS, [0], [], warp=warp, generator=generator) for _ in range(4000)
    )


def test_greedy_takes_the_likeliest_allowed_token():
    assert choose_token(LOGITS, [0], []) == 4
    assert choose_token(LOGITS, [0], [4, 0]) == 1


def test_samples_follow_the_temperature():
    for temperature in (1.0, 0.5):
        expected = (LOGITS / temperature).softmax(-1)
        counts = counted(temperature=temperature)
        for token, probability in enumerate(expected.tolist()):
            assert counts[token] / 4000 == pytest.approx(probability, abs=0.03)


def test_top_k_and_top_p_leave_out_the_tail():
    assert set(counted(temperature=1.0, top_k=2)) == {4, 0}
    # softmax(LOGITS) is .64 .23 .09 .03 .01: the first two hold 0.87
    assert set(counted(temperature=1.0, top_p=0.8)) == {4, 0}


def test_a_rule_stands_above_the_processors():
    def insist(ids, scores):
        return torch.full_like(scores, -100.0).index_fill(1, torch.tensor([4]), 100.0)

    assert choose_token(LOGITS, [0], [4], processors=[insist]) != 4


def test_processors_see_the_row():
    penalty = RepetitionPenaltyLogitsProcessor(10.0)
    assert choose_token(LOGITS, [4], [], processors=[penalty]) == 0


def test_choosing_leaves_the_logits_as_they_were():
    logits = LOGITS.clone()
    choose_token(logits, [0], [4])
    assert torch.equal(logits, LOGITS)


def test_a_seed_says_the_same_again():
    def say(seed: int) -> list[int]:
        generator = text_generator(seed)
        return [choose_token(LOGITS, [0], [], generator=generator) for _ in range(20)]

    assert say(1) == say(1) != say(2)


def test_the_largest_seed_can_be_used():
    def branch(seed: int) -> tuple[float, ...]:
        return tuple(torch.rand(3, generator=text_generator(seed)).tolist())

    largest = 2**63 - 1
    assert branch(largest) == branch(largest)
    assert len({branch(seed) for seed in (0, 1, largest - 1, largest)}) == 4


def test_boi_is_for_rows_that_may_draw_and_eoi_for_none():
    config = make_tiny_config()
    assert never_chosen(config, may_begin_image=True) == [0, 1, config.eoi_token_id]
    assert never_chosen(config, may_begin_image=False)[-1] == config.boi_token_id
