"""Point at the object that a phrase names, by features of SigLIP, DINOv2 and raw pixels.

The patch closest to the phrase is points_at at; it counts as right if the object covers at least
half of it. SigLIP's patches are compared with the text directly. DINOv2's features and raw pixels
are not in that space: a linear map takes them there, fitted by ridge regression to the patches of
m scenes with every object labeled. A fifth of the color-kind pairs is never labeled, to see
whether the map generalizes. (The model's own training did include them.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from siglip_perception.experiments.patch_features import EncodedScene, SceneEncoder, scenes_of
from siglip_perception.experiments.report import (
    COLORS,
    GRAY,
    Options,
    Outcome,
    Value,
    empty_figure,
    plot_style,
)
from siglip_perception.images.overlay import FONT
from siglip_perception.scenes.scenes import Scene
from siglip_perception.scenes.vocabulary import COLORS as COLOR_WORDS
from siglip_perception.scenes.vocabulary import KINDS, LANGUAGES, Language, PhraseClass

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LABEL_COUNTS = (1, 4, 16, 64, 256)
KINDS_OF_FEATURE = ("siglip", "dino", "pixels")
_NAMES = {"siglip": "SigLIP", "dino": "DINOv2", "pixels": "raw pixels"}
_RIDGES = (1e-3, 1e-2, 1e-1, 1.0)
ColorKind = tuple[str, str]


@dataclass(frozen=True)
class LinearMap:
    """Linear map of standardized features into text space; weights: [D + 1, T]."""

    mean: Tensor
    std: Tensor
    weights: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        z = (features - self.mean) / self.std
        return torch.cat([z, z.new_ones(len(z), 1)], dim=1) @ self.weights


def fit_map(features: Tensor, targets: Tensor, ridge: float) -> LinearMap:
    """Fit by least squares with an L2 penalty of `ridge` times the number of rows."""
    mean, std = features.mean(dim=0), features.std(dim=0).clamp_min(1e-4)
    z = ((features - mean) / std).double()
    rows = torch.cat([z, z.new_ones(len(z), 1)], dim=1)
    gram = rows.T @ rows + ridge * len(rows) * torch.eye(rows.shape[1], dtype=rows.dtype)
    weights = torch.linalg.solve(gram, rows.T @ targets.double())
    return LinearMap(mean, std, weights.float())


def held_out_pairs(seed: int) -> frozenset[ColorKind]:
    """Select a fifth of the color-kind pairs, never all of a color or of a kind."""
    colors, kinds = list(COLOR_WORDS), list(KINDS)
    shift = seed % 5
    return frozenset(
        (color, kind)
        for i, color in enumerate(colors)
        for j, kind in enumerate(kinds)
        if (i + j + shift) % 5 == 0
    )


def labeled_rows(
    scenes: Sequence[EncodedScene],
    feature: str,
    targets: Mapping[ColorKind, Tensor],
    held_out: frozenset[ColorKind],
) -> tuple[Tensor, Tensor]:
    """Collect features [M, D] and their targets in text space [M, T]; zero for background."""
    features, positions = [], []
    nothing = torch.zeros_like(next(iter(targets.values())))
    for scene in scenes:
        places = [*(targets[name] for name in scene.names), nothing]
        for patch, owner in enumerate(scene.owners.tolist()):
            is_labeled = owner == len(scene.names) or (
                owner >= 0 and scene.names[owner] not in held_out
            )
            if is_labeled:
                features.append(getattr(scene, feature)[patch])
                positions.append(places[owner])
    return torch.stack(features), torch.stack(positions)


def points_at(scene: EncodedScene, scores: Tensor, pair: ColorKind) -> bool:
    """Tell whether the best patch of [N] is at least half covered by an object of that name."""
    patch = int(scores.argmax())
    matching = [n for n, name in enumerate(scene.names) if name == pair]
    return bool(scene.coverage[patch, matching].sum() >= 0.5)


def run(options: Options) -> Outcome:
    """Measure SigLIP without labels, and every feature with more and more of them."""
    label_counts = (1, 4) if options.quick else LABEL_COUNTS
    tests = 8 if options.quick else 150
    encoder = SceneEncoder(options.model)
    training = encoder.encode(
        scenes_of(options.seed + 31_000, max(label_counts)), "labeled scenes"
    )
    test = encoder.encode(scenes_of(options.seed + 32_000, tests), "unseen scenes")
    held_out = held_out_pairs(options.seed)
    pairs = [(color, kind) for color in COLOR_WORDS for kind in KINDS]
    text = {
        language: dict(
            zip(
                pairs,
                encoder.text([PhraseClass(*pair).forms(language)[0] for pair in pairs]),
                strict=True,
            )
        )
        for language in LANGUAGES
    }
    # One target for both languages: labels belong to objects, not to words.
    targets = {
        pair: functional.normalize(sum((text[x][pair] for x in LANGUAGES), torch.zeros(())), dim=0)
        for pair in pairs
    }

    rows: list[dict[str, Value]] = []
    as_they_are = [encoder.pool_patches(scene.siglip) for scene in test]
    rows += _rows("SigLIP as it is", 0, test, as_they_are, text, held_out)
    maps: dict[str, LinearMap] = {}
    for feature in KINDS_OF_FEATURE:
        for count in label_counts:
            rows_and_targets = labeled_rows(training[:count], feature, targets, held_out)
            maps[feature] = _best_map(*rows_and_targets)
            embeddings = [maps[feature](getattr(scene, feature)) for scene in test]
            rows += _rows(
                f"{_NAMES[feature]} + linear map", count, test, embeddings, text, held_out
            )
    chance = float(np.mean([scene.coverage.mean() for scene in test]))
    settings = {
        "model": options.model,
        "unseen scenes": tests,
        "objects": len(test[0].names),
        "pairs never labeled": len(held_out),
        "of": len(pairs),
        "seed": options.seed,
    }
    example = _example(encoder, options.seed)
    return Outcome(
        settings,
        rows,
        _findings(rows, chance, max(label_counts)),
        _plot(rows, chance, example, maps, encoder),
    )


def _best_map(features: Tensor, targets: Tensor) -> LinearMap:
    """Choose the penalty on the last fifth of the rows, then fit to all of them."""
    cut = max(len(features) * 4 // 5, 1)
    if cut == len(features):
        return fit_map(features, targets, _RIDGES[-1])

    def error(ridge: float) -> float:
        candidate = fit_map(features[:cut], targets[:cut], ridge)
        return float((candidate(features[cut:]) - targets[cut:]).square().mean())

    return fit_map(features, targets, min(_RIDGES, key=error))


def _rows(
    name: str,
    label_count: int,
    test: Sequence[EncodedScene],
    embeddings: Sequence[Tensor],
    text: Mapping[Language, Mapping[ColorKind, Tensor]],
    held_out: frozenset[ColorKind],
) -> list[dict[str, Value]]:
    """Compute one table row: the share of correct answers among all questions, among pairs never
    labeled, and among objects beside another of the same color, where only the kind can tell.
    """
    row: dict[str, Value] = {"features": name, "labeled scenes": label_count}
    new_pairs: list[bool] = []
    same_color: list[bool] = []
    for language in LANGUAGES:
        hits = []
        for scene, patches in zip(test, embeddings, strict=True):
            for pair in scene.names:
                is_hit = points_at(scene, patches @ text[language][pair], pair)
                hits.append(is_hit)
                if pair in held_out:
                    new_pairs.append(is_hit)
                if sum(color == pair[0] for color, _ in scene.names) > 1:
                    same_color.append(is_hit)
        row[f"right, {language}, %"] = 100 * float(np.mean(hits))
    row["never labeled, %"] = 100 * float(np.mean(new_pairs)) if new_pairs else None
    row["another of its color, %"] = 100 * float(np.mean(same_color)) if same_color else None
    return [row]


def _findings(rows: Sequence[Mapping[str, Value]], chance: float, most_labels: int) -> list[str]:
    siglip_row = rows[0]

    def figures(row: Mapping[str, Value]) -> str:
        shares = {
            "pairs never labeled": row["never labeled, %"],
            "with another object of that color": row["another of its color, %"],
        }
        details = (
            f"{name} {float(share):.0f} %" for name, share in shares.items() if share is not None
        )
        english, korean = row["right, en, %"], row["right, ko, %"]
        return f"{english:.0f} % in English, {korean:.0f} % in Korean ({', '.join(details)})"

    return [
        f"A random patch is right {100 * chance:.0f} % of the time. SigLIP, without any label,"
        f" points right {figures(siglip_row)}: its patches and its text share one space.",
        *(
            f"{row['features']}, from {most_labels} labeled scenes: {figures(row)}."
            for row in rows
            if row["labeled scenes"] == most_labels
        ),
    ]


def _example(encoder: SceneEncoder, seed: int) -> EncodedScene:
    """Encode the first unseen scene with exactly one red cup, or else the first scene."""
    scenes: list[Scene] = scenes_of(seed + 33_000, 400)
    red_cup = [s for s in scenes if [(o.color, o.kind) for o in s.objects].count(("red", "cup"))]
    return encoder.encode((red_cup or scenes)[:1], "example")[0]


def _plot(
    rows: Sequence[Mapping[str, Value]],
    chance: float,
    example: EncodedScene,
    maps: Mapping[str, LinearMap],
    encoder: SceneEncoder,
) -> Figure:
    from matplotlib.font_manager import FontProperties

    figure = empty_figure(11, 4.6)
    grid = figure.add_gridspec(2, 4, width_ratios=(1.6, 1.6, 1, 1))
    with plot_style():
        _plot_shares(figure.add_subplot(grid[:, :2]), rows, chance)

    pair = ("red", "cup") if ("red", "cup") in example.names else example.names[0]
    phrase = PhraseClass(*pair).forms("ko")[0]
    text = encoder.text([phrase])[0]
    side = int(len(example.coverage) ** 0.5)
    panels = {
        "SigLIP, no label": encoder.pool_patches(example.siglip) @ text,
        "DINOv2 + map": maps["dino"](example.dino) @ text,
        "raw pixels + map": maps["pixels"](example.pixels) @ text,
    }
    places = (grid[0, 2], grid[0, 3], grid[1, 2], grid[1, 3])
    axes = [figure.add_subplot(place) for place in places]
    axes[0].imshow(example.picture)
    axes[0].set_title(f"“{phrase}”", fontproperties=FontProperties(fname=str(FONT)), fontsize=11)
    for axis, (name, scores) in zip(axes[1:], panels.items(), strict=True):
        axis.imshow(example.picture, extent=(0, side, side, 0))
        axis.imshow(
            scores.view(side, side).numpy(), cmap="inferno", alpha=0.72, extent=(0, side, side, 0)
        )
        best = int(scores.argmax())
        axis.plot(best % side + 0.5, best // side + 0.5, "x", color="#22d3ee", markersize=9, mew=2)
        axis.set_title(name, fontsize=9)
    for axis in axes:
        axis.set_axis_off()
    return figure


def _plot_shares(axis: Axes, rows: Sequence[Mapping[str, Value]], chance: float) -> None:
    names = dict.fromkeys(str(row["features"]) for row in rows[1:])
    counts = sorted({int(row["labeled scenes"] or 0) for row in rows[1:]})
    axis.axhline(
        float(rows[0]["right, ko, %"] or 0), color=COLORS[3], label="SigLIP as it is, no label"
    )
    for color, name in zip(COLORS, names, strict=False):
        feature_rows = [row for row in rows if row["features"] == name]
        for column, style, label in (("right, ko, %", "o-", name), ("never labeled, %", ":", "")):
            shares = [float(row[column] or 0) for row in feature_rows]
            axis.plot(counts, shares, style, color=color, label=label or None)
    axis.axhline(100 * chance, color=GRAY, linestyle="--", linewidth=1, label="at random")
    axis.set_xscale("log", base=4)
    axis.set_xticks(counts, [str(n) for n in counts])
    axis.set_ylim(0, 104)
    axis.set_xlabel("scenes that someone labeled; dotted: names that never were")
    axis.set_title("Pointed at rightly, Korean phrases, %")
    axis.legend(frameon=False, fontsize=8, loc="lower right", bbox_to_anchor=(1, 0.09))
