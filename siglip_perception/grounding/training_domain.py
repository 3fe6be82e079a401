"""How far a picture and a phrase are from all that a model was trained on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional

from siglip_perception.errors import CheckpointError
from siglip_perception.util.files import write_atomically

TRAINING = "training.safetensors"
_NUMBERS = ("least_spread", "most_spread", "most_offset", "phrase_least")
# Margin of the range of a user's pictures, in its own widths.
_MARGIN = 0.2
# A phrase may be three times as far from the next known one, as an angle, as all but 2 % of the
# other wordings are: sizes and articles move it, too.
_TAIL = 0.02
_REACH = 3.0
_FAR = 0.05
_RIDGE = 1e-4


@dataclass(frozen=True)
class TrainingDomain:
    """Pictures and phrases that a model knows.

    mean: float32 [D], of SigLIP's unit patches. whitening: [D, D], to a covariance of 1.
    least_spread, most_spread, most_offset: range of distances() of such pictures.
    phrases: unit vectors [Q, D]; phrase_least: least cosine with the nearest of them that their
        other wordings have.
    """

    mean: Tensor
    whitening: Tensor
    least_spread: float
    most_spread: float
    most_offset: float
    phrases: Tensor
    phrase_least: float

    def distances(self, siglip: Tensor) -> Tensor:
        """Spread of a picture's patches [N, D] around their mean, and that mean's offset: [2].

        Squared Mahalanobis distances by dimension. A picture with more in it than the training's
        has a larger spread, a plain one a larger offset or a smaller spread.
        """
        white = (functional.normalize(siglip, dim=-1) - self.mean) @ self.whitening
        center = white.mean(dim=0)
        return torch.stack([(white - center).square().mean(), center.square().mean()])

    def is_outside(self, distances: Tensor) -> bool:
        """True for a picture whose distances(), on the host, none of the training's has."""
        spread, offset = distances.tolist()
        return not (self.least_spread <= spread <= self.most_spread and offset <= self.most_offset)

    def unfamiliar(self, embeddings: Tensor) -> tuple[int, ...]:
        """Indices of the phrases, unit embeddings [P, D], that are none of the model's."""
        nearest = (embeddings.cpu() @ self.phrases.T).amax(dim=1)
        return tuple(torch.nonzero(nearest < self.phrase_least).flatten().tolist())

    def widened(
        self, picture_range: tuple[float, float, float] | None, phrases: Tensor
    ) -> TrainingDomain:
        """The same with pictures of another range and other phrases, unit vectors [Q, D], in it.

        picture_range: see range_of(); None: no other pictures.
        """
        least, most, offset = picture_range or (
            self.least_spread,
            self.most_spread,
            self.most_offset,
        )
        return replace(
            self,
            least_spread=min(self.least_spread, least),
            most_spread=max(self.most_spread, most),
            most_offset=max(self.most_offset, offset),
            phrases=torch.cat([self.phrases, phrases.cpu()]),
        )

    def to(self, device: torch.device) -> TrainingDomain:
        """The same, with what pictures are compared with on a device."""
        return replace(self, mean=self.mean.to(device), whitening=self.whitening.to(device))


def measure_domain(
    patches: Sequence[Tensor], others: Sequence[Tensor], phrases: Tensor, wordings: Tensor
) -> TrainingDomain:
    """Measure it on SigLIP's patches [N, D] of pictures: mean and spread on some, range on others.

    patches: of every kind of picture. others: of the kind that varies most. Outside are the
        twentieth of them whose mean is furthest away, as photographs lie there, too, and the
        fortieth whose spreads are most extreme.
    phrases: unit vectors [Q, D] of what the model knows. wordings: [W, D], the same in other
    words.
    """
    unit = functional.normalize(torch.cat(list(patches)).double(), dim=-1)
    mean = unit.mean(dim=0)
    variances, axes = torch.linalg.eigh(torch.cov((unit - mean).T))
    whitening = axes / (variances + _RIDGE * variances.mean()).sqrt()
    near = (wordings @ phrases.T).amax(dim=1)
    domain = TrainingDomain(
        mean.float(), whitening.float(), 0.0, 0.0, 0.0, phrases, _least_cosine(near)
    )
    measured = torch.stack([domain.distances(picture) for picture in others])
    low, high = measured[:, 0].quantile(torch.tensor([_FAR / 4, 1 - _FAR / 4])).tolist()
    offset = float(measured[:, 1].quantile(1 - _FAR))
    return replace(domain, least_spread=low, most_spread=high, most_offset=offset)


def range_of(distances: Tensor) -> tuple[float, float, float]:
    """least_spread, most_spread and most_offset of pictures' distances [B, 2], with a margin."""
    least, most = distances.amin(dim=0), distances.amax(dim=0)
    margin = _MARGIN * (most - least)
    return float((least - margin)[0]), float((most + margin)[0]), float((most + margin)[1])


def _least_cosine(nearest: Tensor) -> float:
    """Least cosine that a known phrase has, from those of other wordings [W]."""
    angle = float(nearest.quantile(_TAIL).clamp(-1, 1).arccos())
    return math.cos(min(_REACH * angle, math.pi))


def write_domain(folder: Path, domain: TrainingDomain) -> None:
    """Write it into a model folder: float16, its numbers as metadata."""
    tensors = {
        "mean": domain.mean,
        "whitening": domain.whitening,
        "phrases": domain.phrases,
    }
    halves = {name: values.cpu().half().contiguous() for name, values in tensors.items()}
    numbers = {name: repr(getattr(domain, name)) for name in _NUMBERS}
    write_atomically(folder / TRAINING, save(halves, numbers))


def read_domain(folder: Path, width: int) -> TrainingDomain | None:
    """Read it from a model folder; None where it has none: then nothing is known to be outside.

    width: of the embeddings. Raises CheckpointError for a file that does not belong to the model.
    """
    path = folder / TRAINING
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            mean, whitening, phrases = (
                file.get_tensor(name).float() for name in ("mean", "whitening", "phrases")
            )
        numbers = [float(metadata[name]) for name in _NUMBERS]
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({error}): get a fresh copy of the model folder."
        ) from error
    if (
        mean.shape != (width,)
        or whitening.shape != (width, width)
        or phrases.shape[1:] != (width,)
    ):
        raise CheckpointError(
            f"{path} belongs to another model, its vectors are not {width} wide: get a fresh copy"
            " of the model folder."
        )
    phrases = functional.normalize(phrases, dim=-1)
    least_spread, most_spread, most_offset, phrase_least = numbers
    return TrainingDomain(
        mean, whitening, least_spread, most_spread, most_offset, phrases, phrase_least
    )
