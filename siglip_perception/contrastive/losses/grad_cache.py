"""Gradient accumulation that keeps every negative (GradCache, Gao et al. 2021, section 3.2).

A contrastive loss compares each pair of a batch with all others, so the mean of the losses of four
quarters is not the loss of the whole: each quarter has a quarter of the negatives. Here the whole
batch is embedded first without keeping anything for backward, the loss of all embeddings gives
each its gradient, and then every part is embedded once more and takes its own share back. Memory
is that of a part, the gradient that of the whole batch, and the price a second forward.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

Part = TypeVar("Part")
Embeddings = tuple[Tensor, ...]


def backward_in_parts(
    parts: Sequence[Part],
    embed: Callable[[Part], Embeddings],
    loss_of: Callable[[Embeddings], Tensor],
) -> Tensor:
    """Add the gradient of the loss over all parts to the parameters; the loss, detached.

    embed: a part to its embeddings, each [B, ...]. loss_of: those of all parts, joined along the
    first axis, to a scalar. Dropout draws the same in both passes.
    """
    if len(parts) == 1:
        loss = loss_of(embed(parts[0]))
        torch.autograd.backward(loss)
        return loss.detach()
    states, kept = [], []
    with torch.no_grad():
        for part in parts:
            states.append(_random_state())
            kept.append(embed(part))
    after = _random_state()
    leaves = tuple(torch.cat(column).requires_grad_() for column in zip(*kept, strict=True))
    sizes = [len(embeddings[0]) for embeddings in kept]
    del kept
    loss = loss_of(leaves)
    torch.autograd.backward(loss)
    first = 0
    for part, state, size in zip(parts, states, sizes, strict=True):
        _set_random_state(state)
        for embedding, leaf in zip(embed(part), leaves, strict=True):
            if embedding.requires_grad and leaf.grad is not None:
                share = leaf.grad[first : first + size]
                torch.autograd.backward(embedding, share, retain_graph=True)
        first += size
    _set_random_state(after)
    return loss.detach()


def _random_state() -> tuple[Tensor, Tensor | None]:
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    return torch.get_rng_state(), cuda


def _set_random_state(state: tuple[Tensor, Tensor | None]) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1])
