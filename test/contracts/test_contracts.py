"""Token contracts: their fields, their files, and the checkpoints that keep them."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from siglip_perception import contracts
from siglip_perception.commands.contracts import table_text
from siglip_perception.contracts import EncoderFacts, EncoderName, InputFacts, PixelFacts
from siglip_perception.contracts.parse import parse
from siglip_perception.contracts.steps import strategy
from siglip_perception.errors import ContractError

SIGLIP = EncoderFacts(
    "siglip/config.json", 1152, 14, 27, 0, 16, 16, "gelu", 1e-6, prefix="vision_config."
)
DINOV2 = EncoderFacts("dinov2/config.json", 1024, 14, 24, 4, None, 16, "gelu", 1e-6)


def check(
    contract: str = "openvla-224", siglip: EncoderFacts = SIGLIP, dinov2: EncoderFacts = DINOV2
) -> None:
    contracts.check(contracts.get(contract), {"siglip": siglip, "dinov2": dinov2})


@pytest.mark.parametrize(
    ("name", "grid", "dim", "order"),
    [
        ("openvla-224", 16, 2176, ["dinov2", "siglip"]),
        ("openvla-384", 27, 2176, ["dinov2", "siglip"]),
        ("openvla-224-letterbox", 16, 2176, ["dinov2", "siglip"]),
        ("openvla-384-letterbox", 27, 2176, ["dinov2", "siglip"]),
        ("openvla-oft-224", 16, 2176, ["dinov2", "siglip"]),
        ("pi0-224", 16, 1152, ["siglip"]),
        ("dinov2-224", 16, 1024, ["dinov2"]),
        ("siglip-224", 16, 1152, ["siglip"]),
        ("siglip2-dinov2-224", 16, 2176, ["dinov2", "siglip"]),
        ("siglip2-dinov3-256", 16, 2176, ["dinov3", "siglip"]),
    ],
)
def test_the_known_contracts_have_their_grid_and_channels(
    name: str, grid: int, dim: int, order: list[str]
) -> None:
    contract = contracts.get(name)
    assert [encoder.name for encoder in contract.encoders] == order
    assert (contract.rows, contract.cols, contract.dim) == (grid, grid, dim)


def test_openvla_is_as_published() -> None:
    contract = contracts.get("openvla-224")
    assert all(encoder.tap == -2 and not encoder.norm for encoder in contract.encoders)
    assert contract.encoder("dinov2").mean == (0.485, 0.456, 0.406)
    assert contract.encoder("siglip").std == (0.5, 0.5, 0.5)
    assert contract.strategy == ("squash", "bicubic")
    letterbox = contracts.get("openvla-384-letterbox")
    # int(255 * mean), as prismatic's dinosiglip_vit.py has it.
    assert letterbox.encoder("dinov2").fill == (123, 116, 103)
    assert letterbox.encoder("siglip").fill == (127, 127, 127)


def test_pi0_is_as_published() -> None:
    contract = contracts.get("pi0-224")
    siglip = contract.encoder("siglip")
    assert (siglip.tap, siglip.norm, siglip.fill) == (-1, True, (0, 0, 0))
    assert siglip.hidden_act == "gelu_pytorch_tanh"
    assert contract.strategy == ("resize-pad", "bilinear")


@pytest.mark.parametrize("name", contracts.names())
def test_every_packaged_contract_says_what_it_is_and_states_its_grid(name: str) -> None:
    contract = contracts.get(name)
    assert contract.name == name
    assert contract.description
    assert contract.source
    content = yaml.safe_load(contracts.path(name).read_text())
    grid = None if contract.has_free_grid else [contract.rows, contract.cols]
    assert content.get("grid") == grid
    assert content["dim"] == contract.dim


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ContractError, match=r"'openvla-7b'.*tabletop, .*openvla-224, .*\.yaml"):
        contracts.get("openvla-7b")
    with pytest.raises(ContractError, match=r"no contract file '/no/such\.yaml'"):
        contracts.get("/no/such.yaml")


def test_a_users_own_file_is_a_contract(tmp_path: Path) -> None:
    text = contracts.path("openvla-224").read_text()
    own_file = tmp_path / "mine.yaml"
    own_file.write_text(
        text.replace("name: openvla-224", "name: mine").replace("tap: -2", "tap: -3")
    )
    contract = contracts.get(str(own_file))
    assert contract.name == "mine"
    assert {encoder.tap for encoder in contract.encoders} == {-3}


def _pixels(content: dict[str, Any], *steps: dict[str, Any]) -> None:
    content["pixels"] = list(steps)


def _short_form(content: dict[str, Any], **fields: str) -> None:
    """Write the strategy's short form in place of the steps."""
    del content["pixels"]
    content.update(fields)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("encoders"), "needs the field encoders"),
        (lambda c: c["encoders"][0].pop("mean"), r"the field encoders\[0\]\.mean"),
        (lambda c: c.update(pixels=[]), "pixels to be a list of 1 to 12 steps"),
        (lambda c: _pixels(c, {"resise": {}}), r"'resise' is none \(did you mean resize\?\)"),
        (lambda c: _pixels(c, {"resize": {}}), r"the field pixels\[0\]\.resize\.filter"),
        (
            lambda c: _pixels(c, {"resize": {"filter": "bicubik"}}),
            r"pixels\[0\]\.resize\.filter to be one of .* \(did you mean bicubic\?\)",
        ),
        (
            lambda c: _pixels(c, {"resize": {"filter": "bicubic", "antialiass": True}}),
            r"'antialiass' is none \(did you mean antialias\?\)",
        ),
        (
            lambda c: _pixels(c, {"resize": {"filter": "lanczos3", "arithmetic": "torch"}}),
            r"pixels\[0\] to have a filter of torch's \(bilinear, bicubic, area\)",
        ),
        (
            lambda c: _pixels(c, {"resize": {"filter": "bicubic", "antialias": False}}),
            "antialias: true, as pillow's bicubic always antialiases",
        ),
        (
            lambda c: _pixels(c, {"pad": {"to": "square", "fill": [0, 0, 256]}}),
            r'pad\.fill to be "mean", or a list of three, each a whole number from 0 to 255',
        ),
        (
            lambda c: _pixels(c, {"crop": {"to": "share", "area": 0.9, "side": 0.9}}),
            "side or area, one of them",
        ),
        (lambda c: _pixels(c, {"crop": {"to": "size"}}), "too small for it: put it after a"),
        (lambda c: _pixels(c, {"jpeg": {"quality": 101}}), "quality to be a whole number from 1"),
        (
            lambda c: _pixels(
                c,
                {"resize": {"filter": "bilinear", "arithmetic": "jax", "rounding": "none"}},
                {"jpeg": {}},
            ),
            r"pixels\[1\] before the step with `rounding: none`: it takes whole levels",
        ),
        (
            lambda c: _pixels(c, {"resize": {"filter": "bicubic", "to": "fit"}}),
            "dinov2's 224 x 224, and a 640 x 480 image ends at 224 x 168: add a resize, a pad",
        ),
        (
            lambda c: c.update(tokens=[{"shuffle": {"factor": 3}}]),
            r"tokens\[0\] to divide its 16 x 16 patches, and 3 does not",
        ),
        (lambda c: c["encoders"][0].update(more_taps=[-2]), "each block tapped once"),
        (lambda c: c["encoders"][0].update(normalization="mine"), "one of contract, checkpoint"),
        (lambda c: c.update(resize="squash"), "pixels or resize, which is their short form"),
        (lambda c: _short_form(c, resize="stretch"), "resize to be one of squash, letterbox"),
        (lambda c: c.update(color="red"), "only the fields .* and 'color' is none"),
        (lambda c: c["encoders"][1].update(tap=0), r"encoders\[1\]\.tap to be a whole number"),
        (lambda c: c["encoders"][1].update(tap=-28), "a block for their tap, and siglip"),
        (lambda c: c["encoders"][1].update(image_size=384), "one grid, and these have 16 and 27"),
        (lambda c: c["encoders"][0].update(std=[1, 1]), "a list of three numbers"),
        (lambda c: c["encoders"][0].update(std=[1, 0, 1]), "three, each a number from 1e-06"),
        (lambda c: c["encoders"][0].update(mean=[float("nan")] * 3), "each a number from -10"),
        (lambda c: c["encoders"][0].update(norm="yes"), r"norm to be true or false"),
        (lambda c: c["encoders"].append(c["encoders"][0]), "a list of one encoder or two"),
        (lambda c: c["encoders"][1].update(name="dinov2"), "one siglip and one dinov2"),
        (lambda c: c.update(grid=[14, 14]), r"grid: \[16, 16\], which follows"),
        (lambda c: c.update(dim=1), "dim: 2176, which follows"),
        (lambda c: c.update(name="../etc"), "name to be lower-case"),
    ],
)
def test_a_wrong_field_is_named(change: Any, message: str) -> None:
    content = yaml.safe_load(contracts.path("openvla-224").read_text())
    change(content)
    with pytest.raises(ContractError, match=rf"mine\.yaml is wrong: .*{message}") as excinfo:
        parse(yaml.safe_dump(content), "mine.yaml")
    assert "\n" not in str(excinfo.value)


@given(st.one_of(st.text(max_size=200), st.binary(max_size=200).map(repr)))
def test_any_other_text_is_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(ContractError, match=r"^The contract x\.yaml is ") as excinfo:
        parse(text, "x.yaml")
    assert "\n" not in str(excinfo.value)


def test_an_epsilon_without_a_dot_is_a_number() -> None:
    text = contracts.path("openvla-224").read_text().replace("1.0e-6", "1e-6")
    assert parse(text, "x.yaml") == contracts.get("openvla-224")  # YAML 1.1 reads a text


def test_a_checkpoint_that_keeps_the_contract_passes() -> None:
    check()


@pytest.mark.parametrize(
    ("field", "changes", "actual", "requirement"),
    [
        ("hidden_act", {"hidden_act": "gelu_pytorch_tanh"}, "'gelu_pytorch_tanh'", "'gelu'"),
        ("hidden_size", {"hidden_size": 768}, "768", "1152"),
        ("image_size", {"positions": 27}, "378", "224"),
        ("patch_size", {"patch_size": 16}, "16", "14"),
        ("num_hidden_layers", {"num_hidden_layers": 12}, "12", "27"),
        ("num_attention_heads", {"num_attention_heads": 12}, "12", "16"),
        ("layer_norm_eps", {"layer_norm_eps": 1e-5}, "1e-05", "1e-06"),
    ],
)
def test_the_siglip_field_that_differs_is_named(
    field: str, changes: dict[str, Any], actual: str, requirement: str
) -> None:
    sentence = (
        rf"contract openvla-224: vision_config\.{field} in siglip/config\.json is {actual}"
        rf" and must be {requirement};"
    )
    with pytest.raises(ContractError, match=sentence):
        check(siglip=replace(SIGLIP, **changes))


def test_a_stock_siglip_is_told_what_to_write() -> None:
    with pytest.raises(ContractError, match=r"exact GELU, so .* write 'gelu' there, or choose"):
        check(siglip=replace(SIGLIP, hidden_act="gelu_pytorch_tanh"))


@pytest.mark.parametrize(
    ("field", "value"), [("num_register_tokens", 0), ("patch_size", 16), ("hidden_size", 768)]
)
def test_the_dinov2_field_that_differs_is_named(field: str, value: Any) -> None:
    with pytest.raises(ContractError, match=f"{field} in dinov2/config.json is {value}"):
        check(dinov2=replace(DINOV2, **{field: value}))


def test_dinov2s_own_size_does_not_matter_and_unknown_facts_do_not_either() -> None:
    check(dinov2=replace(DINOV2, positions=37))
    check(siglip=replace(SIGLIP, hidden_act=None, num_attention_heads=None, layer_norm_eps=None))


def test_an_encoder_that_is_not_there_is_named() -> None:
    with pytest.raises(ContractError, match=r"no encoder dinov3 \(it has: dinov2, siglip\)"):
        check("siglip2-dinov3-256")


@pytest.mark.parametrize(
    ("policy", "field"),
    [
        (InputFacts("config.json", 384, "resize-naive"), "image_sizes in config.json is 384"),
        (
            InputFacts("config.json", 224, "letterbox"),
            "image_resize_strategy in config.json is 'letterbox' and must be 'resize-naive'",
        ),
    ],
)
def test_what_a_policy_says_of_its_input_counts(policy: InputFacts, field: str) -> None:
    with pytest.raises(ContractError, match=field):
        contracts.check(contracts.get("openvla-224"), {"siglip": SIGLIP, "dinov2": DINOV2}, policy)


def test_the_short_form_of_a_strategy_is_its_steps() -> None:
    content = yaml.safe_load(contracts.path("openvla-224-letterbox").read_text())
    _short_form(content, resize="letterbox", interpolation="bicubic")
    assert parse(yaml.safe_dump(content), "x.yaml") == contracts.get("openvla-224-letterbox")


def test_tokens_after_the_tap_have_their_grid_and_channels() -> None:
    smolvla, molmoact = contracts.get("smolvla-512"), contracts.get("molmoact-378")
    assert (smolvla.rows, smolvla.cols, smolvla.dim) == (8, 8, 16 * 768)
    assert (molmoact.rows, molmoact.dim) == (27, 2 * 1152)
    assert molmoact.encoders[0].taps == (-3, -9)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("openvla-oft-film-224", "FiLM layers scale and shift every block by the instruction"),
        ("gr00t-n1.7", "Qwen-VL"),
    ],
)
def test_what_no_contract_can_state_is_refused_with_the_reason(name: str, reason: str) -> None:
    with pytest.raises(ContractError, match=rf"no contract of '{name}': .*{reason}"):
        contracts.get(name)


def test_the_checkpoints_own_normalization_is_followed_where_the_contract_says_so() -> None:
    mean, std = (0.484375, 0.455078125, 0.40625), (0.228515625, 0.2236328125, 0.224609375)
    own = PixelFacts("preprocessor_config.json", {}, mean=mean, std=std)
    facts: dict[EncoderName, EncoderFacts] = {
        "dinov2": replace(DINOV2, pixels=own),
        "siglip": SIGLIP,
    }
    followed = contracts.with_own_normalization(contracts.get("openvla-224"), facts)
    assert followed.encoder("dinov2").mean == own.mean
    assert followed.encoder("dinov2").std == std
    stated = contracts.get("cogact-224")
    assert contracts.with_own_normalization(stated, facts) == stated


def test_preprocessing_holds_what_changes_tokens_and_no_prose() -> None:
    contract = contracts.get("tabletop")
    assert replace(contract, description="other").preprocessing() == contract.preprocessing()
    assert (
        replace(contract, pixels=strategy("letterbox", "bicubic")).preprocessing()
        != contract.preprocessing()
    )
    other_contract = replace(contract, encoders=contract.encoders[::-1])
    assert other_contract.preprocessing() != contract.preprocessing()
    other_weights = tuple(replace(encoder, weights="a/b") for encoder in contract.encoders)
    assert replace(contract, encoders=other_weights).preprocessing() == contract.preprocessing()


def test_the_page_on_contracts_lists_them_as_they_are() -> None:
    page = (Path(__file__).parents[2] / "docs/contracts.md").read_text()
    remainder = page.partition("<!-- contracts:begin -->\n")[2]
    page_table = remainder.partition("\n<!-- contracts:end")[0]
    assert page_table == table_text()


def test_the_command_prints_them(capsys: pytest.CaptureFixture[str]) -> None:
    from siglip_perception.commands import main

    assert main.main(["contracts"]) == 0
    assert "openvla-384" in capsys.readouterr().out
    assert main.main(["contracts", "pi0-224"]) == 0
    output = capsys.readouterr().out
    assert "last block, after the final norm" in output
    assert "openpi" in output
    assert main.main(["contracts", "openvla-224", "--yaml"]) == 0
    assert parse(capsys.readouterr().out, "x.yaml") == contracts.get("openvla-224")


def test_merges_that_double_with_every_line_are_refused_at_once() -> None:
    lines = ["a0: &a0 {x: 1, y: 2}"]
    lines += [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}" for i in range(1, 12)]
    with pytest.raises(ContractError, match=r"not valid YAML \(it merges more than 100 keys\)"):
        parse("\n".join(lines), "bomb.yaml")


def test_a_merge_in_a_contract_is_followed() -> None:
    text = contracts.path("tabletop").read_text()
    merged_text = text.replace("    registers: 4", "    <<: {registers: 4}")
    assert merged_text != text
    assert parse(merged_text, "merged") == parse(text, "plain")


def test_a_special_file_is_no_contract(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(ContractError, match="is no contract, for it is a named pipe"):
        contracts.get(str(tmp_path / "pipe.yaml"))


def test_a_contract_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes("name: caf\u00e9".encode("latin-1"))
    with pytest.raises(ContractError, match=r"latin\.yaml is not UTF-8 text: save it as UTF-8\."):
        contracts.get(str(tmp_path / "latin.yaml"))
