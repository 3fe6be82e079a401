"""Parameters are declared once; generated files in the repository are up to date."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from siglip_perception import config
from siglip_perception.config import BY_NAME, PARAMETERS, Settings
from siglip_perception.parameter import Change, ConfigError

ROOT = Path(__file__).resolve().parents[2]


def test_the_defaults_are_valid_and_round_trip() -> None:
    assert Settings.of({}) == Settings()
    assert Settings.of(Settings().values()) == Settings()
    assert [parameter.name for parameter in PARAMETERS] == list(Settings().values())


def test_dots_in_names() -> None:
    assert Settings.of({"tokens.dtype": "bfloat16"}).tokens_dtype == "bfloat16"
    assert Settings.of({"tokens.dtype": "float16"}).values()["tokens.dtype"] == "float16"


def test_an_int_is_taken_for_a_double() -> None:
    threshold = Settings.of({"threshold": 1}).threshold
    assert threshold == 1.0
    assert isinstance(threshold, float)


def test_the_default_threshold_is_each_languages_own_and_any_other_goes_before_it() -> None:
    assert Settings().score_threshold is None
    assert Settings.of({"threshold": -1}).score_threshold is None
    assert Settings.of({"threshold": 0.5}).score_threshold == 0.5
    assert Settings.of({"threshold": 0}).score_threshold == 0.0


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("threshold", 1.5, "0 to 1, or -1"),
        ("threshold", -0.5, "0 to 1, or -1"),
        ("threshold", float("nan"), "0 to 1"),
        ("threshold", "high", "double"),
        ("threshold", True, "double"),
        ("max_objects", 0, "1 to 255"),
        ("max_objects", 3.0, "int"),
        ("publish_mask", 1, "bool"),
        ("backend", "tpu", "torch"),
        ("model", 5, "string"),
        ("model", None, "string"),
        ("cameras", "front", "string"),
        ("cameras", ["front", 3], "string"),
        ("cameras", ["front", "front"], "once"),
        ("cameras", ["../etc"], "letters"),
        ("cameras", ["2nd"], "letters"),
        ("cameras", [f"c{i}" for i in range(17)], "16"),
        ("no_such", 1, "no_such"),
        ("model\n" * 50, 1, "no parameter"),
    ],
)
def test_wrong_values_are_refused_in_one_sentence(name: str, value: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)) as excinfo:
        Settings.of({name: value})
    text = str(excinfo.value)
    assert text.isprintable()
    assert text.endswith(".")
    assert len(text) < 250


@given(
    st.dictionaries(
        st.sampled_from([parameter.name for parameter in PARAMETERS]) | st.text(max_size=5),
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text(max_size=12)
        | st.lists(st.text(max_size=5) | st.integers(), max_size=4),
        max_size=4,
    )
)
def test_whatever_is_set_is_refused_or_of_the_right_type(values: dict[str, Any]) -> None:
    try:
        settings = Settings.of(values)
    except ConfigError:
        return
    for name, value in settings.values().items():
        assert type(value) is type(BY_NAME[name].default)


def test_cameras() -> None:
    assert Settings.of({"cameras": []}).cameras == ("",)
    assert Settings.of({"cameras": [""]}).cameras == ("",)
    assert Settings.of({"cameras": ["front", "", "wrist"]}).cameras == ("front", "wrist")


def test_what_belongs_to_the_model_is_set_only_while_unconfigured() -> None:
    at_once = {parameter.name for parameter in PARAMETERS if parameter.change is Change.ANY_TIME}
    assert {"threshold", "max_objects", "publish_mask"} <= at_once
    assert not at_once & {"model", "contract", "backend", "device", "precision", "tokens.dtype"}


def test_the_yaml_file_is_the_one_made_from_the_parameters() -> None:
    text = (ROOT / "config" / "siglip_perception.yaml").read_text(encoding="utf-8")
    assert text == config.yaml_text()
    values = yaml.safe_load(text)["/**"]["ros__parameters"]
    assert Settings.of(values) == Settings()
    assert list(values) == [parameter.name for parameter in PARAMETERS]


def test_the_readme_has_the_table_made_from_the_parameters() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text.split("<!-- parameters:begin -->")[1].split("<!-- parameters:end -->")[0]
    assert table.strip() == config.table_text()


def test_every_default_is_within_its_own_limits() -> None:
    for parameter in PARAMETERS:
        assert parameter.check(parameter.default) == parameter.default
        assert parameter.description.endswith(".")


def test_the_generator_prints_or_says_how_it_is_used(capsys: pytest.CaptureFixture[str]) -> None:
    assert config.main(["yaml"]) == 0
    assert capsys.readouterr().out == config.yaml_text()
    assert config.main(["table"]) == 0
    assert capsys.readouterr().out == config.table_text() + "\n"
    assert config.main([]) == 2
    assert "usage" in capsys.readouterr().err


def test_launch_has_an_argument_for_each_parameter_that_is_no_other_one() -> None:
    arguments = config.launch_arguments()
    names = {parameter.name for parameter in arguments.values()}
    assert names == set(BY_NAME) - {"autostart"}
    assert arguments["tracking_enabled"].name == "tracking.enabled"
    assert arguments["initial_instruction"].name == "instruction"
    # What launch files call their topics and themselves.
    assert not {"image", "instruction", "depth", "camera_info", "namespace"} & set(arguments)
    assert all(re.fullmatch("[a-z0-9_]+", name) for name in arguments)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("model", "tabletop", "tabletop"),
        ("instruction", "123", "123"),
        ("threshold", "0.25", 0.25),
        ("threshold", "1", 1.0),
        ("max_objects", "7", 7),
        ("tracking.enabled", "True", True),
        ("cameras", "front", ("front",)),
        ("cameras", "[front, 'wrist']", ("front", "wrist")),
        ("phrases", "red cup,빨간 컵", ("red cup", "빨간 컵")),
    ],
)
def test_a_parameter_is_read_from_a_command_line(name: str, text: str, value: Any) -> None:
    assert BY_NAME[name].from_text(text) == value


@pytest.mark.parametrize(
    ("name", "text"),
    [("threshold", "2"), ("threshold", "nan"), ("max_objects", "7.5"), ("publish_mask", "yes")],
)
def test_a_text_that_is_no_such_value_is_refused(name: str, text: str) -> None:
    with pytest.raises(ConfigError, match=name):
        BY_NAME[name].from_text(text)
