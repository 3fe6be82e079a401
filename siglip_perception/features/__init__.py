"""Features of a whole corpus: written once, read by every training and every search.

from siglip_perception import features
folder = features.open("DIR")
folder[3, 120].tokens          # episode 3, frame 120: [tokens, dim], without a copy
DataLoader(folder.dataset(), batch_size=64, shuffle=True)
"""

from siglip_perception.features.reader import FeatureFolder
from siglip_perception.features.reader import open_features as open  # noqa: A004 - its name

__all__ = ["FeatureFolder", "open"]
