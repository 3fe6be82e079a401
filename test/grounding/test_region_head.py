"""The pooling head over regions, held against transformers' own head."""

from __future__ import annotations

import pytest
import torch
from transformers import SiglipVisionConfig
from transformers.models.siglip.modeling_siglip import SiglipMultiheadAttentionPoolingHead

from siglip_perception.grounding.region_head import (
    RegionHead,
    head_keys,
    pool_regions,
    pool_single,
)

pytestmark = pytest.mark.numeric

TOKENS = 12


@pytest.fixture
def head() -> SiglipMultiheadAttentionPoolingHead:
    torch.manual_seed(0)
    config = SiglipVisionConfig(hidden_size=16, intermediate_size=32, num_attention_heads=4)
    reference_head = SiglipMultiheadAttentionPoolingHead(config).eval()
    for parameter in reference_head.parameters():  # biases start at zero, where errors hide
        torch.nn.init.normal_(parameter, std=0.5)
    return reference_head


@torch.inference_mode()
def test_the_whole_image_is_the_head_itself(head: SiglipMultiheadAttentionPoolingHead) -> None:
    tokens = torch.randn(2, TOKENS, 16)
    pooled = pool_regions(head, head_keys(head, tokens), torch.ones(2, 1, TOKENS))
    torch.testing.assert_close(pooled[:, 0], head(tokens), rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_a_region_is_the_head_on_its_tokens_alone(
    head: SiglipMultiheadAttentionPoolingHead,
) -> None:
    tokens = torch.randn(1, TOKENS, 16)
    weights = torch.zeros(1, 2, TOKENS)
    weights[0, 0, 3:7] = 1
    weights[0, 1, 9] = 1
    keys = head_keys(head, tokens)
    pooled = pool_regions(head, keys, weights)
    torch.testing.assert_close(pooled[:, 0], head(tokens[:, 3:7]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(pooled[:, 1], head(tokens[:, 9:10]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(pool_single(head, keys.values[:, 9]), pooled[:, 1])


@torch.inference_mode()
def test_an_empty_region_gives_numbers(head: SiglipMultiheadAttentionPoolingHead) -> None:
    pooled = pool_regions(
        head, head_keys(head, torch.randn(1, TOKENS, 16)), torch.zeros(1, 1, TOKENS)
    )
    assert bool(pooled.isfinite().all())


@torch.inference_mode()
@pytest.mark.parametrize(
    ("dtype", "min_cosine"), [(torch.float32, 1 - 1e-6), (torch.bfloat16, 0.9995)]
)
def test_laid_out_for_serving_it_is_the_same_head(
    head: SiglipMultiheadAttentionPoolingHead, dtype: torch.dtype, min_cosine: float
) -> None:
    tokens = torch.randn(1, TOKENS, 16)
    weights = (torch.rand(1, 5, TOKENS) > 0.5).float()
    original = {name: value.clone() for name, value in head.state_dict().items()}
    pooled = pool_regions(head, head_keys(head, tokens), weights)[0]
    outputs = RegionHead(head, dtype)(tokens[0], weights[0])
    assert outputs.dtype == torch.float32
    assert float(torch.cosine_similarity(outputs, pooled, dim=-1).min()) >= min_cosine
    torch.testing.assert_close(dict(head.state_dict()), original, rtol=0, atol=0)
