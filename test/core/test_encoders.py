"""One pass with taps, held against transformers' own passes. Random weights: plumbing only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from siglip_perception import checkpoints, contracts
from siglip_perception.contrastive.towers import new_dinov2, new_siglip, new_tokenizer
from siglip_perception.encoders import Encoders, TextEncoder

CONTRACT = contracts.get("tabletop")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def models() -> checkpoints.Models:
    tokenizer = new_tokenizer(["a red cup", "빨간 컵"])
    siglip, dinov2 = new_siglip(tokenizer, 0).eval(), new_dinov2(0).eval()
    for model in (siglip, dinov2):  # norms and biases start where errors hide
        for parameter in model.parameters():
            if parameter.ndim == 1 and len(parameter) > 1:
                nn.init.normal_(parameter, mean=float(parameter.detach().mean()), std=0.3)
    return checkpoints.Models(siglip, tokenizer, dinov2, {}, "", False)


@pytest.fixture(scope="module")
def inputs() -> dict[contracts.EncoderName, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "siglip": torch.randn(1, 3, 216, 216, generator=generator),
        "dinov2": torch.randn(1, 3, 216, 216, generator=generator),
    }


@contextmanager
def counted(*blocks: nn.Module) -> Iterator[list[int]]:
    """How often each of the blocks runs."""
    calls = [0] * len(blocks)

    def hook(index: int) -> object:
        def count(*_: object) -> None:
            calls[index] += 1

        return count

    handles = [b.register_forward_hook(hook(i)) for i, b in enumerate(blocks)]  # type: ignore[arg-type]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


@torch.inference_mode()
def test_tokens_and_last_features_equal_transformers(
    models: checkpoints.Models, inputs: dict[contracts.EncoderName, torch.Tensor]
) -> None:
    features = Encoders(models, CONTRACT, CPU, torch.float32)(
        inputs, with_tokens=True, with_grounding=True
    )
    siglip = models.siglip.vision_model(inputs["siglip"], output_hidden_states=True)
    dinov2 = models.dinov2(inputs["dinov2"], output_hidden_states=True)
    # hidden_states holds the embeddings too: [-2] is the second-to-last block's raw output.
    expected = torch.cat([dinov2.hidden_states[-2][0, 5:], siglip.hidden_states[-2][0]], dim=-1)
    assert features.tokens is not None
    assert features.siglip is not None
    assert features.dinov2 is not None
    torch.testing.assert_close(features.tokens, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(features.siglip, siglip.last_hidden_state[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        features.dinov2, dinov2.last_hidden_state[0, 5:], rtol=1e-4, atol=1e-4
    )


@torch.inference_mode()
def test_the_last_block_does_not_run_for_tokens_alone(
    models: checkpoints.Models, inputs: dict[contracts.EncoderName, torch.Tensor]
) -> None:
    encoders = Encoders(models, CONTRACT, CPU, torch.float32)
    blocks = [*models.siglip.vision_model.encoder.layers, *models.dinov2.encoder.layer]
    with counted(*blocks) as calls:
        features = encoders(inputs, with_tokens=True, with_grounding=False)
    assert calls == [1, 1, 1, 1, 0] * 2
    assert features.siglip is None
    assert features.dinov2 is None
    with counted(*blocks) as calls:
        encoders(inputs, with_tokens=True, with_grounding=True)
    assert calls == [1] * 10


@torch.inference_mode()
def test_bf16_tokens_point_the_same_way(
    models: checkpoints.Models, inputs: dict[contracts.EncoderName, torch.Tensor]
) -> None:
    exact, narrow = (
        Encoders(models, CONTRACT, CPU, dtype)(inputs, with_tokens=True, with_grounding=False)
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert exact.tokens is not None
    assert narrow.tokens is not None
    assert narrow.tokens.dtype == torch.float32
    cosine = nn.functional.cosine_similarity(exact.tokens, narrow.tokens)
    assert cosine.min() > 0.999


def test_text_embeddings_equal_transformers_and_long_text_is_told(
    models: checkpoints.Models,
) -> None:
    encode = TextEncoder(models, CPU)
    embeddings, truncated = encode(("a red cup", "cup " * 100))
    assert truncated == (False, True)
    ids = models.tokenizer(
        ["a red cup"], padding="max_length", max_length=32, return_tensors="pt"
    )["input_ids"]
    with torch.inference_mode():
        expected = models.siglip.get_text_features(input_ids=ids).pooler_output
    torch.testing.assert_close(embeddings[:1], nn.functional.normalize(expected, dim=-1))
