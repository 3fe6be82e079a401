"""Figures that others published on the same benchmarks, each as its paper states it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedResult:
    """method, source: who measured it. figures: by the name of ours, in [0, 1]."""

    method: str
    source: str
    figures: Mapping[str, float]


ADE20K = (
    PublishedResult("MaskCLIP, CLIP-B/16", "Zhou et al. 2022, as in ProxyCLIP", {"mIoU": 0.119}),
    PublishedResult("ProxyCLIP, CLIP-B/16", "Lan et al. 2024", {"mIoU": 0.202}),
    PublishedResult("Trident, CLIP-B/16", "Shi et al. 2024", {"mIoU": 0.219}),
    PublishedResult("CorrCLIP, CLIP-B/16", "Zhang et al. 2024", {"mIoU": 0.269}),
    PublishedResult("TIPSv2, L/14", "arXiv 2604.12012", {"mIoU": 0.247}),
)
LVIS = (
    PublishedResult("OWL-ViT, L/14", "Minderer et al. 2022", {"AP": 0.346, "APr": 0.312}),
    PublishedResult("SAM 3", "Carion et al. 2025, masks", {"AP": 0.488}),
)
REFCOCO: Mapping[str, tuple[PublishedResult, ...]] = {
    "refcoco": (
        PublishedResult(
            "ReCLIP, zero-shot",
            "Subramanian et al. 2022",
            {"val": 0.458, "testA": 0.461, "testB": 0.471},
        ),
        PublishedResult(
            "MDETR, fine-tuned, R101",
            "Kamath et al. 2021",
            {"val": 0.868, "testA": 0.896, "testB": 0.814},
        ),
        PublishedResult(
            "Grounding DINO-L, fine-tuned",
            "Liu et al. 2023",
            {"val": 0.906, "testA": 0.932, "testB": 0.882},
        ),
    ),
    "refcoco+": (
        PublishedResult(
            "ReCLIP, zero-shot",
            "Subramanian et al. 2022",
            {"val": 0.479, "testA": 0.501, "testB": 0.451},
        ),
        PublishedResult(
            "MDETR, fine-tuned, R101",
            "Kamath et al. 2021",
            {"val": 0.795, "testA": 0.841, "testB": 0.706},
        ),
        PublishedResult(
            "Grounding DINO-L, fine-tuned",
            "Liu et al. 2023",
            {"val": 0.828, "testA": 0.890, "testB": 0.759},
        ),
    ),
    "refcocog": (
        PublishedResult(
            "MDETR, fine-tuned, R101", "Kamath et al. 2021", {"val": 0.816, "test": 0.809}
        ),
        PublishedResult(
            "Grounding DINO-L, fine-tuned", "Liu et al. 2023", {"val": 0.861, "test": 0.870}
        ),
    ),
}
