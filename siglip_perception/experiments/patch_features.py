"""A model's features of generated scenes, patch by patch, with the truth beside them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from siglip_perception.encoders.encoders import Encoders, TextEncoder
from siglip_perception.encoders.plan import Plan
from siglip_perception.errors import CheckpointError
from siglip_perception.evaluation.linear_probe import PURE
from siglip_perception.grounding.region_head import head_keys, pool_regions, pool_single
from siglip_perception.images.preprocess import Preprocessor, to_square
from siglip_perception.scenes.scenes import Scene, render, sample_scene
from siglip_perception.types import UInt8Array

OBJECTS = 3
_BATCH = 16


@dataclass(frozen=True)
class SeenScene:
    """One scene through one model; N patches, K objects.

    siglip, dino: float32 [N, D], last blocks after the norm. pixels: float32 [N, 3 P P], each
    patch's own, in [0, 1]. coverage: float32 [N, K]. picture: uint8 [S, S, 3].
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
        """int64 [N]: the object that a patch shows, K for the background, -1 for a mixture."""
        background = (1 - self.coverage.sum(dim=1, keepdim=True)).clamp_min(0)
        share, owner = torch.cat([self.coverage, background], dim=1).max(dim=1)
        return torch.where(share >= PURE, owner, -1)


class Eyes:
    """The encoders of a model folder that can ground, on the CPU in float32.

    Raises CheckpointError where the model has no text tower or no DINO encoder.
    """

    def __init__(self, model: str) -> None:
        plan = Plan.make(model, "", "", "")
        if plan.sight is None:
            raise CheckpointError(plan.says)
        device = torch.device("cpu")
        self.sight = plan.sight
        self._encoders = Encoders(plan.contract, plan.towers, plan.tokens, plan.grounding)
        self._encoders.prepare(device, torch.float32)
        self._preprocess = Preprocessor(self._encoders.inputs, device)
        self._text = TextEncoder(plan.sight.siglip, plan.sight.tokenizer, device)

    def look(self, scenes: Sequence[Scene], label: str) -> list[SeenScene]:
        """Render at 640x480 and encode."""
        seen: list[SeenScene] = []
        bar = tqdm(total=len(scenes), unit="scene", desc=label, disable=not sys.stderr.isatty())
        for start in range(0, len(scenes), _BATCH):
            part = scenes[start : start + _BATCH]
            rendered = [render(scene) for scene in part]
            features = self._encoders(
                self._preprocess([one.image for one in rendered]),
                with_tokens=False,
                grounded=range(len(part)),
            )
            assert features.siglip is not None
            assert features.dino is not None
            for number, (scene, one) in enumerate(zip(part, rendered, strict=True)):
                picture = np.array(to_square(one.image, self.sight.square))
                seen.append(
                    SeenScene(
                        scene,
                        features.siglip[number].clone(),
                        features.dino[number].clone(),
                        self._patches(picture).flatten(1),
                        self._coverage(one.instances, len(scene.objects)),
                        picture,
                    )
                )
            bar.update(len(part))
        bar.close()
        return seen

    def text(self, phrases: Sequence[str]) -> Tensor:
        """Unit embeddings [P, D]."""
        return self._text(tuple(phrases))[0].clone()

    @torch.no_grad()
    def pool_patches(self, siglip: Tensor) -> Tensor:
        """SigLIP's head over each patch alone: [N, D] -> unit [N, D], comparable with text."""
        head = self.sight.siglip.vision_model.head
        keys = head_keys(head, siglip.unsqueeze(0))
        return functional.normalize(pool_single(head, keys.values[0]), dim=-1)

    @torch.no_grad()
    def pool_masks(self, siglip: Tensor, masks: Tensor) -> Tensor:
        """SigLIP's head over each mask [R, N] in [0, 1]: unit [R, D]."""
        head = self.sight.siglip.vision_model.head
        keys = head_keys(head, siglip.unsqueeze(0))
        return functional.normalize(pool_regions(head, keys, masks.unsqueeze(0))[0], dim=-1)

    def _patches(self, square: UInt8Array) -> Tensor:
        grid, side = self.sight.grid, self.sight.patch
        cut = torch.from_numpy(square[: grid * side, : grid * side]).float() / 255
        blocks = cut.reshape(grid, side, grid, side, -1).permute(0, 2, 1, 3, 4)
        return blocks.reshape(grid * grid, side * side, -1)

    def _coverage(self, instances: UInt8Array, objects: int) -> Tensor:
        """Through the same resize as the image, so that it fits whatever the contract does."""
        shares = []
        for number in range(1, objects + 1):
            mask = np.repeat(((instances == number) * np.uint8(255))[..., None], 3, axis=2)
            square = np.array(to_square(mask, self.sight.square))
            shares.append(self._patches(square).mean(dim=(1, 2)))
        return torch.stack(shares, dim=1)


def scenes_of(seed: int, count: int) -> list[Scene]:
    """Scenes of three objects."""
    return [sample_scene(np.random.default_rng((seed, i)), OBJECTS) for i in range(count)]
