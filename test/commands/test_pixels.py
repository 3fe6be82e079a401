"""`siglip-perception pixels`: what each encoder is fed, as arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from siglip_perception.commands import main

FRAME = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "frame.png"
    Image.fromarray(FRAME).save(path)
    return path


def test_pixels_before_and_after_the_normalization_are_written(
    picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "fed.npz"
    words = ["pixels", str(picture), "--contract", "openvla-224", "-o", str(output)]
    assert main.main(words) == 0
    assert "the columns 0.0 to 120.0 and the rows 0.0 to 90.0" in capsys.readouterr().out
    across = Image.fromarray(FRAME).resize((224, 90), Image.Resampling.BICUBIC)
    square = np.asarray(across.resize((224, 224), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    with np.load(output) as arrays:
        assert set(arrays) == {"contract", "dinov2_pixels", "dinov2", "siglip_pixels", "siglip"}
        for name, mean, std in (("dinov2", 0.485, 0.229), ("siglip", 0.5, 0.5)):
            assert arrays[f"{name}_pixels"].dtype == arrays[name].dtype == np.float32
            np.testing.assert_array_equal(arrays[f"{name}_pixels"], square)
            np.testing.assert_allclose(arrays[name][0], (square[0] / 255 - mean) / std, atol=1e-5)


def test_the_part_of_the_frame_that_a_crop_shows_is_said(
    picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = str(tmp_path / "fed.npz")
    assert main.main(["pixels", str(picture), "--contract", "gr00t-n1-224", "-o", output]) == 0
    # 0.95 of 120 is 114, of 90 is 85 and a half, of which 85 are whole.
    assert "the columns 3.0 to 117.0 and the rows 2.0 to 87.0" in capsys.readouterr().out
    with np.load(output) as arrays:
        assert arrays["siglip_pixels"].shape == (3, 224, 224)


def test_a_contract_that_there_is_not_is_refused(
    picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["pixels", str(picture), "--contract", "openvla-oft", "-o", str(tmp_path / "x.npz")]
    assert main.main(words) == 2
    assert "'openvla-oft' (did you mean openvla-oft-224?)" in capsys.readouterr().err
    assert not (tmp_path / "x.npz").exists()
