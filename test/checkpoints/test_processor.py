"""A checkpoint's own image processor against the contract: refused or said, never ignored."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from models import write_random_model
from safetensors.torch import save_file

from siglip_perception import contracts
from siglip_perception.checkpoints import Checkpoint
from siglip_perception.checkpoints.folder import Folder
from siglip_perception.checkpoints.match import choose_contract
from siglip_perception.checkpoints.processor import pixel_facts, timm_facts
from siglip_perception.config import ModelSelection
from siglip_perception.contracts import EncoderFacts, PixelFacts
from siglip_perception.contrastive.training.model_io import load_initial_model
from siglip_perception.encoders.plan import ModelPlan
from siglip_perception.errors import CheckpointError, ContractError
from siglip_perception.images.squares import SquareSpec

HALF, MEAN, STD = [0.5] * 3, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
# As google/siglip-base-patch16-224 and facebook/dinov2-base have them, but for the size.
SIGLIP = {
    "do_convert_rgb": None,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": HALF,
    "image_std": HALF,
    "image_processor_type": "SiglipImageProcessor",
    "resample": 3,
    "rescale_factor": 0.00392156862745098,
    "size": {"height": 216, "width": 216},
}
DINOV2 = {
    "crop_size": {"height": 216, "width": 216},
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": MEAN,
    "image_std": STD,
    "image_processor_type": "BitImageProcessor",
    "resample": 3,
    "rescale_factor": 0.00392156862745098,
    "size": {"shortest_edge": 256},
}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("random")
    write_random_model(folder)
    (folder / "manifest.json").unlink()
    return folder


@pytest.fixture
def pair(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "pair"))


def write(
    folder: Path,
    settings: dict[str, Any],
    name: str = "preprocessor_config.json",
    **settings_added: Any,
) -> None:
    (folder / name).write_text(json.dumps({**settings, **settings_added}))


def test_stock_siglips_settings_agree_in_all_their_forms(
    pair: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Numbers, sizes and scales that mean the same are no contradiction."""
    for settings_added in (
        {},
        {"size": 216},
        {"size": [216, 216]},
        {"resample": "bicubic"},
        {"image_mean": 0.5, "image_std": 0.5},
        {"rescale_factor": 0.003922},
        {"do_rescale": False, "image_mean": [127.5] * 3, "image_std": [127.5] * 3},
        {"rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3, "image_std": [1.0] * 3},
        {"do_center_crop": False, "crop_size": 99},
        {"do_center_crop": True, "crop_size": 216},
    ):
        write(pair / "siglip", SIGLIP, **settings_added)
        assert choose_contract("", Checkpoint(pair)).name == "tabletop"
        assert not caplog.records, settings_added


VALUES = [
    ({"image_mean": [0.1, 0.2, 0.3]}, r"image_mean \[0.1, 0.2, 0.3\] .*image_mean \[0.5"),
    ({"image_std": [0.25] * 3}, r"image_std \[0.25, .*contract: image_std \[0.5"),
    ({"rescale_factor": 1.0}, "rescale_factor 1.0"),
    ({"do_rescale": False}, "do_rescale False"),
    ({"do_normalize": False}, "do_normalize False"),
    ({"do_flip_channel_order": True}, "do_flip_channel_order True"),
]
GEOMETRY = [
    ({"do_resize": False}, "do_resize False.*squash to 216 x 216"),
    ({"size": {"height": 384, "width": 384}}, "'height': 384.*squash to 216 x 216"),
    ({"size": 384}, "size 384"),
    ({"do_center_crop": True, "crop_size": 192}, "crop_size 192"),
]


@pytest.mark.parametrize(("settings_added", "says"), [*VALUES, *GEOMETRY])
@pytest.mark.parametrize("is_nested", [False, True])
def test_a_grave_contradiction_is_refused(
    pair: Path, settings_added: dict[str, Any], says: str, is_nested: bool
) -> None:
    if is_nested:
        settings = {
            "image_processor": {**SIGLIP, **settings_added},
            "processor_class": "SiglipProcessor",
        }
        write(pair / "siglip", settings, "processor_config.json")
    else:
        write(pair / "siglip", SIGLIP, **settings_added)
    with pytest.raises(
        ContractError, match=rf"processor_config\.json contradicts tabletop.*{says}"
    ):
        choose_contract("", Checkpoint(pair))
    with pytest.raises(ContractError, match=r"grounding\.contract"):
        choose_contract("", Checkpoint(pair), parameter="grounding.contract")


@pytest.mark.parametrize(("settings_added", "says"), GEOMETRY)
def test_a_named_contract_wins_over_the_files_resize(
    pair: Path, caplog: pytest.LogCaptureFixture, settings_added: dict[str, Any], says: str
) -> None:
    write(pair / "siglip", SIGLIP, **settings_added)
    assert choose_contract("tabletop", Checkpoint(pair)).name == "tabletop"
    (line,) = {record.getMessage() for record in caplog.records}
    assert "The contract tabletop is followed, not" in line
    assert re.search(says, line)


@pytest.mark.parametrize(("settings_added", "says"), VALUES)
def test_a_named_contract_does_not_win_over_the_files_values(
    pair: Path, tmp_path: Path, settings_added: dict[str, Any], says: str
) -> None:
    """Other values than the encoder was trained on break a policy silently."""
    write(pair / "siglip", SIGLIP, **settings_added)
    with pytest.raises(ContractError, match=rf"contradicts tabletop.*{says}.*normalization: chec"):
        choose_contract("tabletop", Checkpoint(pair))


def test_a_contract_that_says_so_follows_the_files_mean_and_std(
    pair: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = contracts.path("tabletop").read_text()
    file = tmp_path / "mine.yaml"
    file.write_text(text.replace("    tap:", "    normalization: checkpoint\n    tap:"))
    write(pair / "siglip", SIGLIP, image_mean=[0.1] * 3, rescale_factor=1 / 127.5)
    siglip = choose_contract(str(file), Checkpoint(pair)).siglip
    assert siglip is not None
    assert siglip.mean == pytest.approx((0.05,) * 3)
    assert siglip.std == pytest.approx((0.25,) * 3)
    assert not caplog.records
    write(pair / "siglip", {key: value for key, value in SIGLIP.items() if key != "image_std"})
    with pytest.raises(ContractError, match=r"image_std is missing in siglip/preprocessor_config"):
        choose_contract(str(file), Checkpoint(pair))


def test_both_encoders_differences_in_one_file_are_told(tmp_path: Path) -> None:
    """A policy's encoders share one preprocessor_config.json."""
    mean = [0.1, 0.2, 0.3]
    pixels = PixelFacts("preprocessor_config.json", {"image_mean": mean}, mean=(0.1, 0.2, 0.3))
    facts = {
        name: EncoderFacts("", 1, 1, 1, 0, None, pixels=pixels) for name in ("dinov2", "siglip")
    }
    (texts,) = contracts.contradictions(contracts.get("tabletop"), facts).values()  # type: ignore[arg-type]
    assert len(texts) == 2


@pytest.mark.parametrize(
    ("part", "settings", "says"),
    [
        ("siglip", {**SIGLIP, "resample": 2}, "resample 2, bilinear (the contract: bicubic)"),
        ("siglip", {**SIGLIP, "resample": 1}, "resample 1, lanczos (the contract: bicubic)"),
        ("siglip", {**SIGLIP, "do_convert_rgb": False}, "do_convert_rgb False"),
        (
            "dinov2",
            DINOV2,
            "size {'shortest_edge': 256}, do_center_crop True, crop_size {'height'",
        ),
        ("dinov2", {**DINOV2, "do_center_crop": False}, "size {'shortest_edge': 256}"),
        ("dinov2", {**DINOV2, "size": {"shortest_edge": 216}}, "'shortest_edge': 216"),
        # openvla-7b's published numbers: rounded to bfloat16.
        ("dinov2", {"image_mean": [0.484375, 0.455078125, 0.40625]}, "image_mean [0.484375"),
    ],
)
def test_what_policies_change_by_design_is_said_in_one_line(
    pair: Path,
    caplog: pytest.LogCaptureFixture,
    part: str,
    settings: dict[str, Any],
    says: str,
) -> None:
    write(pair / part, settings)
    assert choose_contract("", Checkpoint(pair)).name == "tabletop"
    (record,) = caplog.records
    assert says in record.getMessage()
    assert f"followed, not {pair / part / 'preprocessor_config.json'}" in record.getMessage()


def test_the_contract_that_a_manifest_names_is_followed(
    pair: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from siglip_perception.checkpoints import write_manifest

    write(pair / "siglip", SIGLIP, size=384)
    write_manifest(pair, contract="tabletop")
    assert ModelPlan.load(ModelSelection(str(pair))).contract.name == "tabletop"
    assert "size 384" in caplog.text


def test_two_files_that_contradict_each_other_are_refused(pair: Path) -> None:
    write(pair / "siglip", {"image_processor": SIGLIP}, "processor_config.json")
    write(pair / "siglip", SIGLIP, size=216)
    Checkpoint(pair)
    write(pair / "siglip", SIGLIP, resample=2)
    with pytest.raises(CheckpointError, match=r"contradict each other.*'bicubic' and 'bilinear'"):
        Checkpoint(pair)


@pytest.mark.parametrize(
    ("settings_added", "says"),
    [
        ({"image_mean": "0.5"}, "image_mean in .* three numbers"),
        ({"image_mean": [0.5, 0.5]}, "image_mean in .* three numbers"),
        ({"image_std": [0.5, 0.5, 0]}, "image_std in .* above 0"),
        ({"rescale_factor": 0}, "rescale_factor in .* above 0"),
        ({"rescale_factor": "1/255"}, "rescale_factor in .* above 0"),
        ({"resample": 9}, "resample in .* from 0 to 5"),
        ({"size": -1}, "size in .* a number of pixels"),
        ({"size": {"height": "224", "width": 224}}, "size in .* a number of pixels"),
        ({"do_center_crop": True, "crop_size": {}}, "crop_size in .* a number of pixels"),
        ({"do_rescale": "no"}, "do_rescale in .* true or false"),
    ],
)
def test_a_setting_of_the_wrong_type_is_named(
    pair: Path, settings_added: dict[str, Any], says: str
) -> None:
    write(pair / "siglip", SIGLIP, **settings_added)
    with pytest.raises(CheckpointError, match=says):
        Checkpoint(pair)


def test_prismatics_lists_are_read_for_each_encoder(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "image_processor_type": "PrismaticImageProcessor",
            "image_resize_strategy": "letterbox",
            "input_sizes": [[3, 224, 224], [3, 224, 224]],
            "interpolations": ["bicubic", "bilinear"],
            "means": [MEAN, HALF],
            "stds": [STD, HALF],
        },
    )
    folder = Folder(tmp_path)
    dinov2, siglip = pixel_facts(folder, "", "dinov2"), pixel_facts(folder, "", "siglip")
    assert dinov2 is not None
    assert siglip is not None
    assert (dinov2.mean, dinov2.std) == (tuple(MEAN), tuple(STD))
    assert (siglip.mean, siglip.interpolation) == (tuple(HALF), "bilinear")
    assert (dinov2.resize, dinov2.size) == (siglip.resize, siglip.size) == ("letterbox", 224)


def test_timms_own_mean_and_std_are_read() -> None:
    facts = timm_facts("config.json", {"pretrained_cfg": {"mean": MEAN, "std": STD}})
    assert facts is not None
    assert (facts.mean, facts.std, facts.size) == (tuple(MEAN), tuple(STD), None)
    assert timm_facts("config.json", {"model_type": "openvla", "mean": "of actions"}) is None


def test_the_packaged_contracts_differ_from_stock_dinov2_only_in_the_cut() -> None:
    stock = PixelFacts("", DINOV2, "words", 224, "bicubic", (*MEAN,), (*STD,))  # type: ignore[arg-type]
    contract = contracts.get("openvla-224")
    (difference,) = contracts.pixel_differences(contract, contract.encoder("dinov2"), stock)
    assert not difference.grave
    assert "squash to 224 x 224" in difference.text


def test_training_under_a_contract_refuses_other_values_or_follows_them(
    pair: Path, tmp_path: Path
) -> None:
    """As a pipeline does, or the trained model would be served with other pixels."""
    write(pair / "siglip", SIGLIP, image_mean=[0.1] * 3)
    with pytest.raises(
        ContractError, match=r"siglip.preprocessor_config\.json.* image_mean \[0.1"
    ):
        load_initial_model(str(pair), "tabletop")
    file = tmp_path / "mine.yaml"
    text = contracts.path("tabletop").read_text()
    file.write_text(text.replace("    tap:", "    normalization: checkpoint\n    tap:"))
    assert load_initial_model(str(pair), str(file)).inputs["siglip"].mean == (0.1,) * 3
    with pytest.raises(ContractError, match=r"hidden_size in siglip.config\.json is 192"):
        load_initial_model(str(pair), "pi0-224")


def test_training_without_a_contract_follows_the_checkpoint(
    pair: Path, caplog: pytest.LogCaptureFixture
) -> None:
    siglip = pair / "siglip"
    write(siglip, SIGLIP, image_mean=[0.1] * 3, image_std=[0.2] * 3, resample=2)
    fed = load_initial_model(str(siglip)).inputs["siglip"]
    assert (fed.mean, fed.std) == ((0.1,) * 3, (0.2,) * 3)
    assert fed.square == SquareSpec.squash("bilinear", 216)
    assert not caplog.records
    write(siglip, SIGLIP, resample=1)
    with pytest.raises(CheckpointError, match=r"resample in .* is lanczos"):
        load_initial_model(str(siglip))
    write(pair / "dinov2", DINOV2)
    load_initial_model(str(pair / "dinov2"))
    assert "squashed to 216 x 216, not cut as" in caplog.text
    assert "'shortest_edge': 256" in caplog.text


def test_the_served_pixels_are_the_contracts(pair: Path) -> None:
    write(pair / "siglip", SIGLIP, image_mean=[0.501] * 3)
    tower = ModelPlan.load(ModelSelection(str(pair), "tabletop")).towers["siglip"]
    assert tower.input.mean == (0.5, 0.5, 0.5)


def prismatic(**changes: Any) -> dict[str, Any]:
    """openvla-7b's published file, as far as it tells of pixels."""
    size = {"antialias": True, "interpolation": 3, "max_size": None, "size": [224, 224]}
    settings = {
        "image_processor_type": "PrismaticImageProcessor",
        "image_resize_strategy": "resize-naive",
        "input_sizes": [[3, 224, 224], [3, 224, 224]],
        "interpolations": ["bicubic", "bicubic"],
        "means": [MEAN, HALF],
        "stds": [STD, HALF],
        "tvf_crop_params": [{"output_size": [224, 224]}, {"output_size": [224, 224]}],
        "tvf_do_letterbox": False,
        "tvf_letterbox_fill": None,
        "tvf_normalize_params": [
            {"mean": [0.484375, 0.455078125, 0.40625], "std": [0.25, 0.25, 0.25]},
            {"mean": HALF, "std": HALF},
        ],
        "tvf_resize_params": [size, size],
    }
    return {**settings, **changes}


def test_openvlas_tvf_lists_win_over_the_lists_that_they_were_made_of(tmp_path: Path) -> None:
    """Its constructor overwrites what it made of means and stds with the file's tvf_* lists."""
    write(tmp_path, prismatic())
    dinov2 = pixel_facts(Folder(tmp_path), "", "dinov2")
    siglip = pixel_facts(Folder(tmp_path), "", "siglip")
    assert dinov2 is not None
    assert siglip is not None
    assert (dinov2.mean, dinov2.std) == ((0.484375, 0.455078125, 0.40625), (0.25,) * 3)
    assert (siglip.mean, siglip.resize, siglip.size) == ((0.5,) * 3, "squash", 224)
    write(tmp_path, prismatic(tvf_normalize_params=None))
    plain = pixel_facts(Folder(tmp_path), "", "dinov2")
    assert plain is not None
    assert plain.mean == tuple(MEAN)
    resized = {"antialias": False, "interpolation": 2, "size": [224, 224]}
    write(tmp_path, prismatic(tvf_resize_params=[resized, resized]))
    rough = pixel_facts(Folder(tmp_path), "", "siglip")
    assert rough is not None
    assert rough.interpolation == "bilinear without antialias"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"tvf_normalize_params": []}, "tvf_normalize_params in .* for each encoder"),
        ({"tvf_normalize_params": [{}, {}]}, r"tvf_normalize_params\[1\]\.mean is missing"),
        (
            {"tvf_normalize_params": [{"mean": HALF, "std": "x"}] * 2},
            r"tvf_normalize_params\[1\]\.std in .* three numbers",
        ),
        ({"tvf_do_letterbox": True}, "tvf_do_letterbox True and image_resize_strategy"),
        ({"tvf_do_letterbox": "no"}, "tvf_do_letterbox in .* true or false"),
        (
            {"tvf_crop_params": [{"output_size": [112, 112]}] * 2},
            r"tvf_crop_params in .* end at \[112, 112\]",
        ),
    ],
)
def test_a_wrong_tvf_list_is_named(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    write(tmp_path, prismatic(**changes))
    with pytest.raises(CheckpointError, match=says):
        pixel_facts(Folder(tmp_path), "", "siglip")


@pytest.mark.parametrize(
    "settings",
    [
        {"do_image_splitting": True, "size": {"longest_edge": 2048}, "do_pad": True},
        {"do_resize": False, "max_dynamic_tiles": 12, "size": {"height": 216, "width": 216}},
    ],
    ids=["smolvlm", "eagle2"],
)
def test_a_processor_that_cuts_tiles_is_told_and_not_refused(
    pair: Path, caplog: pytest.LogCaptureFixture, settings: dict[str, Any]
) -> None:
    write(pair / "siglip", {**settings, "image_mean": HALF, "image_std": HALF})
    assert choose_contract("", Checkpoint(pair)).name == "tabletop"
    assert "preprocessor_config.json" in caplog.text


@pytest.mark.parametrize("suffix", ["", "Fast", "Pil"])
def test_transformers_5_writes_the_same_settings_under_other_class_names(
    pair: Path, caplog: pytest.LogCaptureFixture, suffix: str
) -> None:
    """Old and new names, all in processor_config.json, with keys of no effect."""
    inner = {
        **SIGLIP,
        "image_processor_type": f"SiglipImageProcessor{suffix}",
        "data_format": "channels_first",
        "device": None,
        "disable_grouping": None,
        "default_to_square": False,
        "pad_size": None,
    }
    write(pair / "siglip", {"image_processor": inner}, "processor_config.json")
    assert choose_contract("", Checkpoint(pair)).name == "tabletop"
    assert not caplog.records
    write(pair / "siglip", {"image_processor": {**inner, "resample": 2}}, "processor_config.json")
    choose_contract("", Checkpoint(pair))
    assert "resample 2, bilinear (the contract: bicubic)" in caplog.text


def test_an_encoder_with_film_is_refused_with_the_reason(tmp_path: Path) -> None:
    """Its blocks are named as openvla-oft's film_vit_wrapper.py wraps them."""
    wrapped = "vision_backbone.vision_backbone.featurizer"
    save_file(
        {
            f"{wrapped}.patch_embed.proj.weight": torch.zeros(8, 3, 14, 14),
            f"{wrapped}.blocks.0.block.norm1.weight": torch.zeros(8),
            f"{wrapped}.blocks.0.scale.weight": torch.zeros(8, 8),
        },
        tmp_path / "model.safetensors",
    )
    (tmp_path / "config.json").write_text('{"model_type": "openvla"}')
    with pytest.raises(CheckpointError, match=r"FiLM \(.*scale\.weight\), which scales"):
        Checkpoint(tmp_path)
