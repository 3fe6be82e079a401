"""Gradient accumulation that keeps every negative (GradCache, Gao et al. 2021, section 3.2).

A contrastive loss compares each pair with the rest of the batch, so averaging the losses of four
microbatches loses three quarters of the negatives. GradCache embeds the whole batch without a
graph, computes the loss and the gradient of every embedding, and then embeds each microbatch again
to backpropagate its slice of that gradient. Memory is that of one microbatch, the gradient that of
the whole batch, and the price a second forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

Microbatch = TypeVar("Microbatch")
Embeddings = tuple[Tensor, ...]


def grad_cache_backward(
    microbatches: Sequence[Microbatch],
    embed: Callable[[Microbatch], Embeddings],
    loss_of: Callable[[Embeddings], Tensor],
) -> Tensor:
    """Accumulate the gradient of the loss over all microbatches; return the loss, detached.

    embed: maps a microbatch to its embeddings, each [B, ...]. loss_of: maps the embeddings of the
    whole batch, concatenated along the first axis, to a scalar. The random state is replayed, so
    dropout masks are the same in both passes.
    """
    if len(microbatches) == 1:
        loss = loss_of(embed(microbatches[0]))
        torch.autograd.backward(loss)
        return loss.detach()
    rng_states, embeddings = [], []
    with torch.no_grad():
        for microbatch in microbatches:
            rng_states.append(_random_state())
            embeddings.append(embed(microbatch))
    final_rng_state = _random_state()
    leaves = tuple(torch.cat(column).requires_grad_() for column in zip(*embeddings, strict=True))
    sizes = [len(chunk[0]) for chunk in embeddings]
    del embeddings
    loss = loss_of(leaves)
    torch.autograd.backward(loss)
    start = 0
    for microbatch, rng_state, size in zip(microbatches, rng_states, sizes, strict=True):
        _set_random_state(rng_state)
        for embedding, leaf in zip(embed(microbatch), leaves, strict=True):
            if embedding.requires_grad and leaf.grad is not None:
                gradient = leaf.grad[start : start + size]
                torch.autograd.backward(embedding, gradient, retain_graph=True)
        start += size
    _set_random_state(final_rng_state)
    return loss.detach()


def _random_state() -> tuple[Tensor, Tensor | None]:
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    return torch.get_rng_state(), cuda


def _set_random_state(state: tuple[Tensor, Tensor | None]) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1])
