"""The pipeline on random weights (plumbing: shapes, dtypes, refusals), never accuracy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from models import write_random_model

from siglip_perception.config import ModelSelection
from siglip_perception.encoders.encoders import Encoders, Tower
from siglip_perception.errors import BackendError, CheckpointError, ContractError
from siglip_perception.language.instruction import from_phrases, parse
from siglip_perception.pipeline import Pipeline, PipelineOptions
from siglip_perception.types import Depth, Frame, GroundedObject, Grounding, Role

pytestmark = pytest.mark.numeric


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    created = tmp_path_factory.mktemp("model")
    write_random_model(created)
    return created


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> Pipeline:
    return Pipeline.load(ModelSelection(str(folder), contract="tabletop"))


@pytest.fixture
def frame() -> Frame:
    rng = np.random.default_rng(0)
    return Frame(rng.integers(0, 256, (120, 160, 3), dtype=np.uint8))


def test_tokens_are_the_contracts(pipeline: Pipeline, frame: Frame) -> None:
    result = pipeline.process(frame, None)
    assert result.grounding is None
    assert result.tokens is not None
    assert result.tokens.data.shape == (324, pipeline.contract.dim)
    assert result.tokens.data.dtype == np.float32
    assert result.tokens.contract == "tabletop"
    assert len(result.tokens.fingerprint) == 64


def test_the_same_frame_gives_the_same_bytes(pipeline: Pipeline, frame: Frame) -> None:
    query = pipeline.query(from_phrases(["red cup"]))
    first, second = (pipeline.process(frame, query, with_mask=True) for _ in range(2))
    assert first.tokens is not None
    assert second.tokens is not None
    assert first.tokens.data.tobytes() == second.tokens.data.tobytes()
    assert first.grounding is not None
    assert second.grounding is not None
    assert first.grounding.objects == second.grounding.objects
    assert first.grounding.presence == second.grounding.presence


def test_an_instruction_that_comes_back_is_not_encoded_again(pipeline: Pipeline) -> None:
    first = pipeline.query(from_phrases(["red cup", "plate"]))
    pipeline.query(from_phrases(["plate"]))
    again = pipeline.query(from_phrases(["red cup", "plate"]), 7)
    assert again.encoded is first.encoded
    assert again.instruction_id == 7
    for number in range(20):
        pipeline.query(from_phrases([f"cup {number}"]))
    anew = pipeline.query(from_phrases(["red cup", "plate"]))
    assert anew.encoded is not first.encoded
    assert anew.encoded.embeddings.equal(first.encoded.embeddings)


def test_tokens_do_not_depend_on_the_query(pipeline: Pipeline, frame: Frame) -> None:
    alone = pipeline.process(frame, None).tokens
    neighbor = pipeline.process(frame, pipeline.query(from_phrases(["cup", "공"]))).tokens
    assert alone is not None
    assert neighbor is not None
    np.testing.assert_array_equal(alone.data, neighbor.data)


def test_every_region_is_found_at_threshold_zero_and_lies_in_the_image(
    pipeline: Pipeline, frame: Frame
) -> None:
    pipeline.threshold = 0.0
    try:
        query = pipeline.query(from_phrases(["cup"]), instruction_id=3)
        grounding = pipeline.process(frame, query, with_mask=True).grounding
    finally:
        pipeline.threshold = 0.5
    assert grounding is not None
    assert grounding.instruction_id == 3
    assert grounding.mask is not None
    assert grounding.mask.shape == (120, 160)
    assert 1 <= len(grounding.objects) <= pipeline.max_objects
    for item in grounding.objects:
        assert item.box.x >= 0
        assert item.box.x + item.box.width <= 160
        assert item.box.y >= 0
        assert item.box.y + item.box.height <= 120
        assert 0 <= item.score <= 1


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (700, 3)])
def test_odd_images_are_handled(pipeline: Pipeline, shape: tuple[int, int]) -> None:
    frame = Frame(np.full((*shape, 3), 128, dtype=np.uint8))
    result = pipeline.process(frame, pipeline.query(from_phrases(["cup"])), with_mask=True)
    assert result.grounding is not None
    assert result.grounding.mask is not None
    assert result.grounding.mask.shape == shape


@pytest.mark.parametrize(
    ("dtype", "element"),
    [("float32", np.float32), ("float16", np.float16), ("bfloat16", np.uint16)],
)
def test_token_dtypes(folder: Path, frame: Frame, dtype: str, element: type) -> None:
    options = PipelineOptions(tokens_dtype=dtype)  # type: ignore[arg-type]
    tokens = Pipeline.load(ModelSelection(str(folder)), options).process(frame, None).tokens
    assert tokens is not None
    assert tokens.data.dtype == element
    if dtype == "bfloat16":
        widened = (tokens.data.astype(np.uint32) << 16).view(np.float32)
        assert np.isfinite(widened).all()
        assert widened.std() > 0


def served_towers(pipeline: Pipeline) -> dict[str, Tower]:
    encoders = pipeline._encoders.run
    assert isinstance(encoders, Encoders)
    return encoders.towers


def test_not_a_number_is_withheld(folder: Path, frame: Frame) -> None:
    pipeline = Pipeline.load(ModelSelection(str(folder)))
    with torch.no_grad():
        served_towers(pipeline)["siglip"].embed.pos_embed.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="withheld"):
        pipeline.process(frame, None)


def test_tokens_too_large_for_float16_are_withheld(folder: Path, frame: Frame) -> None:
    pipeline = Pipeline.load(ModelSelection(str(folder)), PipelineOptions(tokens_dtype="float16"))
    with torch.no_grad():
        served_towers(pipeline)["siglip"].embed.pos_embed.fill_(70000.0)
    with pytest.raises(FloatingPointError, match="withheld"):
        pipeline.process(frame, None)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"model": "no-such-model"}, CheckpointError, "no-such-model"),
        ({"contract": "openvla-224"}, ContractError, "hidden_size"),
        ({"contract": "nothing"}, ContractError, "nothing"),
        ({"backend": "tensorrt"}, BackendError, "TensorRT"),
        ({"device": "tpu"}, BackendError, "tpu"),
        ({"precision": "fp16", "device": "cpu"}, BackendError, "fp16"),
    ],
)
def test_what_cannot_be_loaded_is_refused_in_one_sentence(
    folder: Path, options: dict[str, str], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words) as error_info:
        Pipeline.load(ModelSelection(**{"model": str(folder), **options}))
    assert "\n" not in str(error_info.value)


def test_a_model_that_loads_but_does_not_run_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr("siglip_perception.pipeline.Encoders", broken)
    with pytest.raises(CheckpointError, match="does not run") as error_info:
        Pipeline.load(ModelSelection(str(folder)))
    assert "\n" not in str(error_info.value)


def test_a_device_whose_memory_is_too_small_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr("siglip_perception.pipeline.Encoders", full)
    with pytest.raises(BackendError, match="does not fit into the memory of cpu"):
        Pipeline.load(ModelSelection(str(folder), device="cpu"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA GPU")
def test_a_gpu_that_is_not_there_is_told(folder: Path) -> None:
    with pytest.raises(BackendError, match="CUDA"):
        Pipeline.load(ModelSelection(str(folder), device="cuda"))


@pytest.fixture(scope="module")
def generous(folder: Path) -> Pipeline:
    """One that publishes every region."""
    selection = ModelSelection(str(folder), contract="tabletop")
    return Pipeline.load(selection, PipelineOptions(threshold=0.0, max_objects=255))


def of_phrase(grounding: Grounding | None, phrase: str) -> list[GroundedObject]:
    assert grounding is not None
    return [actual for actual in grounding.objects if actual.phrase == phrase]


def test_spatial_words_choose_among_what_was_found(generous: Pipeline, frame: Frame) -> None:
    def actual(sentence: str) -> Grounding | None:
        return generous.process(frame, generous.query(parse(sentence)), with_mask=True).grounding

    all_values = of_phrase(actual("pick up the cup"), "cup")
    assert len(all_values) > 2
    grounding = actual("pick up the left cup and put it on the plate")
    (first,) = of_phrase(grounding, "cup")
    assert first.role is Role.TARGET
    assert first.box.x + first.box.width / 2 == min(o.box.x + o.box.width / 2 for o in all_values)
    assert all(actual.role is Role.PLACE for actual in of_phrase(grounding, "plate"))
    assert grounding is not None
    assert grounding.mask is not None
    ys, xs = np.nonzero(grounding.mask == 1 + grounding.objects.index(first))
    assert first.box.x <= xs.min() <= xs.max() < first.box.x + first.box.width
    assert first.box.y <= ys.min() <= ys.max() < first.box.y + first.box.height


def test_max_objects_counts_what_is_meant(generous: Pipeline, frame: Frame) -> None:
    query = generous.query(parse("pick up the left cup and the right ball"))
    generous.max_objects, original = 2, generous.max_objects
    try:
        grounding = generous.process(frame, query).grounding
    finally:
        generous.max_objects = original
    assert grounding is not None
    assert [actual.phrase for actual in grounding.objects] == ["cup", "ball"]


def test_depth_is_asked_for_where_there_are_objects_and_places_them(
    generous: Pipeline, frame: Frame
) -> None:
    requested = []

    def depth() -> Depth:
        requested.append(True)
        meters = np.full((frame.height, frame.width), 0.5, dtype=np.float32)
        return Depth(meters, 100.0, 100.0, frame.width / 2, frame.height / 2)

    images_seen = replace(frame, depth=depth)
    assert generous.process(images_seen, None).tokens is not None
    query = generous.query(parse("cup"))
    generous.threshold = 1.0
    assert of_phrase(generous.process(images_seen, query).grounding, "cup") == []
    assert not requested
    generous.threshold = 0.0
    located = of_phrase(generous.process(images_seen, query).grounding, "cup")
    assert requested == [True]
    assert all(
        actual.position[2] == pytest.approx(0.5) for actual in located if actual.area > 0.01
    )
    empty = replace(frame, depth=lambda: None)
    assert all(
        np.isnan(actual.position).all()
        for actual in of_phrase(generous.process(empty, query).grounding, "cup")
    )


@pytest.mark.parametrize("gray", [0, 128, 255])
def test_a_uniform_image_is_handled(generous: Pipeline, gray: int) -> None:
    image = np.full((48, 64, 3), gray, dtype=np.uint8)
    grounding = generous.process(Frame(image), generous.query(parse("left cup. plate."))).grounding
    assert grounding is not None
    assert np.isfinite(grounding.presence).all()
    for actual in grounding.objects:
        assert 0 <= actual.box.x < actual.box.x + actual.box.width <= 64


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 500), (500, 1), (2, 3)])
def test_a_picture_of_a_pixel_is_handled(generous: Pipeline, height: int, width: int) -> None:
    image = np.full((height, width, 3), 90, dtype=np.uint8)
    query = generous.query(parse("cup. plate."))
    grounding = generous.process(Frame(image), query, with_mask=True).grounding
    assert grounding is not None
    assert grounding.mask is not None
    assert grounding.mask.shape == (height, width)
    assert np.isfinite(grounding.presence).all()
    for actual in grounding.objects:
        assert 0 <= actual.box.x < actual.box.x + actual.box.width <= width
        assert 0 <= actual.box.y < actual.box.y + actual.box.height <= height


def test_depth_that_is_nan_all_over_places_nothing_and_loses_nothing(
    generous: Pipeline, frame: Frame
) -> None:
    query = generous.query(parse("cup. plate."))
    nan = np.full((frame.height, frame.width), np.nan, dtype=np.float32)
    blind = replace(frame, depth=lambda: Depth(nan, 100.0, 100.0, 10.0, 10.0))
    without = generous.process(frame, query).grounding
    grounding = generous.process(blind, query).grounding
    assert grounding is not None
    assert without is not None
    assert [actual.box for actual in grounding.objects] == [
        actual.box for actual in without.objects
    ]
    assert grounding.objects
    assert all(np.isnan(actual.position).all() for actual in grounding.objects)
    assert all(np.isnan(actual.extent).all() for actual in grounding.objects)


def test_phrases_of_any_characters_are_encoded(generous: Pipeline, frame: Frame) -> None:
    odd = from_phrases(["cup \U0001f964", "\u202eplate", "x" * 1024, "가" * 300, "1" * 128])
    query = generous.query(odd)
    assert any(query.truncated)
    grounding = generous.process(frame, query).grounding
    assert grounding is not None
    assert len(grounding.presence) == 5
