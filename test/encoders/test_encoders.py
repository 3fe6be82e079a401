"""One pass with taps, held against transformers' own passes. Random weights: plumbing only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn
from transformers import (
    Dinov2WithRegistersModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    SiglipModel,
)

from siglip_perception import contracts
from siglip_perception.checkpoints import networks
from siglip_perception.checkpoints.networks import Network, Siglip, VisionNetwork
from siglip_perception.contracts import Contract
from siglip_perception.contracts.steps import Pool, Shuffle
from siglip_perception.contrastive.tabletop_model import (
    new_dinov2,
    new_siglip,
    new_tokenizer,
)
from siglip_perception.encoders.encoders import Encoders, TextEncoder, Tower
from siglip_perception.images.preprocess import EncoderInput
from siglip_perception.util.flops import count as flops_of

pytestmark = pytest.mark.numeric

CONTRACT = contracts.get("tabletop")
CPU = torch.device("cpu")
Inputs = dict[EncoderInput, torch.Tensor]
DINOV2, SIGLIP = (EncoderInput.of(CONTRACT, spec) for spec in CONTRACT.encoders)


def shaken(model: nn.Module) -> nn.Module:
    """Norms, biases and scales off the values that they start with, where errors hide."""
    for parameter in model.parameters():
        if parameter.ndim == 1 and len(parameter) > 1:
            nn.init.normal_(parameter, mean=float(parameter.detach().mean()), std=0.3)
    return model.eval()


def network_of(model: PreTrainedModel) -> Network:
    """A network with a copy of the weights of transformers' model."""
    network = networks.create(model.config)
    network.load_state_dict(model.state_dict())
    return network.requires_grad_(False)


def vision_network(model: PreTrainedModel) -> VisionNetwork:
    network = network_of(model)
    assert not isinstance(network, Siglip)
    return network


@dataclass(frozen=True)
class Pair:
    siglip: SiglipModel
    dinov2: Dinov2WithRegistersModel
    tokenizer: PreTrainedTokenizerFast

    def encoders(
        self, dtype: torch.dtype = torch.float32, contract: Contract = CONTRACT
    ) -> Encoders:
        parts = {"dinov2": self.dinov2, "siglip": self.siglip.vision_model}
        towers: dict[str, Tower] = {
            spec.name: Tower(
                vision_network(parts[spec.name]), spec, EncoderInput.of(contract, spec), spec.name
            )
            for spec in contract.encoders
        }
        names = {"dinov2": "dinov2", "siglip": "siglip"}
        reads = {"dino": "dinov2", "siglip": "siglip"}
        encoders = Encoders(contract, towers, names, reads)
        encoders.prepare(CPU, dtype)
        return encoders


@pytest.fixture(scope="module")
def models() -> Pair:
    tokenizer = new_tokenizer(["a red cup", "빨간 컵"])
    return Pair(shaken(new_siglip(tokenizer, 0)), shaken(new_dinov2(0)), tokenizer)


@pytest.fixture(scope="module")
def inputs() -> Inputs:
    generator = torch.Generator().manual_seed(1)
    return {item: torch.randn(2, 3, 216, 216, generator=generator) for item in (SIGLIP, DINOV2)}


@contextmanager
def count_images(*blocks: nn.Module) -> Iterator[list[int]]:
    """Record the number of images that each block runs on."""
    images = [0] * len(blocks)

    def hook(index: int) -> object:
        def count(_: nn.Module, values: tuple[torch.Tensor, ...], __: object) -> None:
            images[index] += len(values[0])

        return count

    handles = [b.register_forward_hook(hook(i)) for i, b in enumerate(blocks)]  # type: ignore[arg-type]
    try:
        yield images
    finally:
        for handle in handles:
            handle.remove()


@torch.inference_mode()
def test_tokens_and_last_features_equal_transformers(models: Pair, inputs: Inputs) -> None:
    features = models.encoders()(inputs, with_tokens=True, grounding_rows=[0, 1])
    siglip = models.siglip.vision_model(inputs[SIGLIP], output_hidden_states=True)
    dinov2 = models.dinov2(inputs[DINOV2], output_hidden_states=True)
    # hidden_states holds the embeddings too: [-2] is the second-to-last block's raw output.
    expected = torch.cat([dinov2.hidden_states[-2][:, 5:], siglip.hidden_states[-2]], dim=-1)
    assert features.tokens is not None
    assert features.siglip is not None
    assert features.dino is not None
    torch.testing.assert_close(features.tokens, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(features.siglip, siglip.last_hidden_state, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        features.dino, dinov2.last_hidden_state[:, 5:], rtol=1e-4, atol=1e-4
    )


@torch.inference_mode()
def test_several_taps_of_an_encoder_are_joined_and_patches_shuffled(
    models: Pair, inputs: Inputs
) -> None:
    """In one pass; the last block is read by the grounding as ever."""
    spec = replace(CONTRACT.encoder("dinov2"), tap=-1, more_taps=(-3, -2), norm=True)
    contract = replace(
        CONTRACT, encoders=(spec, CONTRACT.encoder("siglip")), tokens=(Shuffle(3), Pool(2))
    )
    assert (contract.rows, contract.dim) == (3, 9 * 4 * 192)
    features = models.encoders(contract=contract)(inputs, with_tokens=True, grounding_rows=[0])
    with torch.inference_mode():
        dinov2 = models.dinov2(inputs[DINOV2], output_hidden_states=True)
        siglip = models.siglip.vision_model(inputs[SIGLIP], output_hidden_states=True)
        taps = [models.dinov2.layernorm(dinov2.hidden_states[tap])[:, 5:] for tap in (-1, -3, -2)]
        patches = torch.cat([*taps, siglip.hidden_states[-2]], dim=-1)
    rows = patches.view(2, 18, 18, -1)
    places = [rows[:, down::3, across::3] for down in range(3) for across in range(3)]
    shuffled = torch.cat(places, dim=-1).permute(0, 3, 1, 2)
    expected = torch.nn.functional.avg_pool2d(shuffled, 2).permute(0, 2, 3, 1).flatten(1, 2)
    assert features.tokens is not None
    torch.testing.assert_close(features.tokens, expected, rtol=1e-4, atol=1e-4)
    assert features.dino is not None
    torch.testing.assert_close(
        features.dino[0],
        models.dinov2.layernorm(dinov2.hidden_states[-1])[0, 5:],
        atol=1e-4,
        rtol=1e-4,
    )


def test_no_block_runs_that_nothing_reads(models: Pair, inputs: Inputs) -> None:
    encoders = models.encoders()
    blocks = [*encoders.towers["siglip"].blocks, *encoders.towers["dinov2"].blocks]
    with count_images(*blocks) as images:
        features = encoders(inputs, with_tokens=True, grounding_rows=[])
    assert images == [2, 2, 2, 0, 2, 2, 0]
    assert features.siglip is None
    assert features.dino is None
    with count_images(*blocks) as images:
        encoders(inputs, with_tokens=True, grounding_rows=[0, 1])
    assert images == [2] * 7
    with count_images(*blocks) as images:  # objects of the second image alone
        subset = encoders(inputs, with_tokens=True, grounding_rows=[1])
    assert images == [2, 2, 2, 1, 2, 2, 1]
    with count_images(*blocks) as images:  # objects alone, of one image
        alone = encoders(inputs, with_tokens=False, grounding_rows=[1])
    assert images == [1] * 7
    assert alone.tokens is None
    with count_images(*blocks) as images:  # whole images alone, which SigLIP embeds
        whole = encoders(inputs, with_tokens=True, grounding_rows=[0, 1], with_dino=False)
    assert images == [2, 2, 2, 2, 2, 2, 0]
    assert whole.dino is None
    all_values = encoders(inputs, with_tokens=True, grounding_rows=[0, 1])
    for actual in (subset, alone, whole):
        assert actual.siglip is not None
        assert all_values.siglip is not None
        torch.testing.assert_close(actual.siglip[-1], all_values.siglip[1], rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_the_flops_are_those_of_the_blocks_that_run(models: Pair, inputs: Inputs) -> None:
    """Tokens take SigLIP's first three of four blocks and DINOv2's first two of three."""

    def flops(grounding_rows: list[int]) -> int:
        encoders = models.encoders()
        return flops_of(lambda: encoders(inputs, with_tokens=True, grounding_rows=grounding_rows))

    width, patches, registers = 192, 324, 5
    embed = 2 * 2 * 2 * patches * 3 * 12 * 12 * width
    # A block of two images has 12 D^2 products a token and 2 D a pair of tokens, 2 FLOP each.
    siglip, dinov2 = (
        2 * 2 * (12 * count * width**2 + 2 * count**2 * width)
        for count in (patches, patches + registers)
    )
    assert flops([]) == embed + 3 * siglip + 2 * dinov2
    assert flops([0, 1]) == embed + 4 * siglip + 3 * dinov2


@torch.inference_mode()
def test_bf16_tokens_point_the_same_way(models: Pair, inputs: Inputs) -> None:
    exact, cast_tokens = (
        models.encoders(dtype)(inputs, with_tokens=True, grounding_rows=[])
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert exact.tokens is not None
    assert cast_tokens.tokens is not None
    assert cast_tokens.tokens.dtype == torch.float32
    cosine = nn.functional.cosine_similarity(exact.tokens, cast_tokens.tokens, dim=-1)
    assert 0.999 < cosine.min() < 1 - 1e-7


def test_text_embeddings_equal_transformers_and_long_text_is_told(
    models: Pair,
) -> None:
    siglip = network_of(models.siglip)
    assert isinstance(siglip, Siglip)
    encode = TextEncoder(siglip, models.tokenizer, CPU)
    embeddings, truncated = encode(("a red cup", "cup " * 100))
    assert truncated == (False, True)
    ids = models.tokenizer(
        ["a red cup"], padding="max_length", max_length=32, return_tensors="pt"
    )["input_ids"]
    with torch.inference_mode():
        expected = models.siglip.get_text_features(input_ids=ids).pooler_output
    torch.testing.assert_close(embeddings[:1], nn.functional.normalize(expected, dim=-1))
