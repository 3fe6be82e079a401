"""Pointing at what an instruction names, with SigLIP's features, DINOv2's and raw pixels.

Of all patches the one that looks most like the phrase is pointed at; it is right where at least
half of it shows the thing. SigLIP's patches are compared with the text as they are. DINOv2's and
the pixels are not made for that: they get a linear map into SigLIP's text space, fitted by ridge
regression to the patches of m scenes in which someone labeled every object. A fifth of the pairs
of color and kind is never labeled: what is pointed at for those was not learned by heart. (The
model's own training knew them all.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from siglip_perception.experiments.patch_features import Eyes, SeenScene, scenes_of
from siglip_perception.experiments.report import (
    COLORS,
    MUTED,
    Options,
    Outcome,
    Value,
    empty_figure,
    styled,
)
from siglip_perception.images.overlay import FONT
from siglip_perception.scenes.scenes import Scene
from siglip_perception.scenes.vocabulary import COLORS as COLOR_WORDS
from siglip_perception.scenes.vocabulary import KINDS, LANGUAGES, Language, PhraseClass

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LABELLED = (1, 4, 16, 64, 256)
KINDS_OF_FEATURE = ("siglip", "dino", "pixels")
_NAMES = {"siglip": "SigLIP", "dino": "DINOv2", "pixels": "raw pixels"}
_RIDGES = (1e-3, 1e-2, 1e-1, 1.0)
Pair = tuple[str, str]


@dataclass(frozen=True)
class Map:
    """Standardized features times weights, [D + 1, T]: where in text space a patch lies."""

    mean: Tensor
    std: Tensor
    weights: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        scaled = (features - self.mean) / self.std
        return torch.cat([scaled, scaled.new_ones(len(scaled), 1)], dim=1) @ self.weights


def fit_map(features: Tensor, wanted: Tensor, ridge: float) -> Map:
    """Least squares with an L2 penalty of `ridge` times the number of rows."""
    mean, std = features.mean(dim=0), features.std(dim=0).clamp_min(1e-4)
    scaled = ((features - mean) / std).double()
    rows = torch.cat([scaled, scaled.new_ones(len(scaled), 1)], dim=1)
    gram = rows.T @ rows + ridge * len(rows) * torch.eye(rows.shape[1], dtype=rows.dtype)
    weights = torch.linalg.solve(gram, rows.T @ wanted.double())
    return Map(mean, std, weights.float())


def held_out_pairs(seed: int) -> frozenset[Pair]:
    """A fifth of the pairs of color and kind: no color and no kind is wholly among them."""
    colors, kinds = list(COLOR_WORDS), list(KINDS)
    shift = seed % 5
    return frozenset(
        (color, kind)
        for i, color in enumerate(colors)
        for j, kind in enumerate(kinds)
        if (i + j + shift) % 5 == 0
    )


def labeled_rows(
    seen: Sequence[SeenScene],
    feature: str,
    targets: Mapping[Pair, Tensor],
    held_out: frozenset[Pair],
) -> tuple[Tensor, Tensor]:
    """Features [M, D] and their places in text space [M, T]; zero for the background."""
    features, wanted = [], []
    nothing = torch.zeros_like(next(iter(targets.values())))
    for one in seen:
        places = [*(targets[name] for name in one.names), nothing]
        for patch, owner in enumerate(one.owners.tolist()):
            known = owner == len(one.names) or (owner >= 0 and one.names[owner] not in held_out)
            if known:
                features.append(getattr(one, feature)[patch])
                wanted.append(places[owner])
    return torch.stack(features), torch.stack(wanted)


def pointed(one: SeenScene, scores: Tensor, pair: Pair) -> bool:
    """Whether the best patch of [N] shows, by half or more, an object of that name."""
    patch = int(scores.argmax())
    right = [n for n, name in enumerate(one.names) if name == pair]
    return bool(one.coverage[patch, right].sum() >= 0.5)


def run(options: Options) -> Outcome:
    """SigLIP without a label, and everything with more and more of them."""
    labeled = (1, 4) if options.quick else LABELLED
    tests = 8 if options.quick else 150
    eyes = Eyes(options.model)
    training = eyes.look(scenes_of(options.seed + 31_000, max(labeled)), "labeled scenes")
    test = eyes.look(scenes_of(options.seed + 32_000, tests), "unseen scenes")
    held_out = held_out_pairs(options.seed)
    pairs = [(color, kind) for color in COLOR_WORDS for kind in KINDS]
    text = {
        language: dict(
            zip(
                pairs,
                eyes.text([PhraseClass(*pair).forms(language)[0] for pair in pairs]),
                strict=True,
            )
        )
        for language in LANGUAGES
    }
    # One place for both languages: what is labeled is the thing, not the word.
    targets = {
        pair: functional.normalize(sum((text[x][pair] for x in LANGUAGES), torch.zeros(())), dim=0)
        for pair in pairs
    }

    rows: list[dict[str, Value]] = []
    as_they_are = [eyes.pool_patches(one.siglip) for one in test]
    rows += _rows("SigLIP as it is", 0, test, as_they_are, text, held_out)
    maps: dict[str, Map] = {}
    for feature in KINDS_OF_FEATURE:
        for count in labeled:
            given = labeled_rows(training[:count], feature, targets, held_out)
            maps[feature] = _best_map(*given)
            placed = [maps[feature](getattr(one, feature)) for one in test]
            rows += _rows(f"{_NAMES[feature]} + linear map", count, test, placed, text, held_out)
    covered = float(np.mean([one.coverage.mean() for one in test]))
    settings = {
        "model": options.model,
        "unseen scenes": tests,
        "objects": len(test[0].names),
        "pairs never labeled": len(held_out),
        "of": len(pairs),
        "seed": options.seed,
    }
    shown = _example(eyes, options.seed)
    return Outcome(
        settings,
        rows,
        _findings(rows, covered, max(labeled)),
        _plot(rows, covered, shown, maps, eyes),
    )


def _best_map(features: Tensor, wanted: Tensor) -> Map:
    """The penalty that explains the last fifth best when fitted to the rest, then all rows."""
    cut = max(len(features) * 4 // 5, 1)
    if cut == len(features):
        return fit_map(features, wanted, _RIDGES[-1])

    def error(ridge: float) -> float:
        fitted = fit_map(features[:cut], wanted[:cut], ridge)
        return float((fitted(features[cut:]) - wanted[cut:]).square().mean())

    return fit_map(features, wanted, min(_RIDGES, key=error))


def _rows(
    name: str,
    labeled: int,
    test: Sequence[SeenScene],
    placed: Sequence[Tensor],
    text: Mapping[Language, Mapping[Pair, Tensor]],
    held_out: frozenset[Pair],
) -> list[dict[str, Value]]:
    """Shares of questions pointed at rightly: of all, of those that were never labeled, and of
    those where another object has the same color, so that the kind has to tell.
    """
    row: dict[str, Value] = {"features": name, "labeled scenes": labeled}
    unseen: list[bool] = []
    alike: list[bool] = []
    for language in LANGUAGES:
        right = []
        for one, patches in zip(test, placed, strict=True):
            for pair in one.names:
                hit = pointed(one, patches @ text[language][pair], pair)
                right.append(hit)
                if pair in held_out:
                    unseen.append(hit)
                if sum(color == pair[0] for color, _ in one.names) > 1:
                    alike.append(hit)
        row[f"right, {language}, %"] = 100 * float(np.mean(right))
    row["never labeled, %"] = 100 * float(np.mean(unseen)) if unseen else None
    row["another of its color, %"] = 100 * float(np.mean(alike)) if alike else None
    return [row]


def _findings(rows: Sequence[Mapping[str, Value]], covered: float, most: int) -> list[str]:
    as_is = rows[0]

    def figures(row: Mapping[str, Value]) -> str:
        more = {
            "color and kind never labeled together": row["never labeled, %"],
            "another object of that color beside it": row["another of its color, %"],
        }
        said = (
            f"{name} {float(share):.0f} %" for name, share in more.items() if share is not None
        )
        english, korean = row["right, en, %"], row["right, ko, %"]
        return f"{english:.0f} % in English, {korean:.0f} % in Korean ({', '.join(said)})"

    return [
        f"Pointing at random is right {100 * covered:.0f} % of the time. SigLIP, with no label"
        f" here, points rightly at {figures(as_is)}: its patches and its text lie in one space.",
        *(
            f"{row['features']} of {most} labeled scenes: {figures(row)}."
            for row in rows
            if row["labeled scenes"] == most
        ),
    ]


def _example(eyes: Eyes, seed: int) -> SeenScene:
    """The first unseen scene with one red cup, or else with whatever its first object is."""
    scenes: list[Scene] = scenes_of(seed + 33_000, 400)
    red_cup = [s for s in scenes if [(o.color, o.kind) for o in s.objects].count(("red", "cup"))]
    return eyes.look((red_cup or scenes)[:1], "example")[0]


def _plot(
    rows: Sequence[Mapping[str, Value]],
    covered: float,
    example: SeenScene,
    maps: Mapping[str, Map],
    eyes: Eyes,
) -> Figure:
    from matplotlib.font_manager import FontProperties

    figure = empty_figure(11, 4.6)
    grid = figure.add_gridspec(2, 4, width_ratios=(1.6, 1.6, 1, 1))
    with styled():
        _plot_shares(figure.add_subplot(grid[:, :2]), rows, covered)

    pair = ("red", "cup") if ("red", "cup") in example.names else example.names[0]
    phrase = PhraseClass(*pair).forms("ko")[0]
    text = eyes.text([phrase])[0]
    side = int(len(example.coverage) ** 0.5)
    panels = {
        "SigLIP, no label": eyes.pool_patches(example.siglip) @ text,
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


def _plot_shares(axis: Axes, rows: Sequence[Mapping[str, Value]], covered: float) -> None:
    names = dict.fromkeys(str(row["features"]) for row in rows[1:])
    counts = sorted({int(row["labeled scenes"] or 0) for row in rows[1:]})
    axis.axhline(
        float(rows[0]["right, ko, %"] or 0), color=COLORS[3], label="SigLIP as it is, no label"
    )
    for color, name in zip(COLORS, names, strict=False):
        mine = [row for row in rows if row["features"] == name]
        for column, style, label in (("right, ko, %", "o-", name), ("never labeled, %", ":", "")):
            shares = [float(row[column] or 0) for row in mine]
            axis.plot(counts, shares, style, color=color, label=label or None)
    axis.axhline(100 * covered, color=MUTED, linestyle="--", linewidth=1, label="at random")
    axis.set_xscale("log", base=4)
    axis.set_xticks(counts, [str(n) for n in counts])
    axis.set_ylim(0, 104)
    axis.set_xlabel("scenes that someone labeled; dotted: names that never were")
    axis.set_title("Pointed at rightly, Korean phrases, %")
    axis.legend(frameon=False, fontsize=8, loc="lower right", bbox_to_anchor=(1, 0.09))
