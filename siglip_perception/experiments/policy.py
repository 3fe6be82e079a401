"""Compare tokens as a policy's eyes: imitate the scripted pick-and-place from a picture's tokens.

A small head reads the tokens that `~/tokens` would carry, and the words of the instruction, and
says where to grasp and where to put down, as the scripted policy does, which knows where things
are. Its answer is then carried out by the simulated arm on tables that it has not seen. What
differs is the tokens alone: SigLIP's channels, DINOv2's, both (fused), or both from wrong pixels,
given to a head that was trained on right ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from siglip_perception.config import ModelSelection
from siglip_perception.experiments.report import (
    COLORS,
    GRAY,
    INK,
    Options,
    Outcome,
    Value,
    empty_figure,
    plot_style,
)
from siglip_perception.pipeline import Pipeline
from siglip_perception.robot.episodes import Item, sample_episode, sample_spots
from siglip_perception.robot.policy import PickAndPlace, Sighting, Step, View
from siglip_perception.robot.world import World, optical_frame
from siglip_perception.scenes.vocabulary import COLORS as COLOR_WORDS
from siglip_perception.scenes.vocabulary import KINDS
from siglip_perception.types import Frame, UInt8Array
from siglip_perception.util import requirements

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LAYOUTS = 10
"""Arrangements of one stock of things, which takes longest to make."""
_WIDTH = 128
_BATCH = 16
_UNIT_M = 0.05
"""Scale of the loss: errors are in these."""
_LONG = 1.3
"""A thing this much longer than wide has to be grasped across; others in any way."""
_LIFT_M = 0.04
_LIMIT_S = 20.0
_HOPELESS_M = 0.12
"""A grasp further off than this meets nothing: it need not be simulated."""
_CAUGHT_M = 0.015
_COLOR_NUMBERS = {color: number for number, color in enumerate(COLOR_WORDS)}
_KIND_NUMBERS = {kind: number for number, kind in enumerate(KINDS)}
Alteration = Callable[[UInt8Array, int], UInt8Array]
"""Changes of a picture, before the contract's own steps for an encoder of that size."""


@dataclass(frozen=True)
class Demonstrations:
    """Answers of the scripted policy on n tables of K things, of which the first is the place.

    words: color and kind of each, int64 [n, K, 2]. points: float32 [n, K, 3], where it is grasped,
    or put: x, y and height in meters. axes: float32 [n, K, 2], cosine and sine of twice its yaw;
    0 where any will do.
    """

    words: Tensor
    points: Tensor
    axes: Tensor

    def __len__(self) -> int:
        return len(self.words)


@dataclass(frozen=True)
class Condition:
    """One row of the table. channels: those that the head reads. alter: what is wrong."""

    name: str
    channels: slice
    head: str
    alter: Alteration | None = None


class Head(nn.Module):
    """Points from tokens [B, N, D] and words [B, K, 2]: each phrase attends to the patches."""

    mean: Tensor
    spread: Tensor
    places: Tensor

    def __init__(self, mean: Tensor, spread: Tensor, places: Tensor) -> None:
        """Create a head. mean, spread: [D] of the tokens. places: [N, 2], patches on the table."""
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("spread", spread)
        self.register_buffer("places", places)
        self.patches = nn.Sequential(
            nn.Linear(len(mean), _WIDTH), nn.GELU(), nn.Linear(_WIDTH, _WIDTH)
        )
        self.position = nn.Parameter(torch.zeros(len(places), _WIDTH))
        self.norm = nn.LayerNorm(_WIDTH)
        self.color = nn.Embedding(len(COLOR_WORDS), _WIDTH)
        self.kind = nn.Embedding(len(KINDS), _WIDTH)
        self.phrase = nn.Sequential(
            nn.Linear(_WIDTH, _WIDTH), nn.GELU(), nn.Linear(_WIDTH, _WIDTH)
        )
        self.answer = nn.Sequential(nn.Linear(2 * _WIDTH, _WIDTH), nn.GELU(), nn.Linear(_WIDTH, 5))

    def forward(self, tokens: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
        """Return points [B, K, 3] and axes [B, K, 2] of the phrases."""
        patches = self.norm(self.patches((tokens - self.mean) / self.spread) + self.position)
        phrases = self.phrase(self.color(words[..., 0]) + self.kind(words[..., 1]))
        attention = (phrases @ patches.transpose(1, 2) / _WIDTH**0.5).softmax(dim=-1)
        seen = torch.cat([attention @ patches, phrases], dim=-1)
        x, y, height, cosine, sine = self.answer(seen).unbind(dim=-1)
        # Where it looks, and how far from there.
        point = attention @ self.places + _UNIT_M * torch.stack([x, y], dim=-1)
        points = torch.cat([point, _UNIT_M * height.unsqueeze(-1)], dim=-1)
        return points, torch.stack([cosine, sine], dim=-1)


def tables(seed: int, count: int) -> Iterator[tuple[World, Sequence[Item]]]:
    """Yield `count` tables: a world, and what lies where; each is valid until the next."""
    for first in range(0, count, LAYOUTS):
        stock = sample_episode(first // LAYOUTS, seed)
        rng = np.random.default_rng((seed, first, 0x0A))
        with World(replace(stock, twist="none"), seed) as world:
            for _ in range(first, min(first + LAYOUTS, count)):
                spots = sample_spots(rng, len(stock.items))
                items = [
                    replace(item, x=x, y=y, yaw=float(rng.uniform(-np.pi, np.pi)))
                    for item, (x, y) in zip(stock.items, spots, strict=True)
                ]
                world.lay(items)
                yield world, items


def demonstrate(world: World, items: Sequence[Item]) -> Demonstrations:
    """Ask the scripted policy, which knows where things are, about one table."""
    points, axes = [], []
    for index in range(len(items)):
        thing = world.thing(index)
        yaw, width = world.long_axis(index)
        is_long = index > 0 and 2 * thing.reach > _LONG * width
        points.append([thing.x, thing.y, thing.height])
        axes.append([np.cos(2 * yaw), np.sin(2 * yaw)] if is_long else [0.0, 0.0])
    return Demonstrations(
        torch.tensor([[_numbers(item) for item in items]]),
        torch.tensor([points], dtype=torch.float32),
        torch.tensor([axes], dtype=torch.float32),
    )


def _numbers(item: Item) -> tuple[int, int]:
    return _COLOR_NUMBERS[item.color], _KIND_NUMBERS[item.kind]


def patch_places(rows: int, cols: int, world: World) -> Tensor:
    """Return where the middle of each patch meets the table, [rows * cols, 2], meters."""
    rotation, position = optical_frame()
    height, width = 480, 640
    x = (np.arange(cols) + 0.5) * width / cols - width / 2
    y = (np.arange(rows) + 0.5) * height / rows - height / 2
    rays = np.stack(
        [np.tile(x, rows), np.repeat(y, cols), np.full(rows * cols, world.focal_length())], -1
    )
    rays = rays @ rotation.T
    # Patches that look above the table's far edge stand for that edge.
    rays[:, 2] = np.minimum(rays[:, 2], -0.2 * np.linalg.norm(rays, axis=1))
    reached = position[:2] - position[2] / rays[:, 2:] * rays[:, :2]
    return torch.from_numpy(reached).float()


def swap_channels(image: UInt8Array, size: int) -> UInt8Array:
    """Exchange red and blue, as a driver does that calls BGR RGB."""
    return np.ascontiguousarray(image[..., ::-1])


def resize_without_antialiasing(image: UInt8Array, size: int) -> UInt8Array:
    """Resize to the encoder's square by OpenCV's bilinear filter: the contract's finds it done."""
    output: UInt8Array = np.asarray(cv2.resize(image, (size, size)), np.uint8)
    return output


def train_head(
    tokens: Tensor, shown: Demonstrations, places: Tensor, steps: int, seed: int
) -> Head:
    """Imitate: tokens [n, N, D] of one condition."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    spread = tokens.flatten(0, 1).std(dim=0).clamp_min(1e-3)
    head = Head(tokens.flatten(0, 1).mean(dim=0), spread, places)
    optimizer = torch.optim.AdamW(head.parameters(), lr=2e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for _ in range(steps):
        batch = torch.randint(len(shown), (_BATCH,), generator=generator)
        points, axes = head(tokens[batch], shown.words[batch])
        true_axes = shown.axes[batch]
        is_long = true_axes.norm(dim=-1) > 0
        loss = functional.smooth_l1_loss(points / _UNIT_M, shown.points[batch] / _UNIT_M)
        loss = loss + 0.1 * functional.mse_loss(axes[is_long], true_axes[is_long])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return head.eval()


def carry_out(
    world: World, items: Sequence[Item], target: int, answer: tuple[Sighting, Sighting]
) -> tuple[bool, bool]:
    """Have the arm do it from the start; whether the target was lifted, and then placed."""
    world.lay(items)
    thing = world.thing(target)
    if np.hypot(thing.x - answer[0].x, thing.y - answer[0].y) > _HOPELESS_M:
        return False, False
    policy, is_lifted, began = PickAndPlace(), False, world.time
    while policy.step is not Step.DONE and world.time - began < _LIMIT_S:
        now = world.time - began
        command = policy.act(now, View(1, now, answer), world.gripper())
        world.command(command.pose, command.opening)
        world.step(0.05)
        is_lifted |= world.thing(target).bottom > _LIFT_M
        if policy.step is Step.CARRY and not is_lifted:
            return False, False
    world.step(0.5)
    return is_lifted, is_lifted and world.is_placed(target, 0)


def wilson(hits: int, count: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927), in [0, 1] and around the share."""
    if not count:
        return 0.0, 1.0
    z, share = 1.96, hits / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * np.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2)
    # Rounding would leave a share of all, or of none, a little outside of its own interval.
    return min(max(0.0, middle - float(half)), share), max(min(1.0, middle + float(half)), share)


class _Eyes:
    """The pipeline's tokens of pictures, float32 [N, D]."""

    def __init__(self, model: str) -> None:
        self.pipeline = Pipeline.load(ModelSelection(model, backend="torch"))
        contract = self.pipeline.contract
        self.rows, self.cols = contract.rows, contract.cols
        self.channels = dict(contract.channels)
        self.size = contract.image_size

    def __call__(self, image: UInt8Array) -> Tensor:
        tokens = self.pipeline.process(Frame(image), None).tokens
        assert tokens is not None
        return torch.from_numpy(np.asarray(tokens.data, np.float32).copy())


def run(options: Options) -> Outcome:
    """Show, imitate, and carry out on new tables."""
    requirements.require("The experiment policy", "mujoco")
    shown_tables, steps, test_tables = (4, 5, 1) if options.quick else (600, 500, 60)
    eyes = _Eyes(options.model)
    every = slice(None)
    conditions = (
        Condition("fused", every, "fused"),
        Condition("SigLIP alone", eyes.channels["siglip"], "SigLIP alone"),
        Condition("DINOv2 alone", eyes.channels["dinov2"], "DINOv2 alone"),
        Condition("fused, other resize", every, "fused", resize_without_antialiasing),
        Condition("fused, red and blue swapped", every, "fused", swap_channels),
    )
    tokens, shown, places = _show(eyes, shown_tables, options.seed)
    heads = {
        condition.head: train_head(
            tokens[..., condition.channels], shown, places, steps, options.seed
        )
        for condition in tqdm(conditions[:3], unit="head", desc="imitate", disable=None)
    }
    results = _test(eyes, heads, conditions, test_tables, options.seed)
    rows = [_row(name, outcomes) for name, outcomes in results.items()]
    settings = {
        "model": options.model,
        "tables shown": shown_tables,
        "demonstrations": len(shown) * (shown.words.shape[1] - 1),
        "steps": steps,
        "tables to act on": test_tables,
        "seed": options.seed,
    }
    return Outcome(settings, rows, _findings(rows), _plot(rows))


def _show(eyes: _Eyes, count: int, seed: int) -> tuple[Tensor, Demonstrations, Tensor]:
    tokens, shown, places = [], [], torch.zeros(0, 2)
    bar = tqdm(total=count, unit="table", desc="demonstrations", disable=None)
    for world, items in tables(seed + 41_000, count):
        tokens.append(eyes(world.render()))
        shown.append(demonstrate(world, items))
        places = patch_places(eyes.rows, eyes.cols, world)
        bar.update()
    bar.close()
    joined = Demonstrations(
        torch.cat([part.words for part in shown]),
        torch.cat([part.points for part in shown]),
        torch.cat([part.axes for part in shown]),
    )
    return torch.stack(tokens), joined, places


@dataclass(frozen=True)
class _Try:
    """error: of the grasp in the plane, meters."""

    lifted: bool
    placed: bool
    error: float


def _test(
    eyes: _Eyes,
    heads: Mapping[str, Head],
    conditions: Sequence[Condition],
    count: int,
    seed: int,
) -> dict[str, list[_Try]]:
    results: dict[str, list[_Try]] = {"true positions": []}
    results |= {condition.name: [] for condition in conditions}
    bar = tqdm(total=count, unit="table", desc="act", disable=None)
    for number, (world, items) in enumerate(tables(seed + 42_000, count)):
        shown = demonstrate(world, items)
        image = world.render()
        target = 1 + number % (len(items) - 1)
        truth = _sightings(shown.points[0], shown.axes[0], target)
        results["true positions"].append(_try(world, items, target, truth, truth))
        for condition in conditions:
            altered = condition.alter(image, eyes.size) if condition.alter else image
            with torch.no_grad():
                points, axes = heads[condition.head](
                    eyes(altered)[None, :, condition.channels], shown.words
                )
            answer = _sightings(points[0], axes[0], target)
            results[condition.name].append(_try(world, items, target, answer, truth))
        bar.update()
    bar.close()
    return results


def _try(
    world: World,
    items: Sequence[Item],
    target: int,
    answer: tuple[Sighting, Sighting],
    truth: tuple[Sighting, Sighting],
) -> _Try:
    lifted, placed = carry_out(world, items, target, answer)
    error = float(np.hypot(answer[0].x - truth[0].x, answer[0].y - truth[0].y))
    return _Try(lifted, placed, error)


def _sightings(points: Tensor, axes: Tensor, target: int) -> tuple[Sighting, Sighting]:
    """Read points [K, 3] and axes [K, 2] as the scripted policy's target and place."""
    x, y, height = points[target].tolist()
    place_x, place_y, place_height = points[0].tolist()
    cosine, sine = axes[target].tolist()
    yaw = float(np.arctan2(sine, cosine)) / 2
    return (
        Sighting("target", False, 1.0, x, y, max(height, 0.004), 0.0, yaw),
        Sighting("place", True, 1.0, place_x, place_y, max(place_height, 0.0), 0.0, 0.0),
    )


def _row(name: str, tries: Sequence[_Try]) -> dict[str, Value]:
    count = len(tries)
    lifted, placed = (sum(getattr(t, key) for t in tries) for key in ("lifted", "placed"))
    low, high = wilson(placed, count)
    return {
        "tokens": name,
        "tries": count,
        "lifted, %": 100 * lifted / count,
        "placed, %": 100 * placed / count,
        "placed, low": 100 * low,
        "placed, high": 100 * high,
        "grasp off by, cm (median)": 100 * float(np.median([t.error for t in tries])),
        "off by at most 1.5 cm, %": 100 * float(np.mean([t.error <= _CAUGHT_M for t in tries])),
    }


def _findings(rows: Sequence[Mapping[str, Value]]) -> list[str]:
    def say(name: str) -> str:
        row = next(row for row in rows if row["tokens"] == name)
        return (
            f"{row['placed, %']:.0f} % ({row['placed, low']:.0f} to {row['placed, high']:.0f} %)"
        )

    return [
        f"A head on the fused tokens puts the thing where it was told in {say('fused')}, on"
        f" SigLIP's channels alone in {say('SigLIP alone')}, on DINOv2's alone in"
        f" {say('DINOv2 alone')}; the scripted policy, which knows where things are, in"
        f" {say('true positions')}.",
        "The same head, given tokens of pictures that were resized by another filter:"
        f" {say('fused, other resize')}; with red and blue exchanged:"
        f" {say('fused, red and blue swapped')}.",
    ]


def _plot(rows: Sequence[Mapping[str, Value]]) -> Figure:
    figure = empty_figure(8.5, 3.6)
    with plot_style():
        bars, errors = figure.subplots(1, 2, width_ratios=(1.5, 1))
    names = [str(row["tokens"]) for row in rows]
    places = np.arange(len(rows))[::-1]
    shares = [float(row["placed, %"] or 0) for row in rows]
    limits = [
        [share - float(row["placed, low"] or 0) for share, row in zip(shares, rows, strict=True)],
        [float(row["placed, high"] or 0) - share for share, row in zip(shares, rows, strict=True)],
    ]
    colors = [GRAY, *COLORS[:3], *[COLORS[0]] * (len(rows) - 4)]
    drawn = bars.barh(
        places, shares, xerr=limits, color=colors, height=0.65, ecolor=INK, capsize=3
    )
    for bar in list(drawn)[4:]:
        bar.set_alpha(0.45)
    bars.set_yticks(places, names)
    bars.set_xlim(0, 100)
    bars.grid(visible=False, axis="y")
    bars.set_title("Put where it was told, % (95 % intervals)")
    errors.barh(
        places,
        [float(row["grasp off by, cm (median)"] or 0) for row in rows],
        color=colors,
        height=0.65,
    )
    errors.set_yticks(places, [""] * len(rows))
    errors.grid(visible=False, axis="y")
    errors.set_title("Grasp off by, cm (median)")
    return figure
