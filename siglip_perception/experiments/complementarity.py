"""Compare SigLIP alone, DINOv2 alone and both at localizing and naming objects.

Where: regions come from one encoder's features by the pipeline's rule (find_regions); each object
is compared with its best region by IoU on the patch grid. What: given an object's true mask, the
encoder names its color and kind out of all pairs. Found: given an object's name, the best region
overlaps it with an IoU of at least a half.

SigLIP alone is also evaluated patch by patch, without regions: the object is where the patches
match its name.

SigLIP names through its text tower. DINOv2 has none, so it names through a linear probe fitted to
labeled scenes. A separate row does the same for SigLIP: that is the fair comparison of features.
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
from siglip_perception.experiments.language_aligned import LinearMap, fit_map
from siglip_perception.experiments.patch_features import EncodedScene, SceneEncoder, scenes_of
from siglip_perception.experiments.report import (
    COLORS,
    INK,
    Options,
    Outcome,
    Value,
    empty_figure,
    plot_style,
)
from siglip_perception.grounding.regions import find_regions
from siglip_perception.scenes.vocabulary import COLORS as COLOR_WORDS
from siglip_perception.scenes.vocabulary import KINDS, PhraseClass

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAIRS = tuple((color, kind) for color in COLOR_WORDS for kind in KINDS)
_CUTS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
_SCALE = 20.0
_RIDGE = 1e-2
Namer = Callable[[EncodedScene, Tensor], Tensor]
"""Maps a scene and masks [R, N] of it to scores [R, pairs]."""


@dataclass(frozen=True)
class System:
    """One combination: the encoder and settings of the regions, and the namer.

    labels: number of labeled scenes that it uses.
    """

    name: str
    regions: str
    settings: GroundingSettings
    namer: Namer
    labels: int


def mean_feature(features: Tensor, masks: Tensor) -> Tensor:
    """Average unit features [N, D] over each mask [R, N]: [R, D]."""
    unit = functional.normalize(features, dim=-1)
    return masks @ unit / masks.sum(dim=1, keepdim=True).clamp_min(1e-6)


def object_masks(scene: EncodedScene) -> Tensor:
    """Masks [K, N] of the patches that each object covers by half, at least its best patch."""
    masks = (scene.coverage > 0.5).float().T.contiguous()
    for number, mask in enumerate(masks):
        if not bool(mask.any()):
            mask[int(scene.coverage[:, number].argmax())] = 1
    return masks


def overlaps(regions: Tensor, truth: Tensor) -> Tensor:
    """Compute the IoU [R, K] of masks [R, N] and [K, N]."""
    common = regions @ truth.T
    total = regions.sum(dim=1, keepdim=True) + truth.sum(dim=1) - common
    return common / total.clamp_min(1e-6)


def regions_of(scene: EncodedScene, encoder: str, settings: GroundingSettings) -> Tensor:
    """Find regions [R, N] by the pipeline's rule on that encoder's patches."""
    return (find_regions(getattr(scene, encoder), settings) > 0.5).float()


def best_cut(scenes: Sequence[EncodedScene], encoder: str) -> GroundingSettings:
    """Choose the affinity cut at which the regions of these scenes fit their objects best."""

    def fit(cut: float) -> float:
        settings = GroundingSettings(_SCALE, -_SCALE * cut)
        return float(np.mean([_region_ious(scene, encoder, settings).mean() for scene in scenes]))

    cut = max(_CUTS, key=fit)
    return GroundingSettings(_SCALE, -_SCALE * cut)


def _region_ious(scene: EncodedScene, encoder: str, settings: GroundingSettings) -> Tensor:
    regions = regions_of(scene, encoder, settings)
    truth = object_masks(scene)
    return overlaps(regions, truth).amax(dim=0) if len(regions) else torch.zeros(len(truth))


def probe(scenes: Sequence[EncodedScene], encoder: str) -> Namer:
    """Fit a linear map from the mean feature of a true mask to its color and kind."""
    colors, kinds = list(COLOR_WORDS), list(KINDS)
    features = torch.cat(
        [mean_feature(getattr(scene, encoder), object_masks(scene)) for scene in scenes]
    )
    names = [name for scene in scenes for name in scene.names]
    targets = torch.cat(
        [
            functional.one_hot(torch.tensor([words.index(n[column]) for n in names]), len(words))
            for column, words in enumerate((colors, kinds))
        ],
        dim=1,
    ).float()
    probe_map: LinearMap = fit_map(features, targets, _RIDGE)

    def score(scene: EncodedScene, masks: Tensor) -> Tensor:
        scores = probe_map(mean_feature(getattr(scene, encoder), masks))
        color, kind = scores[:, : len(colors)], scores[:, len(colors) :]
        return (color.unsqueeze(2) + kind.unsqueeze(1)).flatten(1)

    return score


def text_namer(encoder: SceneEncoder) -> Namer:
    """Name masks by SigLIP's pooling head and text tower."""
    text = encoder.text([PhraseClass(*pair).forms("en")[0] for pair in PAIRS])
    return lambda scene, masks: encoder.pool_masks(scene.siglip, masks) @ text.T


def measure(system: System, test: Sequence[EncodedScene]) -> dict[str, Value]:
    """Measure where, what and found over all objects of all scenes: one row of the table."""
    ious: list[float] = []
    name_hits: list[bool] = []
    find_hits: list[bool] = []
    for scene in test:
        truth = object_masks(scene)
        numbers = torch.tensor([PAIRS.index(name) for name in scene.names])
        name_hits += (system.namer(scene, truth).argmax(dim=1) == numbers).tolist()
        regions = regions_of(scene, system.regions, system.settings)
        if not len(regions):
            ious += [0.0] * len(truth)
            find_hits += [False] * len(truth)
            continue
        fit = overlaps(regions, truth)
        ious += fit.amax(dim=0).tolist()
        best_regions = system.namer(scene, regions)[:, numbers].argmax(dim=0)
        find_hits += (fit[best_regions, torch.arange(len(truth))] >= 0.5).tolist()
    return {
        "system": system.name,
        "labeled scenes": system.labels,
        "where: mean IoU, %": 100 * float(np.mean(ious)),
        "where: IoU of a half, %": 100 * float(np.mean([x >= 0.5 for x in ious])),
        "what: named, %": 100 * float(np.mean(name_hits)),
        "found by name, %": 100 * float(np.mean(find_hits)),
    }


def measure_text_map(
    encoder: SceneEncoder, test: Sequence[EncodedScene], naming_share: Value
) -> dict[str, Value]:
    """Measure SigLIP without regions: each patch alone, where the name has a probability > 0.5."""
    siglip = encoder.sight.siglip
    text = encoder.text([PhraseClass(*pair).forms("en")[0] for pair in PAIRS])
    scale, bias = float(siglip.logit_scale.exp()), float(siglip.logit_bias)
    ious: list[float] = []
    for scene in test:
        numbers = torch.tensor([PAIRS.index(name) for name in scene.names])
        logits = scale * text[numbers] @ encoder.pool_patches(scene.siglip).T + bias
        ious += overlaps((logits > 0).float(), object_masks(scene)).diagonal().tolist()
    half = 100 * float(np.mean([x >= 0.5 for x in ious]))
    return {
        "system": "SigLIP alone, patch by patch",
        "labeled scenes": 0,
        "where: mean IoU, %": 100 * float(np.mean(ious)),
        "where: IoU of a half, %": half,
        "what: named, %": naming_share,
        "found by name, %": half,
    }


def run(options: Options) -> Outcome:
    """Measure every system on the same unseen scenes."""
    labels, tests = (4, 6) if options.quick else (256, 150)
    encoder = SceneEncoder(options.model)
    training = encoder.encode(scenes_of(options.seed + 31_000, labels), "labeled scenes")
    test = encoder.encode(scenes_of(options.seed + 32_000, tests), "unseen scenes")
    tuning_scenes = training[: max(labels // 4, 1)]
    siglip_cut = best_cut(tuning_scenes, "siglip")
    model_settings = encoder.sight.settings
    dino_cut = (
        model_settings
        if model_settings.affinity_scale is not None
        else best_cut(tuning_scenes, "dino")
    )
    text = text_namer(encoder)
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
    rows.insert(1, measure_text_map(encoder, test, rows[0]["what: named, %"]))
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
    siglip_row, patch_row, probe_row, dino_row, both_row = rows
    place_key, name_key, find_key = "where: mean IoU, %", "what: named, %", "found by name, %"
    return [
        "Where: regions of DINOv2's features fit the objects with a mean IoU of"
        f" {dino_row[place_key]:.0f} %, regions of SigLIP's with {siglip_row[place_key]:.0f} %;"
        f" the patches that SigLIP gives the right name to, with {patch_row[place_key]:.0f} %.",
        f"What: of {len(PAIRS)} names, SigLIP gives the right one to"
        f" {siglip_row[name_key]:.0f} % of the true masks without any label; with a probe on"
        f" {probe_row['labeled scenes']} labeled scenes its features reach"
        f" {probe_row[name_key]:.0f} %, DINOv2's {dino_row[name_key]:.0f} %.",
        f"Found by name: SigLIP alone finds {siglip_row[find_key]:.0f} % by regions and"
        f" {patch_row[find_key]:.0f} % patch by patch; DINOv2 alone, with labels,"
        f" {dino_row[find_key]:.0f} %; both together, without a label,"
        f" {both_row[find_key]:.0f} %.",
    ]


def _plot(
    rows: Sequence[Mapping[str, Value]], scene: EncodedScene, systems: Sequence[System]
) -> Figure:
    figure = empty_figure(11, 4.2)
    grid = figure.add_gridspec(2, 4, width_ratios=(1.5, 1.5, 1, 1))
    with plot_style():
        _plot_bars(figure.add_subplot(grid[:, :2]), rows)
    masks = {
        "the scene": torch.zeros(0, len(scene.coverage)),
        "its objects": object_masks(scene),
        "SigLIP's regions": regions_of(scene, "siglip", systems[0].settings),
        "DINOv2's regions": regions_of(scene, "dino", systems[-1].settings),
    }
    places = (grid[0, 2], grid[0, 3], grid[1, 2], grid[1, 3])
    side = int(len(scene.coverage) ** 0.5)
    for place, (name, overlay) in zip(places, masks.items(), strict=True):
        axis = figure.add_subplot(place)
        axis.imshow(scene.picture, extent=(0, side, side, 0))
        labels = torch.zeros(side * side)
        for number, mask in enumerate(overlay):
            if float(mask.sum()) < 0.4 * len(mask):  # not the background
                labels[mask > 0] = 1 + number % 10
        label_map = np.ma.masked_equal(labels.view(side, side).numpy(), 0)
        axis.imshow(
            label_map, cmap="tab10", alpha=0.85, vmin=1, vmax=10, extent=(0, side, side, 0)
        )
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
