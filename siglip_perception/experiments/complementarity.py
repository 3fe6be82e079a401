"""Where things are and what they are: SigLIP alone, DINOv2 alone, and both, on the same scenes.

Where: regions are made from one encoder's features by the pipeline's own rule (find_regions), and
each object is compared with the region that fits it best, by IoU on the grid of patches. What: the
encoder sees an object's true mask and names its color and kind out of all pairs. Found: asked for
the object by name, is the best region on it, with an IoU of a half or more?

SigLIP alone is also taken patch by patch, without any region: the patches that it gives the name
to are where the object is.

SigLIP names by its text tower. DINOv2 has none, so it names by a linear probe that is fitted to
labeled scenes, and so does SigLIP in a row of its own: that is the fair comparison of features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from siglip_perception.checkpoints.grounding_settings import GroundingSettings
from siglip_perception.experiments.language_aligned import Map, fit_map
from siglip_perception.experiments.patch_features import Eyes, SeenScene, scenes_of
from siglip_perception.experiments.report import (
    COLORS,
    INK,
    Options,
    Outcome,
    Value,
    empty_figure,
    styled,
)
from siglip_perception.grounding.grounder import find_regions
from siglip_perception.scenes.vocabulary import COLORS as COLOR_WORDS
from siglip_perception.scenes.vocabulary import KINDS, PhraseClass

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAIRS = tuple((color, kind) for color in COLOR_WORDS for kind in KINDS)
_CUTS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
_SCALE = 20.0
_RIDGE = 1e-2
Namer = Callable[[SeenScene, Tensor], Tensor]
"""A scene and masks [R, N] of it -> scores [R, pairs]."""


@dataclass(frozen=True)
class System:
    """Who draws the regions, by which numbers, and who names them."""

    name: str
    regions: str
    settings: GroundingSettings
    namer: Namer
    labels: int


def mean_feature(features: Tensor, masks: Tensor) -> Tensor:
    """Mean of unit features [N, D] over each mask [R, N]: [R, D]."""
    unit = functional.normalize(features, dim=-1)
    return masks @ unit / masks.sum(dim=1, keepdim=True).clamp_min(1e-6)


def true_masks(one: SeenScene) -> Tensor:
    """[K, N], 1 where an object covers half of a patch, or the patch it covers most."""
    masks = (one.coverage > 0.5).float().T.contiguous()
    for number, mask in enumerate(masks):
        if not bool(mask.any()):
            mask[int(one.coverage[:, number].argmax())] = 1
    return masks


def overlaps(regions: Tensor, truth: Tensor) -> Tensor:
    """IoU [R, K] of masks [R, N] and [K, N]."""
    common = regions @ truth.T
    total = regions.sum(dim=1, keepdim=True) + truth.sum(dim=1) - common
    return common / total.clamp_min(1e-6)


def regions_of(one: SeenScene, encoder: str, settings: GroundingSettings) -> Tensor:
    """Masks [R, N] by the pipeline's rule on that encoder's patches."""
    return (find_regions(getattr(one, encoder), settings) > 0.5).float()


def best_cut(seen: Sequence[SeenScene], encoder: str) -> GroundingSettings:
    """The affinity's cut under which regions of these scenes fit their objects best."""

    def fit(cut: float) -> float:
        settings = GroundingSettings(_SCALE, -_SCALE * cut)
        return float(np.mean([_where(one, encoder, settings).mean() for one in seen]))

    cut = max(_CUTS, key=fit)
    return GroundingSettings(_SCALE, -_SCALE * cut)


def _where(one: SeenScene, encoder: str, settings: GroundingSettings) -> Tensor:
    regions = regions_of(one, encoder, settings)
    truth = true_masks(one)
    return overlaps(regions, truth).amax(dim=0) if len(regions) else torch.zeros(len(truth))


def probe(seen: Sequence[SeenScene], encoder: str) -> Namer:
    """A linear map from the mean feature in a mask to colors and kinds, fitted to true masks."""
    colors, kinds = list(COLOR_WORDS), list(KINDS)
    features = torch.cat([mean_feature(getattr(one, encoder), true_masks(one)) for one in seen])
    names = [name for one in seen for name in one.names]
    wanted = torch.cat(
        [
            functional.one_hot(torch.tensor([words.index(n[part]) for n in names]), len(words))
            for part, words in enumerate((colors, kinds))
        ],
        dim=1,
    ).float()
    fitted: Map = fit_map(features, wanted, _RIDGE)

    def score(one: SeenScene, masks: Tensor) -> Tensor:
        found = fitted(mean_feature(getattr(one, encoder), masks))
        color, kind = found[:, : len(colors)], found[:, len(colors) :]
        return (color.unsqueeze(2) + kind.unsqueeze(1)).flatten(1)

    return score


def by_text(eyes: Eyes) -> Namer:
    """SigLIP's pooling head over a mask against its text tower."""
    text = eyes.text([PhraseClass(*pair).forms("en")[0] for pair in PAIRS])
    return lambda one, masks: eyes.pool_masks(one.siglip, masks) @ text.T


def measure(system: System, test: Sequence[SeenScene]) -> dict[str, Value]:
    """One row: where, what and found, over all objects of all scenes."""
    ious: list[float] = []
    named: list[bool] = []
    found: list[bool] = []
    for one in test:
        truth = true_masks(one)
        numbers = torch.tensor([PAIRS.index(name) for name in one.names])
        named += (system.namer(one, truth).argmax(dim=1) == numbers).tolist()
        regions = regions_of(one, system.regions, system.settings)
        if not len(regions):
            ious += [0.0] * len(truth)
            found += [False] * len(truth)
            continue
        fit = overlaps(regions, truth)
        ious += fit.amax(dim=0).tolist()
        chosen = system.namer(one, regions)[:, numbers].argmax(dim=0)
        found += (fit[chosen, torch.arange(len(truth))] >= 0.5).tolist()
    return {
        "system": system.name,
        "labeled scenes": system.labels,
        "where: mean IoU, %": 100 * float(np.mean(ious)),
        "where: IoU of a half, %": 100 * float(np.mean([x >= 0.5 for x in ious])),
        "what: named, %": 100 * float(np.mean(named)),
        "found by name, %": 100 * float(np.mean(found)),
    }


def measure_text_map(eyes: Eyes, test: Sequence[SeenScene], named: Value) -> dict[str, Value]:
    """SigLIP without regions: every patch, alone, to which the name is more likely than not."""
    siglip = eyes.sight.siglip
    text = eyes.text([PhraseClass(*pair).forms("en")[0] for pair in PAIRS])
    scale, bias = float(siglip.logit_scale.exp()), float(siglip.logit_bias)
    ious: list[float] = []
    for one in test:
        numbers = torch.tensor([PAIRS.index(name) for name in one.names])
        logits = scale * text[numbers] @ eyes.pool_patches(one.siglip).T + bias
        ious += overlaps((logits > 0).float(), true_masks(one)).diagonal().tolist()
    half = 100 * float(np.mean([x >= 0.5 for x in ious]))
    return {
        "system": "SigLIP alone, patch by patch",
        "labeled scenes": 0,
        "where: mean IoU, %": 100 * float(np.mean(ious)),
        "where: IoU of a half, %": half,
        "what: named, %": named,
        "found by name, %": half,
    }


def run(options: Options) -> Outcome:
    """Each system on the same unseen scenes."""
    labels, tests = (4, 6) if options.quick else (256, 150)
    eyes = Eyes(options.model)
    training = eyes.look(scenes_of(options.seed + 31_000, labels), "labeled scenes")
    test = eyes.look(scenes_of(options.seed + 32_000, tests), "unseen scenes")
    tuned = training[: max(labels // 4, 1)]
    siglip_cut = best_cut(tuned, "siglip")
    learned = eyes.sight.settings
    dino_cut = learned if learned.affinity_scale is not None else best_cut(tuned, "dino")
    text = by_text(eyes)
    systems = (
        System("SigLIP alone, its regions", "siglip", siglip_cut, text, 0),
        System(
            "SigLIP alone, its regions, probe",
            "siglip",
            siglip_cut,
            probe(training, "siglip"),
            labels,
        ),
        System("DINOv2 alone, probe", "dino", dino_cut, probe(training, "dino"), labels),
        System("both: DINOv2 where, SigLIP what", "dino", dino_cut, text, 0),
    )
    rows = [measure(system, test) for system in systems]
    rows.insert(1, measure_text_map(eyes, test, rows[0]["what: named, %"]))
    settings = {
        "model": options.model,
        "unseen scenes": tests,
        "objects": len(test[0].names),
        "names": len(PAIRS),
        "SigLIP's cut": -float(siglip_cut.affinity_bias or 0) / _SCALE,
        "seed": options.seed,
    }
    return Outcome(settings, rows, _findings(rows), _plot(rows, test[0], systems))


def _findings(rows: Sequence[Mapping[str, Value]]) -> list[str]:
    siglip, patches, probed, dino, both = rows
    where, what, found = "where: mean IoU, %", "what: named, %", "found by name, %"
    return [
        "Where: regions made of DINOv2's features fit the objects with a mean IoU of"
        f" {dino[where]:.0f} %, of SigLIP's with {siglip[where]:.0f} %; the patches that SigLIP"
        f" itself calls by the right name, with {patches[where]:.0f} %.",
        f"What: out of {len(PAIRS)} names SigLIP gives the right one to {siglip[what]:.0f} % of"
        f" the true masks without a label; with a probe on {probed['labeled scenes']} labeled"
        f" scenes its features give {probed[what]:.0f} %, DINOv2's {dino[what]:.0f} %.",
        f"Found by name: SigLIP alone {siglip[found]:.0f} % by regions and {patches[found]:.0f} %"
        f" patch by patch, DINOv2 alone, with labels, {dino[found]:.0f} %, both together, without"
        f" a label, {both[found]:.0f} %.",
    ]


def _plot(
    rows: Sequence[Mapping[str, Value]], one: SeenScene, systems: Sequence[System]
) -> Figure:
    figure = empty_figure(11, 4.2)
    grid = figure.add_gridspec(2, 4, width_ratios=(1.5, 1.5, 1, 1))
    with styled():
        _plot_bars(figure.add_subplot(grid[:, :2]), rows)
    masks = {
        "the scene": torch.zeros(0, len(one.coverage)),
        "its objects": true_masks(one),
        "SigLIP's regions": regions_of(one, "siglip", systems[0].settings),
        "DINOv2's regions": regions_of(one, "dino", systems[-1].settings),
    }
    places = (grid[0, 2], grid[0, 3], grid[1, 2], grid[1, 3])
    side = int(len(one.coverage) ** 0.5)
    for place, (name, shown) in zip(places, masks.items(), strict=True):
        axis = figure.add_subplot(place)
        axis.imshow(one.picture, extent=(0, side, side, 0))
        labels = torch.zeros(side * side)
        for number, mask in enumerate(shown):
            if float(mask.sum()) < 0.4 * len(mask):  # not the background
                labels[mask > 0] = 1 + number % 10
        painted = np.ma.masked_equal(labels.view(side, side).numpy(), 0)
        axis.imshow(painted, cmap="tab10", alpha=0.85, vmin=1, vmax=10, extent=(0, side, side, 0))
        axis.set_title(name, fontsize=9)
        axis.set_axis_off()
    return figure


def _plot_bars(axis: Axes, rows: Sequence[Mapping[str, Value]]) -> None:
    columns = ("where: mean IoU, %", "what: named, %", "found by name, %")
    width = 0.8 / len(rows)
    for number, row in enumerate(rows):
        shares = [float(row[column] or 0) for column in columns]
        places = [x + (number - (len(rows) - 1) / 2) * width for x in range(len(columns))]
        bars = axis.bar(
            places, shares, 0.92 * width, color=COLORS[number], label=str(row["system"])
        )
        axis.bar_label(bars, fmt="%.0f", fontsize=8, color=INK)
    axis.set_xticks(range(len(columns)), columns)
    axis.grid(visible=False, axis="x")
    axis.set_ylim(0, 132)
    axis.set_yticks(range(0, 101, 25))
    axis.legend(frameon=False, fontsize=8, ncols=2, loc="upper left")
    axis.set_title("Unseen scenes")
