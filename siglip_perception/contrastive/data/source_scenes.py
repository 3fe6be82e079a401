"""Generated scenes as pairs: an image, and a sentence that names every object in it."""

from __future__ import annotations

from dataclasses import dataclass, field

from siglip_perception.contrastive.data.sources import Pair
from siglip_perception.datasets.skips import SkipReport


@dataclass(frozen=True)
class SceneSource:
    """Scenes 0 to count - 1 of a seed."""

    count: int
    seed: int
    report: SkipReport = field(default_factory=SkipReport)

    def __len__(self) -> int:
        return self.count

    def read(self, index: int, epoch: int = 0) -> Pair:
        from siglip_perception.scenes.samples import SceneDataset  # it imports PyTorch

        image, _, _, caption = SceneDataset(self.seed, index, index + 1)[0]
        return Pair(image, caption, f"scene {index}")
