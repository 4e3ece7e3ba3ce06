"""How sure a model is of an answer: the probability of its first token among those of all choices.

An answer that is written would only say which choice is the likeliest. The probability also tells
two pictures apart of both of which the model says yes.

Legend: R branches (one a question and picture), D hidden, V vocabulary, M pictures, P patches, C
feature channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedTokenizerBase

from orthus_core.data.pictures import Picture
from orthus_core.samplers.captioning import ENCODED_AT_ONCE
from orthus_core.samplers.engine import Backbone
from orthus_core.samplers.prompt import Branch, Prompt, check_prompt
from orthus_core.samplers.prompt_builder import PromptBuilder
from orthus_core.samplers.prompt_questions import PromptQuestion

# Questions read in one pass.
READ_AT_ONCE = 64


@torch.no_grad()
def answer_probabilities(
    builder: PromptBuilder, pictures: Sequence[Picture], questions: Sequence[PromptQuestion]
) -> list[list[float]]:
    """The logarithm of the probability of each question's answer, for each picture.

    Args:
        builder: Prompt builder of the model.
        pictures: Pictures to ask about.
        questions: Questions, all of which are asked about each picture.

    Returns: A list for each picture, with one number for each question: at most 0. A question whose
        choices all begin with the same token tells nothing, and has 0.

    Raises:
        PromptError: When a question does not fit the model's context.
        DataError: When a picture cannot be read.
    """
    model, tokenizer = builder.model, builder.tokenizer
    branches = []
    for first in range(0, len(pictures), ENCODED_AT_ONCE):
        features_MPC = builder.features(pictures[first : first + ENCODED_AT_ONCE])
        for number in range(len(features_MPC)):
            picture, own_1PC = pictures[first + number], features_MPC[number : number + 1]
            for question in questions:
                context = builder.context(picture, question.text, features_MPC=own_1PC)
                check_prompt(model.config, Prompt(context), must_draw=False)
                branches.append(Branch(context.ids, (own_1PC,)))
    tokens = [first_tokens(tokenizer, question) for question in questions]
    backbone, found = Backbone(model), []
    for first in range(0, len(branches), READ_AT_ONCE):
        part = branches[first : first + READ_AT_ONCE]
        _, hidden_RD = backbone.read(part, max(len(branch.ids) for branch in part))
        logits_RV = model.text_logits(hidden_RD).float().cpu()
        for number, logits_V in enumerate(logits_RV, start=first):
            answer, others = tokens[number % len(questions)]
            if not (answer and others):
                found.append(0.0)
                continue
            right, wrong = (logits_V[list(ids)].logsumexp(0) for ids in (answer, others))
            found.append(float(torch.nn.functional.logsigmoid(right - wrong)))
    return [found[at : at + len(questions)] for at in range(0, len(found), len(questions))]


def first_tokens(
    tokenizer: PreTrainedTokenizerBase, question: PromptQuestion
) -> tuple[frozenset[int], frozenset[int]]:
    """The tokens that begin the answer of a question, and those that begin another choice.

    A word may begin a text with a capital or a space. Tokens that begin both say nothing.
    """
    answer, others = set[int](), set[int]()
    for choice in question.choices:
        for word in (choice, choice.capitalize(), f" {choice}", f" {choice.capitalize()}"):
            ids = tokenizer.encode(word, add_special_tokens=False)
            (answer if choice == question.answer else others).update(ids[:1])
    return frozenset(answer - others), frozenset(others - answer)
