"""Self-distillation: formulas computed by hand, and learning without collapse."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from siglip_perception.contrastive.data.crops import (
    CropSettings,
    MaskSettings,
    block_masks,
    random_crops,
)
from siglip_perception.contrastive.objectives.dino import (
    Center,
    DinoHead,
    DinoSettings,
    SelfDistillation,
    distillation_loss,
    ema_update,
    information,
    koleo_loss,
    sinkhorn,
)
from siglip_perception.evaluation.linear_probe import (
    affinity_auroc,
    linear_probe,
    patch_owners,
    scene_metrics,
)

PATCH = 14


def test_sinkhorn_by_hand() -> None:
    plan = sinkhorn(torch.tensor([[1.0, 1.0], [1.0, 3.0]]).log(), temperature=1.0, iterations=1)
    # Columns to B / K = 1: [[1/2, 1/4], [1/2, 3/4]]; then rows to 1.
    torch.testing.assert_close(plan, torch.tensor([[2 / 3, 1 / 3], [0.4, 0.6]]))


def test_sinkhorn_takes_every_prototype_equally_often() -> None:
    logits = torch.randn(24, 8, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    logits[:, 0] += 1
    assert (logits.argmax(dim=1) == 0).sum() > 3
    plan = sinkhorn(logits, temperature=0.1, iterations=200)
    torch.testing.assert_close(plan.sum(dim=1), torch.ones(24))
    torch.testing.assert_close(plan.sum(dim=0), torch.full((8,), 3.0), atol=1e-3, rtol=0)


def test_sinkhorn_of_no_masked_patch_at_all_is_empty() -> None:
    assert sinkhorn(torch.zeros(0, 5), 0.1).shape == (0, 5)


def test_center_by_hand() -> None:
    center = Center(2, momentum=0.9)
    logits = torch.tensor([[2.0, 0.0], [4.0, 0.0]])
    answers = center(logits, temperature=1.0)
    torch.testing.assert_close(answers, logits.softmax(dim=1))
    torch.testing.assert_close(center.mean, torch.tensor([0.3, 0.0]))  # 0.1 * the mean of 3
    torch.testing.assert_close(center(center.mean[None], 0.5), torch.tensor([[0.5, 0.5]]))


def test_losses_by_hand() -> None:
    even = distillation_loss(torch.zeros(1, 4), torch.tensor([[0.7, 0.1, 0.1, 0.1]]), 0.1)
    assert even.item() == pytest.approx(math.log(4))
    sure = distillation_loss(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0]]), 0.5)
    assert sure.item() == pytest.approx(math.log(1 + math.exp(-2)))
    # Nearest: 1 to 2 and back at sqrt 2 - sqrt 2 cos, 3 to the second; lengths do not matter.
    corners = torch.tensor([[5.0, 0.0], [0.0, 1.0], [-2.0, 0.0]])
    assert koleo_loss(corners).item() == pytest.approx(-math.log(math.sqrt(2)))


def test_information_is_zero_for_either_collapse() -> None:
    assert information(torch.zeros(6, 8), 0.1).item() == pytest.approx(0, abs=1e-5)
    always = torch.zeros(6, 8)
    always[:, 3] = 1
    assert information(always, 0.01).item() == pytest.approx(0, abs=1e-5)
    assert information(torch.eye(8), 0.01).item() == pytest.approx(3, abs=1e-5)


def test_the_teacher_is_a_moving_average() -> None:
    teacher, student = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    with torch.no_grad():
        for parameter, value in ((teacher.weight, 1.0), (student.weight, 3.0)):
            parameter.fill_(value)
    ema_update(teacher, student, 0.75)
    assert teacher.weight.item() == pytest.approx(1.5)
    assert student.weight.item() == 3.0


def test_schedules() -> None:
    settings = DinoSettings(momentum=0.99, teacher_temperature=(0.04, 0.07), warmup_share=0.5)
    momenta = [settings.momentum_at(p) for p in (0.0, 0.5, 1.0)]
    assert momenta == pytest.approx([0.99, 0.995, 1.0])
    temperatures = [settings.teacher_temperature_at(p) for p in (0.0, 0.25, 0.5, 1.0)]
    assert temperatures == pytest.approx([0.04, 0.055, 0.07, 0.07])


def test_prototypes_have_unit_length_so_logits_are_cosines() -> None:
    head = DinoHead(6, DinoSettings(prototypes=5, hidden=7, bottleneck=4))
    torch.testing.assert_close(head.prototypes.weight.norm(dim=1), torch.ones(5))
    assert head(torch.randn(50, 6)).abs().max() <= 1 + 1e-5


def test_masks_hide_exactly_the_drawn_share() -> None:
    masks = block_masks(list(range(40)), 8, MaskSettings(1.0, (0.25, 0.25)))
    assert masks.shape == (40, 64)
    assert set(masks.sum(dim=1).tolist()) == {16}
    assert not block_masks([1, 2], 8, MaskSettings(probability=0.0)).any()
    assert torch.equal(masks[7:9], block_masks([7, 8], 8, MaskSettings(1.0, (0.25, 0.25))))
    half = block_masks(list(range(300)), 8, MaskSettings(0.5)).any(dim=1).float().mean()
    assert 0.4 < half < 0.6


def test_a_crop_depends_on_its_seed_alone() -> None:
    images = torch.rand(3, 3, 40, 48, generator=torch.Generator().manual_seed(1))
    settings = CropSettings(patches=2, count=2, scale=(0.3, 0.8))
    views = random_crops(images, [5, 6, 7], settings, PATCH)
    assert views.shape == (6, 3, 28, 28)
    assert views.min() >= 0
    assert views.max() <= 1
    torch.testing.assert_close(random_crops(images[1:2], [6], settings, PATCH), views[1::3])
    assert not torch.allclose(views[0], views[3])


def test_a_crop_shows_the_share_that_was_asked_for() -> None:
    ramp = torch.linspace(0, 1, 96).expand(1, 3, 96, 96)
    wide = random_crops(ramp, [1], CropSettings(2, 40, (0.9, 1.0)), 12)
    narrow = random_crops(ramp, [1], CropSettings(2, 40, (0.02, 0.04)), 12)

    def span(views: Tensor) -> float:
        """Brightness change from left to right, relative to that of the whole image."""
        return float((views[..., -1].mean((1, 2)) - views[..., 0].mean((1, 2))).abs().mean())

    assert span(narrow) < 0.25
    assert span(wide) > 0.6


def _tiny(settings: DinoSettings) -> SelfDistillation:
    torch.manual_seed(0)
    config = Dinov2WithRegistersConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        mlp_ratio=2,
        image_size=4 * PATCH,
        patch_size=PATCH,
        num_register_tokens=2,
    )
    return SelfDistillation(Dinov2WithRegistersModel(config), settings).train()


def test_the_student_does_not_see_what_is_masked() -> None:
    branch = _tiny(DinoSettings()).student.eval()
    image = torch.rand(1, 3, 4 * PATCH, 4 * PATCH)
    mask = torch.zeros(1, 16, dtype=torch.bool)
    mask[0, 0] = True
    edited_image = image.clone()
    edited_image[..., :PATCH, :PATCH] = 0
    for with_mask, alike in ((mask, True), (None, False)):
        before, after = (branch.features(x, with_mask)[1] for x in (image, edited_image))
        assert torch.allclose(before, after) is alike


SMALL = {
    "global_crops": CropSettings(4, 2, (0.5, 1.0)),
    "local_crops": CropSettings(2, 2, (0.1, 0.5)),
    "prototypes": 32,
    "hidden": 64,
    "bottleneck": 16,
    "momentum": 0.9,
}


def _stripes(count: int) -> Tensor:
    """Make images [count, 3, 64, 64] that differ in color and stripe width."""
    generator = torch.Generator().manual_seed(3)
    column = torch.arange(64)
    colors = torch.rand(count, 3, 1, 1, generator=generator)
    bands = torch.stack([((column // (4 + 3 * (i % 4))) % 2).float() for i in range(count)])
    return colors * (0.4 + 0.6 * bands[:, None, None, :]) * torch.ones(1, 1, 64, 1)


def _learn(model: SelfDistillation, steps: int) -> list[dict[str, float]]:
    images = _stripes(16)
    zero, unit = torch.zeros(1, 3, 1, 1), torch.ones(1, 3, 1, 1)
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=2e-3, weight_decay=0.0
    )
    rows = []
    for step in range(steps):
        progress = step / steps
        views = model.views(images, [step * 16 + i for i in range(16)], zero, unit)
        (targets,) = model.targets([model.answer(views)], 0.05)
        loss, parts = model(views, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.move_teacher(progress)
        rows.append(parts)
    return rows


@pytest.mark.numeric
@pytest.mark.slow
@pytest.mark.parametrize("balancing", ["sinkhorn", "centering"])
def test_it_learns_without_labels_and_does_not_collapse(balancing: str) -> None:
    model = _tiny(DinoSettings(**SMALL, balancing=balancing))  # type: ignore[arg-type]
    rows = _learn(model, 60)
    first, last = (
        {name: sum(r[name] for r in part) / 10 for name in ("cls", "information")}
        for part in (rows[:10], rows[-10:])
    )
    if balancing == "sinkhorn":  # a center is far from the mean at first, and the loss low for it
        assert last["cls"] < 0.9 * first["cls"]
    assert last["information"] > max(0.5, first["information"])


@pytest.mark.slow
def test_without_balancing_it_does_collapse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "siglip_perception.contrastive.objectives.dino.sinkhorn",
        lambda logits, temperature, **_: (logits / temperature).softmax(dim=-1),
    )
    rows = _learn(_tiny(DinoSettings(**SMALL, koleo_weight=0.0)), 60)  # type: ignore[arg-type]
    assert sum(r["information"] for r in rows[-10:]) / 10 < 0.1


def test_the_prototypes_stand_still_at_first() -> None:
    model = _tiny(DinoSettings(frozen_share=0.1))
    still = list(model.frozen_parameters(0.05))
    assert len(still) == 4  # weight norm's direction and magnitude of either head
    assert not list(model.frozen_parameters(0.2))


def test_probes_by_hand() -> None:
    coverage = torch.tensor([[[1.0, 0], [0.9, 0], [0, 1], [0.5, 0.5], [0, 0]]])
    assert patch_owners(coverage).tolist() == [[0, 0, 1, -1, 2]]
    features = torch.tensor([[[1.0, 0], [1, 0.1], [0, 1], [9, 9], [-1, 0]]])
    assert affinity_auroc(features, coverage) == 1.0
    permutation = features[:, [0, 2, 1, 3, 4]]
    assert affinity_auroc(permutation, coverage) < 0.8
    points = torch.tensor([[0.0], [0.1], [1.0], [1.1]])
    labels = torch.tensor([0, 0, 1, 1])
    assert linear_probe(points, labels, torch.tensor([[0.2], [0.9]]), torch.tensor([0, 1])) == 1.0


def test_scenes_tell_what_features_know() -> None:
    def colors(images: Tensor) -> Tensor:
        patches = images.float().unfold(2, 12, 12).unfold(3, 12, 12)
        return patches.mean(dim=(-1, -2)).flatten(2).transpose(1, 2)

    def black_images(images: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return torch.randn(len(images), 324, 8, generator=generator)

    color_metrics, noise = (
        scene_metrics(features, scenes=15) for features in (colors, black_images)
    )
    assert noise["affinity_auroc"] == pytest.approx(0.5, abs=0.05)
    assert color_metrics["affinity_auroc"] > 0.65
    assert color_metrics["color_probe"] > noise["color_probe"] + 0.1
