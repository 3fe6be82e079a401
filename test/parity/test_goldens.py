"""Contracts' pixels beside squares that the policies' own code made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from siglip_perception import contracts
from siglip_perception.commands import main
from siglip_perception.commands.contract_check import table_text
from siglip_perception.contracts.steps import Crop, Jpeg
from siglip_perception.errors import PerceptionError
from siglip_perception.images.squares import SquareSpec, to_square
from siglip_perception.parity import goldens
from siglip_perception.parity.golden_pictures import lattice, pictures
from siglip_perception.parity.goldens import PixelCheck

_POLICIES = 15


@pytest.fixture(scope="module")
def checks() -> dict[str, PixelCheck]:
    return {name: goldens.check_pixels(name) for name in goldens.names()}


@pytest.mark.numeric
def test_the_pixels_are_the_policys_own(checks: dict[str, PixelCheck]) -> None:
    for name, check in checks.items():
        assert check.equal, name
        # Sums without rounding may differ in their last bits.
        assert check.share < 0.001 or check.levels < 1e-4, name


def test_many_policies_have_a_golden_each_with_its_source() -> None:
    assert len(goldens.names()) >= _POLICIES
    for name in goldens.names():
        golden = goldens.load(name)
        assert len(golden.commit) == 40
        assert golden.repository in contracts.get(name).source
        assert golden.libraries


def test_a_step_less_is_found() -> None:
    """Without its JPEG round trip or its crop, openvla-oft's pixels are tens of levels off."""
    golden = goldens.load("openvla-oft-224")
    contract = contracts.get("openvla-oft-224")
    square = SquareSpec.of(contract, contract.encoders[0])
    image = pictures()["wide"]
    for kind in (Jpeg, Crop):
        steps = tuple(step for step in square.steps if not isinstance(step, kind))
        pixels = lattice(to_square(image, SquareSpec(steps, 224)))
        assert np.abs(pixels.astype(int) - golden.squares["wide"]).max() > 10


def test_a_contract_that_differs_is_named_and_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(goldens, "FOLDER", tmp_path)
    source = Path(contracts.__file__).parent / "goldens" / "starvla-224.npz"
    with np.load(source) as content:
        arrays = {key: content[key] for key in content.files}
    arrays["gray"] = arrays["gray"] + np.uint8(3)
    np.savez(tmp_path / "starvla-224.npz", **arrays)
    assert main.main(["contracts", "--check", "starvla-224"]) == 2
    output = capsys.readouterr()
    assert "DIFFERENT, largest difference 3 of 255" in output.out
    assert "starvla-224 by 3 levels in gray. Installed are pillow" in output.err
    (tmp_path / "starvla-224.npz").write_bytes(b"none")
    with pytest.raises(PerceptionError, match=r"starvla-224\.npz is damaged: install"):
        goldens.load("starvla-224")


def test_a_contract_without_a_golden_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["contracts", "--check", "tabletop"]) == 2
    assert "'tabletop' has no golden to check it with: use one of cogact-224," in (
        capsys.readouterr().err
    )


def test_the_page_has_the_table_of_goldens(checks: dict[str, PixelCheck]) -> None:
    page = (Path(__file__).parents[2] / "docs/contracts.md").read_text()
    rest = page.partition("<!-- goldens:begin -->\n")[2]
    page_rows = rest.partition("\n<!-- goldens:end")[0].splitlines()
    rows = table_text(checks, {}).splitlines()
    # The last column was measured at real size, which takes minutes; the pixels' may differ by a
    # level between numbers of threads.
    assert [row.rsplit("|", 3)[0] for row in page_rows] == [row.rsplit("|", 3)[0] for row in rows]
    for row in page_rows[2:]:
        pixels, tokens = map(float, row.split("|")[-3:-1])
        assert pixels <= goldens.MAX_LEVELS
        assert 0 < tokens <= goldens.MAX_TOKEN_RMS
