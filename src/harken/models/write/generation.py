"""Sampling from any language model that streams: greedy, top-k, top-p, by temperature."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from harken.errors import InputError


@runtime_checkable
class LanguageModel(Protocol):
    """What :func:`generate` needs: a state, and the next logits given tokens and that state."""

    def init_state(self, batch_size: int) -> Any:
        """What the model carries before the first token."""

    def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Logits ``(batch, time, vocabulary)`` after each of ``tokens`` ``(batch, time)``, and the state after them."""


def generate(
    model: LanguageModel,
    prompt: Int[Tensor, "batch prompt"],
    length: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Iterator[Int[Tensor, " batch"]]:
    """Tokens after a prompt, one at a time, each fed back; the prompt is read in one chunk.

    Args:
        model: anything with ``init_state`` and ``step``.
        prompt: at least one token a row.
        length: how many to make.
        temperature, top_k, top_p, generator: as in :func:`sample`.

    Raises:
        InputError: an empty prompt, or settings that :func:`sample` refuses.
    """
    _check(temperature, top_k, top_p)
    if prompt.ndim != 2 or prompt.shape[1] == 0:
        raise InputError(
            f"expected a prompt of shape (batch, tokens) with at least one token, got {tuple(prompt.shape)}"
        )
    with torch.inference_mode():
        logits, state = model.step(prompt, model.init_state(prompt.shape[0]))
        for made in range(length):
            token = sample(logits[:, -1], temperature=temperature, top_k=top_k, top_p=top_p, generator=generator)
            yield token
            if made + 1 < length:
                logits, state = model.step(token[:, None], state)


def sample(
    logits: Float[Tensor, "batch vocabulary"],
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Int[Tensor, " batch"]:
    """One token a row.

    Args:
        logits: unnormalised log-probabilities.
        temperature: what they are divided by; 0 takes the likeliest token.
        top_k: keep the ``k`` likeliest tokens alone.
        top_p: keep the fewest likeliest tokens that hold this share of the probability (nucleus sampling,
            arXiv 1904.09751).
        generator: of the random numbers.

    >>> sample(torch.tensor([[0.0, 5.0, 1.0]]), temperature=0.0)
    tensor([1])
    """
    _check(temperature, top_k, top_p)
    if temperature == 0:
        return logits.argmax(-1)
    logits = logits.float() / temperature
    if top_k is not None and top_k < logits.shape[-1]:
        logits = logits.masked_fill(logits < logits.topk(top_k).values[:, -1:], -torch.inf)
    probabilities = logits.softmax(-1)
    if top_p is not None and top_p < 1:
        ordered, order = probabilities.sort(-1, descending=True)
        beyond = ordered.cumsum(-1) - ordered >= top_p  # the token that crosses the share still counts
        probabilities = probabilities.masked_fill(torch.zeros_like(beyond).scatter(-1, order, beyond), 0.0)
    return torch.multinomial(probabilities, 1, generator=generator)[:, 0]


def _check(temperature: float, top_k: int | None, top_p: float | None) -> None:
    if not 0 <= temperature < float("inf"):
        raise InputError(f"expected a temperature of 0 (greedy) or more, got {temperature}")
    if top_k is not None and top_k < 1:
        raise InputError(f"expected top_k of at least 1, got {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise InputError(f"expected top_p above 0 and at most 1, got {top_p}")
