"""Calibrate SigLIP's scale and bias after training, so that presence is a true probability.

Training uses regions from the generator's masks; at inference DINOv2 finds them, and misses some.
Platt scaling (Platt 1999) on held-out scenes corrects both numbers: presence is still
sigmoid(scale * cosine + bias), with a better scale and bias.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch.nn import functional

from siglip_perception.evaluation.samples import scene_samples
from siglip_perception.language.instruction import from_phrases
from siglip_perception.pipeline import Pipeline, PipelineOptions
from siglip_perception.types import FloatArray
from siglip_perception.util.files import write_atomically

CALIBRATION_SEED = 6_000_000
"""Far from the seeds of training, its validation batch and the evaluation."""
_STEPS = 50


def platt(logits: FloatArray, truths: FloatArray) -> tuple[float, float]:
    """Fit factor and addend that maximize the likelihood of sigmoid(factor * logit + addend).

    logits, truths: float [N]; truths are 0 or 1, with both present.
    """
    x, y = (torch.as_tensor(values, dtype=torch.float64) for values in (logits, truths))
    line = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([line], max_iter=_STEPS, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = functional.binary_cross_entropy_with_logits(line[0] * x + line[1], y)
        loss.backward()
        return loss

    optimizer.step(closure)
    factor, addend = line.tolist()
    return factor, addend


def presence_line(model: Path, scenes: int) -> tuple[float, float]:
    """Fit Platt's factor and addend for a model's presence, on that many generated scenes.

    Each scene has questions in both languages, half of them for absent objects.
    """
    pipeline = Pipeline.load(PipelineOptions(model=str(model), device="cpu", precision="fp32"))
    logits, truths = [], []
    for sample in scene_samples(scenes, 1, 8, CALIBRATION_SEED):
        siglip, dino = pipeline.features([sample.image])
        query = pipeline.query(from_phrases([question.phrase for question in sample.questions]))
        scores = pipeline.grounder.score(siglip[0], dino[0], query.embeddings)
        columns = {phrase: number for number, phrase in enumerate(query.phrases)}
        best = np.concatenate([scores.logits, scores.image_logits[:, None]], axis=1).max(axis=1)
        for question in sample.questions:
            logits.append(best[columns[question.phrase]])
            truths.append(float(bool(question.truths)))
    return platt(np.array(logits, dtype=np.float32), np.array(truths, dtype=np.float32))


def calibrate(model: Path, scenes: int) -> None:
    """Write the calibrated scale and bias into a model folder.

    Leaves a model unchanged that learned nothing, whose presence falls as the truth rises.
    """
    factor, addend = presence_line(model, scenes)
    if factor <= 0:
        return
    path = model / "siglip" / "model.safetensors"
    tensors = load_file(path)
    scale, bias = (tensors[name].float() for name in ("logit_scale", "logit_bias"))
    tensors["logit_scale"] = (scale + math.log(factor)).to(tensors["logit_scale"].dtype)
    tensors["logit_bias"] = (bias * factor + addend).to(tensors["logit_bias"].dtype)
    write_atomically(path, save(tensors, {"format": "pt"}))
