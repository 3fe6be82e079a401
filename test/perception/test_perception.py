"""The Python API on the embedded model: what goes in, what comes out, and that it is the CLI's."""

from __future__ import annotations

import dataclasses
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import siglip_perception
from siglip_perception import Percept, Perception, PerceptionError, Role
from siglip_perception.commands import main
from siglip_perception.errors import BackendError, ImageError, InstructionError
from siglip_perception.images.inputs import to_picture
from siglip_perception.scenes.scenes import render, sample_scene
from siglip_perception.types import UInt8Array, join

OPTIONS: dict[str, Any] = {"backend": "torch", "device": "cpu", "precision": "fp32"}


@pytest.fixture(scope="module")
def image() -> UInt8Array:
    """A yellow plate, a green book and a black block, 480 x 640."""
    return render(sample_scene(np.random.default_rng(3), 3)).image


@pytest.fixture(scope="module")
def perception() -> Perception:
    return Perception("tabletop", **OPTIONS)


@pytest.fixture(scope="module")
def seen(perception: Perception, image: UInt8Array) -> Percept:
    return perception.look(image, "put the yellow plate on the green book")


@pytest.fixture
def small() -> UInt8Array:
    return np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)


def png(pixels: UInt8Array) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def after(code: str) -> set[str]:
    """The modules that are loaded after the code ran in a fresh Python."""
    code += "\nimport sys; print('\\n'.join(sys.modules))"
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return set(process.stdout.split("\n"))


def test_importing_the_package_imports_nothing_else() -> None:
    assert not after("import siglip_perception") & {"torch", "transformers", "numpy", "cv2", "PIL"}


def test_pytorch_is_not_loaded_for_an_argument_that_is_wrong() -> None:
    loaded = after(
        "from siglip_perception import Perception, PerceptionError\n"
        "for options in ({'threshold': 2}, {'contract': 'openvla'}, {'backend': 'tpu'},\n"
        "        {'model': 'nothing'}, {'backend': 'tensorrt', 'device': 'cpu'}):\n"
        "    try: Perception(**options)\n"
        "    except PerceptionError: continue\n"
        "    raise SystemExit('not refused')"
    )
    assert not loaded & {"torch", "transformers"}


def test_the_package_exports_what_it_says() -> None:
    for name in siglip_perception.__all__:
        assert name in dir(siglip_perception)
        assert getattr(siglip_perception, name).__name__ == name
    with pytest.raises(AttributeError, match="nothing"):
        siglip_perception.nothing  # noqa: B018


def test_the_package_says_that_it_is_typed() -> None:
    assert (Path(siglip_perception.__file__).parent / "py.typed").is_file()


def test_objects_are_those_of_the_instruction(seen: Percept) -> None:
    plate, book = seen.objects
    assert (plate.phrase, plate.role) == ("yellow plate", Role.TARGET)
    assert (book.phrase, book.role) == ("green book", Role.PLACE)
    assert seen.phrases == ("yellow plate", "green book")
    assert seen.instruction == "put the yellow plate on the green book"
    assert list(seen.presence) == ["yellow plate", "green book"]
    assert min(seen.presence.values()) > 0.9
    assert seen.notes == ()


def test_tokens_are_the_contracts(perception: Perception, seen: Percept) -> None:
    assert seen.tokens is not None
    assert seen.tokens.data.shape == (324, 384)
    assert seen.tokens.fingerprint == perception.fingerprint
    assert seen.tokens.contract == perception.contract.name == "tabletop"
    assert perception.contract.channels == {"dinov2": slice(0, 192), "siglip": slice(192, 384)}


def test_objects_and_tokens_are_the_commands(
    perception: Perception,
    seen: Percept,
    image: UInt8Array,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file, stored = tmp_path / "image.png", tmp_path / "tokens.npz"
    overlay = tmp_path / "overlay.png"
    file.write_bytes(png(image))
    options = ["--backend", "torch", "--device", "cpu", "--precision", "fp32"]
    argv = ["ground", str(file), seen.instruction, *options, "--json", "--overlay", str(overlay)]
    assert main.main(argv) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(seen.as_json()))
    np.testing.assert_array_equal(to_picture(overlay).pixels, seen.overlay())
    assert main.main(["tokens", str(file), *options, "-o", str(stored)]) == 0
    tokens = perception.tokens(file)
    with np.load(stored) as arrays:
        np.testing.assert_array_equal(arrays["tokens"], tokens.data)
        assert str(arrays["fingerprint"]) == tokens.fingerprint


def test_every_kind_of_image_gives_the_same_pixels(small: UInt8Array, tmp_path: Path) -> None:
    file = tmp_path / "image.png"
    file.write_bytes(png(small))
    tensor = torch.from_numpy(small)
    kinds: list[Any] = [
        small,
        small[::-1][::-1],
        np.asfortranarray(small),
        tensor,
        tensor.permute(2, 0, 1),
        tensor.permute(2, 0, 1).contiguous(),
        Image.fromarray(small),
        Image.open(file),
        file,
        str(file),
        file.read_bytes(),
        bytearray(file.read_bytes()),
        memoryview(file.read_bytes()),
        to_picture(small),
    ]
    for kind in kinds:
        pixels = to_picture(kind).pixels
        np.testing.assert_array_equal(pixels, small)
        assert pixels.flags.c_contiguous


def test_contiguous_arrays_and_tensors_are_not_copied(
    perception: Perception, small: UInt8Array
) -> None:
    tensor = torch.from_numpy(small.copy())
    assert perception.look(small).image is small
    assert np.shares_memory(perception.look(tensor).image, tensor.numpy())
    planes = tensor.permute(2, 0, 1).contiguous()
    assert not np.shares_memory(perception.look(planes).image, planes.numpy())


def test_tokens_go_to_pytorch_without_a_copy(perception: Perception, small: UInt8Array) -> None:
    tokens = perception.tokens(small)
    tensor = tokens.to_torch()
    assert tensor.dtype == torch.float32
    assert np.shares_memory(tensor.numpy(), tokens.data)
    narrow = dataclasses.replace(tokens, data=np.array([[0x3F80]], np.uint16), dtype="bfloat16")
    assert narrow.to_torch().tolist() == [[1.0]]


def test_pillow_images_are_turned_and_read_as_files_are(small: UInt8Array, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    for name in ("turned.png", "turned.tiff", "turned.webp"):
        file = tmp_path / name
        Image.fromarray(small).save(file, exif=exif, lossless=True)
        with Image.open(file) as picture:
            pixels = to_picture(picture).pixels
        np.testing.assert_array_equal(pixels, to_picture(file).pixels, err_msg=name)
        np.testing.assert_array_equal(pixels, np.rot90(small, -1), err_msg=name)
    gray = Image.fromarray(small).convert("L")
    np.testing.assert_array_equal(to_picture(gray).pixels[:, :, 2], np.asarray(gray))
    rgba = Image.fromarray(small).convert("RGBA")
    np.testing.assert_array_equal(to_picture(rgba).pixels, small)
    bright = Image.fromarray(np.full((4, 4), 500, np.uint16))
    np.testing.assert_array_equal(to_picture(bright, mono16_white=1000).pixels, 128)
    with pytest.raises(ImageError, match="mono16_white"):
        to_picture(bright)


def closed_picture(tmp_path: Path) -> Image.Image:
    file = tmp_path / "closed.png"
    file.write_bytes(png(np.zeros((4, 4, 3), np.uint8)))
    with Image.open(file) as picture:
        return picture


def test_an_image_that_is_none_is_refused_in_a_sentence(tmp_path: Path) -> None:
    refused: list[tuple[Any, str]] = [
        (np.zeros((4, 5, 3)), r"the array is float64: give uint8 in \[0, 255\], as"),
        (np.zeros((4, 5, 3), np.int32), r"the array is int32: give uint8"),
        (np.zeros((4, 5), np.uint8), "repeat its gray channel"),
        (np.zeros((4, 5, 1), np.uint8), "repeat its gray channel"),
        (np.zeros((4, 5, 4), np.uint8), r"image\[:, :, :3\]"),
        (np.zeros((3, 4, 5), np.uint8), "transpose"),
        (np.zeros((2, 4, 5, 3), np.uint8), r"look_all\(\)"),
        (np.zeros((7,), np.uint8), r"uint8 \[7\]"),
        (np.zeros((0, 5, 3), np.uint8), "its height is zero"),
        (torch.zeros(3, 4, 5), "the tensor is float32"),
        (torch.zeros(3, 4, 3, dtype=torch.uint8), "may be .* give it as a numpy array"),
        (torch.zeros(1, 3, 4, 5, dtype=torch.uint8), r"look_all\(\)"),
        (torch.zeros(4, 5, dtype=torch.uint8), r"uint8 \[4, 5\]"),
        (None, "type NoneType"),
        ([np.zeros((4, 5, 3), np.uint8)], r"look_all\(\)"),
        (io.BytesIO(b""), r"image\.read\(\)"),
        (b"", r"the image: .* empty"),
        (b"not a picture at all", "the image: the file is text"),
        (tmp_path, "is a folder"),
        (str(tmp_path / "none.png"), r"There is no image file .*none\.png"),
        (closed_picture(tmp_path), "the Pillow image's file is closed"),
    ]
    for value, sentence in refused:
        with pytest.raises(PerceptionError, match=sentence) as excinfo:
            to_picture(value)
        assert "\n" not in str(excinfo.value)
    with pytest.raises(ImageError, match="more than the 10 pixels"):
        to_picture(np.zeros((4, 5, 3), np.uint8), max_pixels=10)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"threshold": 1.5}, "threshold is 1.5; it must be 0 to 1"),
        ({"threshold": "0.5"}, "threshold is '0.5'"),
        ({"max_objects": 0}, "max_objects is 0; it must be 1 to 255"),
        ({"tokens_dtype": "int8"}, "tokens_dtype is 'int8'; it must be one of float32"),
        ({"backend": "onnx"}, "backend is 'onnx'; it must be one of auto"),
        ({"device": "gpu"}, "device is 'gpu'; it must be one of auto, cpu, cuda"),
        ({"precision": "fp8"}, "precision is 'fp8'"),
        ({"contract": "openvla"}, "There is no token contract 'openvla'"),
        ({"contract": Path("none.yaml")}, "There is no contract file 'none.yaml'"),
        ({"grounding_contract": "openvla"}, "There is no token contract 'openvla'"),
        ({"model": "tablet"}, "There is no model folder 'tablet'"),
        ({"model": None}, "model is None"),
        ({"mono16_white": -1}, "mono16_white is -1"),
        ({"max_pixels": 0}, "max_pixels is 0"),
        ({"taps": -1}, "taps is -1: give the block of each encoder"),
        ({"taps": {"clip": -1}}, "has no encoder 'clip' to tap: it has dinov2 and siglip"),
        (
            {"taps": {"siglip": -5}},
            "The tap of siglip is -5: it must be -1, the last block, to -4",
        ),
        ({"taps": {"siglip": 0}}, "The tap of siglip is 0"),
    ],
)
def test_an_option_that_is_wrong_is_named(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(PerceptionError, match=sentence):
        Perception(**{"model": "tabletop", **OPTIONS, **options})


def test_without_an_instruction_there_are_tokens_only(
    perception: Perception, seen: Percept, image: UInt8Array
) -> None:
    for alone in (
        perception.look(image),
        perception.look(image, "  "),
        perception.look(image, phrases=[]),
        perception.look(image, seen.instruction, with_objects=False),
    ):
        assert alone.grounding is None
        assert (alone.objects, alone.phrases, alone.presence) == ((), (), {})
        assert alone.mask is None
        assert alone.tokens is not None
        assert seen.tokens is not None
        np.testing.assert_allclose(alone.tokens.data, seen.tokens.data, atol=1e-4)
        np.testing.assert_array_equal(alone.overlay(), image)
        with pytest.raises(PerceptionError, match="Nothing was looked for"):
            alone.as_json()


def test_objects_alone_and_without_a_mask(
    perception: Perception, seen: Percept, image: UInt8Array
) -> None:
    objects = perception.look(image, seen.instruction, with_tokens=False, with_mask=False)
    assert objects.tokens is None
    assert objects.mask is None
    assert [item.box for item in objects.objects] == [item.box for item in seen.objects]
    with pytest.raises(PerceptionError, match="with_mask=True"):
        objects.mask_of(objects.objects[0])
    with pytest.raises(PerceptionError, match="Neither tokens nor objects"):
        perception.look(image, with_tokens=False)


def test_phrases_are_taken_as_they_are(perception: Perception, image: UInt8Array) -> None:
    listed = perception.look(image, phrases=["green book", "초록색 책", "red cup"])
    assert listed.phrases == ("green book", "초록색 책", "red cup")
    assert {item.phrase for item in listed.objects} == {"green book", "초록색 책"}
    assert listed.presence["red cup"] < 0.5
    assert perception.look(image, phrases="green book").phrases == ("green book",)


@pytest.mark.parametrize(
    ("instruction", "phrases", "sentence"),
    [
        ("please", None, "names no object"),
        ("cup " * 500, None, "longer than 1024 bytes"),
        (None, None, "The instruction is of type NoneType"),
        ("red cup", ["plate"], "Both an instruction and phrases"),
        ("", ["", "..."], "name no object"),
        ("", [1], "A phrase is of type int"),
        ("", 1, "A phrase is of type int"),
        ("", ["cup"] * 33, "33 phrases are too many"),
    ],
)
def test_an_instruction_that_is_wrong_is_refused(
    perception: Perception, small: UInt8Array, instruction: Any, phrases: Any, sentence: str
) -> None:
    with pytest.raises(InstructionError, match=sentence):
        perception.look(small, instruction, phrases=phrases)


def test_what_is_cut_is_noted(perception: Perception, small: UInt8Array) -> None:
    cut = perception.look(small, phrases=["word " * 40, "cup"])
    assert len(cut.notes) == 2
    assert "cut to 32 phrases of 128 characters" in cut.notes[0]
    assert cut.notes[1].startswith("longer than the text encoder reads, and cut: 'word word")
    mended = perception.look(png(small)[:-8])
    assert mended.notes == ("the image has faults that were repaired: png_repaired",)


def test_the_mask_has_each_objects_pixels(seen: Percept) -> None:
    plate = seen.objects[0]
    pixels = seen.mask_of(plate)
    assert pixels.shape == (480, 640)
    assert pixels.mean() == pytest.approx(plate.area)
    rows, cols = pixels.nonzero()
    assert (cols.min(), rows.min()) == (plate.box.x, plate.box.y)
    with pytest.raises(PerceptionError, match="not one of this image's"):
        seen.mask_of(dataclasses.replace(plate, phrase="cup"))


def test_thresholds_can_be_changed(perception: Perception, image: UInt8Array) -> None:
    try:
        perception.threshold = 0.0
        everything = perception.look(image, "red cup").objects
        assert len(everything) > 1
        perception.max_objects = np.int64(1)  # type: ignore[assignment]
        assert len(perception.look(image, "red cup").objects) == 1
        with pytest.raises(PerceptionError, match="threshold is -1"):
            perception.threshold = -1
        with pytest.raises(PerceptionError, match="max_objects is 256"):
            perception.max_objects = 256
    finally:
        perception.threshold, perception.max_objects = None, 20
    assert perception.thresholds == {"en": 0.5, "ko": 0.5}  # it has no calibration of the user's
    assert perception.look(image, "red cup").objects == ()


@pytest.mark.numeric
def test_several_images_give_what_each_gives_alone(
    perception: Perception, image: UInt8Array
) -> None:
    pictures = [image, image[::2, ::2], np.ascontiguousarray(image[:, ::-1])]
    texts = ["green book", "", "yellow plate. black block."]
    together = perception.look_all(pictures, texts, batch_size=2)
    assert len(together) == 3
    for percept, picture, text in zip(together, pictures, texts, strict=True):
        alone = perception.look(picture, text)
        assert percept.phrases == alone.phrases
        assert [item.box for item in percept.objects] == [item.box for item in alone.objects]
        assert percept.tokens is not None
        assert alone.tokens is not None
        np.testing.assert_allclose(percept.tokens.data, alone.tokens.data, atol=1e-3)
    assert perception.look_all([]) == []
    assert perception.look_all({}) == {}
    assert len(perception.look_all(np.stack([image, image]))) == 2
    assert len(perception.look_all(torch.zeros(2, 3, 8, 9, dtype=torch.uint8))) == 2
    assert len(perception.look_all(picture for picture in pictures)) == 3


def test_cameras_keep_their_names_and_can_be_joined(
    perception: Perception, image: UInt8Array
) -> None:
    views = perception.look_all({"front": image, "wrist": image[::2, ::2]}, "green book")
    assert list(views) == ["front", "wrist"]
    assert [percept.camera for percept in views.values()] == ["front", "wrist"]
    front, wrist = (percept.objects[0].box for percept in views.values())
    assert front.width / wrist.width == pytest.approx(2, rel=0.1)
    joined = join([percept.tokens for percept in views.values() if percept.tokens])
    assert (joined.rows, joined.data.shape) == (36, (648, 384))


def test_several_images_are_refused_by_name(perception: Perception, small: UInt8Array) -> None:
    wrong = np.zeros((4, 5), np.uint8)
    refused: list[tuple[Any, dict[str, Any], str]] = [
        ([small, wrong], {}, "^image 1: the array"),
        ({"front": small, "wrist": wrong}, {}, "^wrist: the array"),
        ({"": small}, {}, "A camera is called ''"),
        ({1: small}, {}, "A camera is called 1"),
        (small, {}, r"^image 0: the array is uint8 \[32, 3\]"),
        ("image.png", {}, "this is one, of type str"),
        (b"", {}, "this is one, of type bytes"),
        (Image.fromarray(small), {}, "this is one, of type Image"),
        (5, {}, "not one of type int"),
        ([small], {"instruction": ["cup", "plate"]}, "2 instructions for 1 images"),
        ([small], {"batch_size": 0}, "batch_size is 0"),
    ]
    for images, options, sentence in refused:
        with pytest.raises(PerceptionError, match=sentence):
            perception.look_all(images, **options)


def test_phrases_become_unit_vectors(perception: Perception) -> None:
    vectors = perception.embed(["red cup", "빨간 컵", "blue ball", "red cup"])
    assert vectors.shape == (4, 192)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    cosines = vectors @ vectors.T
    assert cosines[0, 1] > cosines[0, 2] + 0.2
    assert cosines[0, 3] == pytest.approx(1)
    assert perception.embed("red cup").shape == (1, 192)
    many = [f"cup {number}" for number in range(40)]
    np.testing.assert_allclose(perception.embed(many)[39:], perception.embed("cup 39"), atol=1e-5)
    for phrases, sentence in (
        ([], "There is no phrase"),
        (["cup", " "], "names nothing"),
        (["cup" * 50], "more than 128 characters"),
        (["a b c d " * 15], "longer than the text encoder reads"),
        (["cup\x07"], "not text"),
        (5, "A phrase is of type int"),
    ):
        with pytest.raises(InstructionError, match=sentence):
            perception.embed(phrases)  # type: ignore[arg-type]


def test_another_tap_changes_its_encoders_tokens_alone(
    perception: Perception, small: UInt8Array
) -> None:
    last = Perception("tabletop", **OPTIONS, taps={"siglip": -1})
    assert last.contract.name == "tabletop+siglip-1"
    assert last.fingerprint != perception.fingerprint
    tokens, stock = last.tokens(small).data, perception.tokens(small).data
    dino, siglip = (last.contract.channels[name] for name in ("dinov2", "siglip"))
    np.testing.assert_allclose(tokens[:, dino], stock[:, dino], atol=1e-4)
    assert np.abs(tokens[:, siglip] - stock[:, siglip]).max() > 0.1
    assert last.look(small, "cup").phrases == ("cup",)


def test_nan_is_withheld_and_the_way_out_is_named(
    perception: Perception, small: UInt8Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = FloatingPointError("The tokens hold NaN or infinity and are withheld.")

    def broken(tasks: Any, **options: Any) -> list[FloatingPointError]:
        return [error] * len(tasks)

    monkeypatch.setattr(perception.pipeline, "process_batch", broken)
    with pytest.raises(BackendError, match=r"^image 0: .* use precision fp32 and backend torch"):
        perception.look_all([small, small])


def test_results_are_frozen_and_shown(perception: Perception, seen: Percept) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        seen.camera = "front"  # type: ignore[misc]
    text = repr(seen)
    assert "640 x 480" in text
    assert "18 x 18 tokens of 384 channels" in text
    assert "yellow plate: in view" in text
    assert repr(perception).startswith("Perception('tabletop'): contract tabletop, torch")
    with Image.open(io.BytesIO(seen._repr_jpeg_())) as picture:
        assert picture.size == (480, 360)
