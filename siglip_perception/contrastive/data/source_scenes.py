"""Generated scenes as pairs: an image, and a sentence that names every object in it."""

from __future__ import annotations

from dataclasses import dataclass, field

from siglip_perception.contrastive.data.sources import Pair
from siglip_perception.datasets.skips import SkipReport
from siglip_perception.scenes.samples.items import scene_item


@dataclass(frozen=True)
class SceneSource:
    """Scenes 0 to count - 1 of a seed."""

    count: int
    seed: int
    report: SkipReport = field(default_factory=SkipReport)

    def __len__(self) -> int:
        return self.count

    def read(self, index: int, epoch: int = 0) -> Pair:
        image, _, _, caption = scene_item(self.seed, index)
        return Pair(image, caption, f"scene {index}")
