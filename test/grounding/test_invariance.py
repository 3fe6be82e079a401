"""The same objects come out of any scale, bias and language level: on the whole grounding path."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from models import write_random_model
from torch import Tensor

from siglip_perception.config import ModelSelection
from siglip_perception.evaluation.samples import scene_samples
from siglip_perception.grounding import grounder as grounder_module
from siglip_perception.grounding.standing import PhraseSet, log_odds
from siglip_perception.language.instruction import from_phrases
from siglip_perception.pipeline import Pipeline, Query
from siglip_perception.types import FloatArray, Frame, GroundedObject, UInt8Array

pytestmark = pytest.mark.numeric

# Stock SigLIP 2's own (So400m/16-256).
SCALE, BIAS = 109.9, -15.9
MAX_DIFFERENCE = 0.02

Change = Callable[[FloatArray, np.ndarray[Any, Any]], FloatArray]
CHANGES: Mapping[str, Change] = {
    "all logits 10 lower": lambda logits, korean: logits - 10,
    "all logits 10 higher": lambda logits, korean: logits + 10,
    "all logits a tenth": lambda logits, korean: logits * 0.1,
    "all logits tenfold": lambda logits, korean: logits * 10,
    "tenfold and 10 lower": lambda logits, korean: logits * 10 - 10,
    "Korean 6 lower": lambda logits, korean: logits - np.where(korean, 6, 0)[:, None],
    "English 6 higher": lambda logits, korean: logits + np.where(korean, 0, 6)[:, None],
}


@dataclass(frozen=True)
class View:
    """A scene, asked for what it shows and for what it does not, in both languages."""

    pipeline: Pipeline
    query: Query
    image: UInt8Array

    def ground(self) -> tuple[list[GroundedObject], list[float]]:
        """Objects, and the presence of each phrase."""
        result = self.pipeline.process(Frame(self.image), self.query, with_tokens=False)
        assert result.grounding is not None
        return list(result.grounding.objects), list(result.grounding.presence)


@pytest.fixture(scope="module", params=["embedded", "stock"])
def view(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[View]:
    """The embedded model, and one as stock weights come: no calibration, no affinity, no domain.

    The stock one's weights are random: what it finds is arbitrary, and has to stay so.
    """
    folder = tmp_path_factory.mktemp("home")
    model = "tabletop"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.setenv("XDG_DATA_HOME", str(folder / "data"))
        if request.param == "stock":
            write_random_model(folder / "stock")
            for name in ("manifest.json", "grounding.json"):
                (folder / "stock" / name).unlink()
            model = str(folder / "stock")
        pipeline = Pipeline.load(ModelSelection(model, device="cpu", precision="fp32"))
        # Of random weights hardly anything has a score of one half: everything is published.
        pipeline.threshold = None if pipeline.grounder.settings.is_calibrated else 0.0
        (sample,) = scene_samples(1, 4, 4, 6_300_000)
        query = pipeline.query(from_phrases([q.phrase for q in sample.questions]))
        yield View(pipeline, query, sample.image)


def korean_rows(phrases: PhraseSet, bank: Mapping[str, Tensor]) -> np.ndarray[Any, Any]:
    """Mark the rows of texts_of() that are Korean."""
    languages = [*phrases.languages, *(phrases.languages[owner] for owner in phrases.owners)]
    for language in dict.fromkeys(phrases.languages):
        languages += [language] * len(bank[language])
    return np.array([language == "ko" for language in languages])


@pytest.mark.parametrize("change", CHANGES)
def test_the_same_objects_come_out(
    change: str, view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changed_log_odds(
        cosines: FloatArray, phrases: PhraseSet, bank: Mapping[str, Tensor], *rest: Any
    ) -> Any:
        logits = (SCALE * cosines + BIAS).astype(np.float32)
        assert len(logits) == len(korean_rows(phrases, bank))
        changed = CHANGES[change](logits, korean_rows(phrases, bank))
        return log_odds(changed.astype(np.float32), phrases, bank, *rest)

    expected, presence = view.ground()
    assert len(expected) > 2
    monkeypatch.setattr(grounder_module, "log_odds", changed_log_odds)
    actual, changed_presence = view.ground()
    assert [(item.phrase, item.box, item.area) for item in actual] == [
        (item.phrase, item.box, item.area) for item in expected
    ]
    scores = [abs(a.score - b.score) for a, b in zip(actual, expected, strict=True)]
    assert max(scores) <= MAX_DIFFERENCE
    np.testing.assert_allclose(changed_presence, presence, atol=MAX_DIFFERENCE)


def test_a_checkpoints_scale_and_bias_take_no_part(view: View) -> None:
    assert view.pipeline.grounding_model is not None
    expected = view.ground()
    siglip = view.pipeline.grounding_model.siglip
    siglip.logit_bias.data -= 10
    siglip.logit_scale.data += np.log(10)
    try:
        assert view.ground() == expected
    finally:
        siglip.logit_bias.data += 10
        siglip.logit_scale.data -= np.log(10)
