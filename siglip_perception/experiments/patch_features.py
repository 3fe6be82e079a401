"""Encode generated scenes to patch features, with ground truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from siglip_perception.config import ModelSelection
from siglip_perception.encoders.encoders import Encoders, TextEncoder
from siglip_perception.encoders.plan import ModelPlan
from siglip_perception.errors import CheckpointError
from siglip_perception.evaluation.linear_probe import PURE
from siglip_perception.grounding.region_head import head_keys, pool_regions, pool_single
from siglip_perception.images.preprocess import Preprocessor
from siglip_perception.images.squares import to_levels
from siglip_perception.scenes.scenes import Scene, render, sample_scene
from siglip_perception.types import UInt8Array

OBJECTS = 3
_BATCH = 16


@dataclass(frozen=True)
class EncodedScene:
    """One scene, encoded: N patches, K objects.

    siglip, dino: float32 [N, D], last block after the norm. pixels: float32 [N, 3 P P], raw pixels
    of each patch in [0, 1]. coverage: float32 [N, K]. picture: uint8 [S, S, 3].
    """

    scene: Scene
    siglip: Tensor
    dino: Tensor
    pixels: Tensor
    coverage: Tensor
    picture: UInt8Array

    @property
    def names(self) -> list[tuple[str, str]]:
        """Color and kind of each object."""
        return [(item.color, item.kind) for item in self.scene.objects]

    @property
    def owners(self) -> Tensor:
        """The object that each patch shows, int64 [N]: K for background, -1 for a mixture."""
        background = (1 - self.coverage.sum(dim=1, keepdim=True)).clamp_min(0)
        share, owner = torch.cat([self.coverage, background], dim=1).max(dim=1)
        return torch.where(share >= PURE, owner, -1)


class SceneEncoder:
    """The encoders of a model that can ground, on the CPU in float32.

    Raises CheckpointError if the model has no text tower or no DINO encoder.
    """

    def __init__(self, model: str) -> None:
        plan = ModelPlan.load(ModelSelection(model))
        if plan.grounding_model is None:
            raise CheckpointError(plan.grounding_status)
        device = torch.device("cpu")
        self.sight = plan.grounding_model
        self._encoders = Encoders(
            plan.contract, plan.towers, plan.token_towers, plan.grounding_towers
        )
        self._encoders.prepare(device, torch.float32)
        self._preprocess = Preprocessor(self._encoders.inputs, device)
        self._text = TextEncoder(
            plan.grounding_model.siglip, plan.grounding_model.tokenizer, device
        )

    def encode(self, scenes: Sequence[Scene], label: str) -> list[EncodedScene]:
        """Render at 640x480 and encode."""
        results: list[EncodedScene] = []
        bar = tqdm(total=len(scenes), unit="scene", desc=label, disable=None)
        for start in range(0, len(scenes), _BATCH):
            batch = scenes[start : start + _BATCH]
            renderings = [render(scene) for scene in batch]
            features = self._encoders(
                self._preprocess([rendering.image for rendering in renderings]),
                with_tokens=False,
                grounding_rows=range(len(batch)),
            )
            assert features.siglip is not None
            assert features.dino is not None
            for number, (scene, rendering) in enumerate(zip(batch, renderings, strict=True)):
                picture = np.array(to_levels(rendering.image, self.sight.resize))
                results.append(
                    EncodedScene(
                        scene,
                        features.siglip[number].clone(),
                        features.dino[number].clone(),
                        self._patches(picture).flatten(1),
                        self._coverage(rendering.instances, len(scene.objects)),
                        picture,
                    )
                )
            bar.update(len(batch))
        bar.close()
        return results

    def text(self, phrases: Sequence[str]) -> Tensor:
        """Embed phrases: unit vectors [P, D]."""
        return self._text(tuple(phrases))[0].clone()

    @torch.no_grad()
    def pool_patches(self, siglip: Tensor) -> Tensor:
        """Pool each patch alone by SigLIP's head: [N, D] -> unit [N, D], comparable with text."""
        head = self.sight.siglip.vision_model.head
        keys = head_keys(head, siglip.unsqueeze(0))
        return functional.normalize(pool_single(head, keys.values[0]), dim=-1)

    @torch.no_grad()
    def pool_masks(self, siglip: Tensor, masks: Tensor) -> Tensor:
        """Pool each mask [R, N] in [0, 1] by SigLIP's head: unit [R, D]."""
        head = self.sight.siglip.vision_model.head
        keys = head_keys(head, siglip.unsqueeze(0))
        return functional.normalize(pool_regions(head, keys, masks.unsqueeze(0))[0], dim=-1)

    def _patches(self, square: UInt8Array) -> Tensor:
        grid, side = self.sight.grid, self.sight.patch
        cut = torch.from_numpy(square[: grid * side, : grid * side]).float() / 255
        blocks = cut.reshape(grid, side, grid, side, -1).permute(0, 2, 1, 3, 4)
        return blocks.reshape(grid * grid, side * side, -1)

    def _coverage(self, instances: UInt8Array, objects: int) -> Tensor:
        """Compute coverage by resizing masks like the image, so that it fits any contract."""
        shares = []
        for number in range(1, objects + 1):
            mask = np.repeat(((instances == number) * np.uint8(255))[..., None], 3, axis=2)
            square = np.array(to_levels(mask, self.sight.resize))
            shares.append(self._patches(square).mean(dim=(1, 2)))
        return torch.stack(shares, dim=1)


def scenes_of(seed: int, count: int) -> list[Scene]:
    """Sample scenes of three objects."""
    return [sample_scene(np.random.default_rng((seed, i)), OBJECTS) for i in range(count)]
