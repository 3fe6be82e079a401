"""Every parameter of the node, declared once: the fields of Settings.

The ROS descriptors, config/siglip_perception.yaml and the README's table are made from them:

    python -m siglip_perception.config yaml > config/siglip_perception.yaml
    python -m siglip_perception.config table
"""

from __future__ import annotations

import json
import re
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from siglip_perception.parameter import Change, ConfigError, Parameter, Value, shown
from siglip_perception.types import BACKENDS, PRECISIONS, TokenDtype

MAX_CAMERAS = 16
# Where a bag has its instructions, unless another topic is named.
INSTRUCTION_TOPIC = "/instruction"
_CAMERA_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


def _parameter(default: Value, description: str, *, name: str = "", **more: Any) -> Any:
    return field(default=default, metadata={"name": name, "description": description, **more})


@dataclass(frozen=True)
class Settings:
    """The values of all parameters. Settings.of() checks them; the constructor does not."""

    model: str = _parameter(
        "tabletop",
        "Weights: the name of a packaged or a fetched model, or a folder of one: siglip/ and "
        "dinov2/ in it, or a policy's own checkpoint.",
        change=Change.UNCONFIGURED,
    )
    contract: str = _parameter(
        "",
        "Token contract to keep, by name or as a .yaml file; empty: the one that the model keeps.",
        change=Change.UNCONFIGURED,
    )
    backend: str = _parameter(
        "auto",
        "What runs the encoders; auto: the fastest that is proven here (docs/backends.md).",
        choices=("auto", *BACKENDS),
        change=Change.UNCONFIGURED,
    )
    device: str = _parameter(
        "auto",
        "Where they run; auto: a GPU if there is one.",
        choices=("auto", "cpu", "cuda"),
        change=Change.UNCONFIGURED,
    )
    precision: str = _parameter(
        "auto",
        "Arithmetic of the encoders' products; auto: bf16 on a GPU and on a CPU that is measured"
        " to be faster in it, else fp32.",
        choices=("auto", *PRECISIONS),
        change=Change.UNCONFIGURED,
    )
    allow_download: bool = _parameter(
        False,
        "Whether the node may fetch weights; it never does, so true is refused: "
        "`siglip-perception fetch` does.",
        change=Change.UNCONFIGURED,
    )
    grounding_model: str = _parameter(
        "",
        "Model that objects are found with: a whole SigLIP, with or without a DINO encoder, where "
        "the tokens' own is a policy's and no longer aligned with language; empty: the tokens'.",
        name="grounding.model",
        change=Change.UNCONFIGURED,
    )
    grounding_contract: str = _parameter(
        "",
        "How frames are fed to grounding.model; empty: the contract that it keeps.",
        name="grounding.contract",
        change=Change.UNCONFIGURED,
    )
    grounding_rate: float = _parameter(
        0.0,
        "Frames a second of each camera in which objects are looked for; 0: in all. Nobody "
        "listening to objects: in none.",
        name="grounding.rate",
        unit="Hz",
        minimum=0.0,
        maximum=1000.0,
    )
    tokens_dtype: TokenDtype = _parameter(  # noqa: RUF009 - it makes a dataclasses.field()
        "float32",
        "Element type of ~/tokens.",
        name="tokens.dtype",
        choices=("float32", "float16", "bfloat16"),
        change=Change.UNCONFIGURED,
    )
    threshold: float = _parameter(
        0.5, "Least score of an object, SigLIP's own probability.", minimum=0.0, maximum=1.0
    )
    max_objects: int = _parameter(20, "Most objects in one message.", minimum=1, maximum=255)
    publish_mask: bool = _parameter(False, "Whether ~/objects carries its objects' mask.")
    instruction: str = _parameter(
        "",
        "Instruction at the start; one that arrives on the topic takes its place.",
        change=Change.UNCONFIGURED,
    )
    phrases: tuple[str, ...] = _parameter(
        ("",),
        "Phrases to look for as they are, in place of an instruction's; empty: none.",
    )
    cameras: tuple[str, ...] = _parameter(
        ("",),
        "Names of the cameras, each on <name>/image; one empty name: a single one, on image.",
        change=Change.UNCONFIGURED,
    )
    image_transport: str = _parameter(
        "raw",
        "Whether images come as sensor_msgs/Image (raw) or CompressedImage, on image/compressed.",
        choices=("raw", "compressed"),
        change=Change.UNCONFIGURED,
    )
    image_reliability: str = _parameter(
        "best_effort",
        "QoS of the image subscriptions: best_effort hears every publisher, reliable asks again "
        "for what was lost but hears reliable publishers only.",
        choices=("best_effort", "reliable"),
        change=Change.START,
    )
    max_age: float = _parameter(
        0.0,
        "A frame older than this on arrival, or when its turn comes, is dropped; 0: no limit.",
        unit="s",
        minimum=0.0,
        maximum=3600.0,
    )
    max_pixels: int = _parameter(
        7680 * 4320,
        "An image with more pixels is refused before it is decoded.",
        unit="pixels",
        minimum=1,
        maximum=2**28,
    )
    mono16_white: int = _parameter(
        0,
        "The value of 16-bit gray images (mono16, 16UC1) that is white; 0: they are refused.",
        minimum=0,
        maximum=65535,
    )
    expected_rate: float = _parameter(
        0.0,
        "Frames a second of each camera, by which a silent one is told; 0: learned from it.",
        unit="Hz",
        minimum=0.0,
        maximum=1000.0,
    )
    overlay_quality: int = _parameter(
        80,
        "JPEG quality of ~/overlay/compressed.",
        name="overlay.quality",
        minimum=1,
        maximum=100,
    )
    tracking_enabled: bool = _parameter(
        False,
        "Whether objects keep an id across frames, with smoothed scores.",
        name="tracking.enabled",
    )
    tracking_max_lost: float = _parameter(
        0.3,
        "How long a tracked object that is not found is kept, marked as lost.",
        name="tracking.max_lost",
        unit="s",
        minimum=0.0,
        maximum=10.0,
    )
    tracking_smoothing: float = _parameter(
        0.2,
        "Time constant of a tracked object's averaged score; 0: as it is found.",
        name="tracking.smoothing",
        unit="s",
        minimum=0.0,
        maximum=10.0,
    )
    depth_enabled: bool = _parameter(
        False,
        "Whether objects get a position from a registered depth image, on depth and camera_info.",
        name="depth.enabled",
        change=Change.UNCONFIGURED,
    )
    depth_tolerance: float = _parameter(
        0.05,
        "How far in time a depth image may lie from its color image.",
        name="depth.tolerance",
        unit="s",
        minimum=0.0,
        maximum=10.0,
    )
    autostart: bool = _parameter(
        True,
        "Whether the node configures and activates itself at the start.",
        change=Change.START,
    )

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Settings:
        """Settings out of parameters' names and values; one that is not named keeps its default.

        Raises ConfigError, one sentence, for an unknown name or a value out of type or range.
        """
        unknown = sorted(set(values) - set(BY_NAME))
        if unknown:
            raise ConfigError(f"there is no parameter {shown(unknown[0])}.")
        checked: dict[str, Any] = {
            field_name(name): BY_NAME[name].check(value) for name, value in values.items()
        }
        if "cameras" in checked:
            checked["cameras"] = _cameras(checked["cameras"])
        if checked.get("allow_download"):
            raise ConfigError(
                "allow_download is true, but the node never uses the network; run "
                "`siglip-perception fetch MODEL` and name what it fetched in the parameter model."
            )
        return cls(**checked)

    def values(self) -> dict[str, Value]:
        """Every parameter's name and value; Settings.of() of it is equal to this."""
        return {name: getattr(self, field_name(name)) for name in BY_NAME}


def field_name(name: str) -> str:
    """The field of Settings that holds the parameter of this name."""
    return name.replace(".", "_")


def _declared() -> tuple[Parameter, ...]:
    found = []
    for item in fields(Settings):
        declared: dict[str, Any] = {"default": item.default, **item.metadata}
        declared["name"] = declared["name"] or item.name
        found.append(Parameter(**declared))
    return tuple(found)


PARAMETERS = _declared()
BY_NAME: Mapping[str, Parameter] = {parameter.name: parameter for parameter in PARAMETERS}


def _cameras(names: tuple[str, ...]) -> tuple[str, ...]:
    """Camera names, checked; ("",) where there is a single camera without a name."""
    given = tuple(name for name in names if name)
    for name in given:
        if not _CAMERA_NAME.fullmatch(name):
            raise ConfigError(
                f"cameras has the name {shown(name)}; a name is letters, digits and underscores, "
                "a letter first."
            )
    if len(set(given)) < len(given) or len(given) > MAX_CAMERAS:
        raise ConfigError(f"cameras must be at most {MAX_CAMERAS} names, each of them once.")
    return given or ("",)


def _literal(value: Value) -> str:
    """A value as YAML (and JSON) writes it."""
    return json.dumps(list(value) if isinstance(value, tuple) else value)


def yaml_text() -> str:
    """config/siglip_perception.yaml: every parameter with its default, explained."""
    lines = [
        "# Every parameter of the node with its default. Copy this file, change what you need and",
        "# start the node with it: ros2 launch siglip_perception perception.launch.py "
        "params_file:=<copy>",
        "# Made from siglip_perception/config.py by `python -m siglip_perception.config yaml`.",
        "",
        "/**:",
        "  ros__parameters:",
    ]
    for parameter in PARAMETERS:
        limits = f"{parameter.constraint} {parameter.unit}".strip()
        when = f"can be set {parameter.change.value}"
        for note in (parameter.description, f"{limits}; {when}" if limits else when):
            lines += textwrap.wrap(note, 95, initial_indent="    # ", subsequent_indent="    # ")
        lines += [f"    {parameter.name}: {_literal(parameter.default)}", ""]
    return "\n".join(lines[:-1]) + "\n"


def table_text() -> str:
    """The README's table of parameters, in Markdown, without a line end after it."""
    rows = ["| parameter | type | default | range | can be set | what it does |"]
    rows.append("|---|---|---|---|---|---|")
    for parameter in PARAMETERS:
        limits = f"{parameter.constraint.removeprefix('one of ')} {parameter.unit}".strip()
        cells = (
            f"`{parameter.name}`",
            parameter.type,
            f"`{_literal(parameter.default)}`",
            limits,
            parameter.change.value,
            parameter.description.replace("<", "\\<"),
        )
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def main(arguments: Sequence[str]) -> int:
    """`yaml` or `table`: prints it. Returns the exit code."""
    if list(arguments) == ["yaml"]:
        sys.stdout.write(yaml_text())
    elif list(arguments) == ["table"]:
        sys.stdout.write(table_text() + "\n")
    else:
        print("usage: python -m siglip_perception.config yaml | table", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
