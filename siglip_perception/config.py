"""Declarations of the node's parameters: the fields of ModelSelection and Settings.

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
from dataclasses import dataclass, field, fields, replace
from typing import Any

from siglip_perception.parameter import Change, ConfigError, Parameter, Value, format_value
from siglip_perception.types import BACKENDS, PRECISIONS, TokenDtype

# Limits of the topic `instruction`, in language/instruction.py.
MAX_INSTRUCTION_BYTES, MAX_PHRASES = 1024, 32
MAX_CAMERAS = 16
CALIBRATED = -1.0
"""Value of `threshold` that stands for each language's own, measured by `calibrate`."""
# Default topic of the instructions in a bag.
INSTRUCTION_TOPIC = "/instruction"
_CAMERA_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


def _parameter(default: Value, description: str, *, name: str = "", **options: Any) -> Any:
    return field(default=default, metadata={"name": name, "description": description, **options})


@dataclass(frozen=True)
class ModelSelection:
    """The model, how images are fed to it, and what runs it.

    The node, the commands and the Python API all load a model by this. ModelSelection.of() checks
    the values; the constructor does not.
    """

    model: str = _parameter(
        "tabletop",
        "Weights: name of a packaged or fetched model, or a folder: siglip/ and dinov2/ in it, or"
        " a policy's own checkpoint.",
        change=Change.UNCONFIGURED,
    )
    contract: str = _parameter(
        "",
        "Token contract, by name or as a .yaml file; empty: the one that the model keeps.",
        change=Change.UNCONFIGURED,
    )
    backend: str = _parameter(
        "auto",
        "Runtime of the encoders; auto: the fastest that is proven here (docs/backends.md).",
        choices=("auto", *BACKENDS),
        change=Change.UNCONFIGURED,
    )
    device: str = _parameter(
        "auto",
        "Device of the encoders; auto: a GPU if there is one.",
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
    grounding_model: str = _parameter(
        "",
        "Model that finds objects: a whole SigLIP, with or without a DINO encoder, if the tokens' "
        "SigLIP is a policy's and no longer aligned with language; empty: the tokens' model.",
        name="grounding.model",
        change=Change.UNCONFIGURED,
    )
    grounding_contract: str = _parameter(
        "",
        "Contract by which frames are fed to grounding.model; empty: the one that it keeps.",
        name="grounding.contract",
        change=Change.UNCONFIGURED,
    )

    @classmethod
    def of(cls, **values: Any) -> ModelSelection:
        """Make a selection from fields; the others keep their defaults.

        Raises ConfigError, one sentence, for a value of the wrong type or out of range.
        """
        return cls(**{name: check_field(name, value) for name, value in values.items()})


@dataclass(frozen=True)
class Settings:
    """Values of all parameters. Settings.of() checks them; the constructor does not."""

    selection: ModelSelection = ModelSelection()
    grounding_rate: float = _parameter(
        0.0,
        "Rate per camera at which objects are looked for, while someone subscribes; 0: in every "
        "frame.",
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
        CALIBRATED,
        "Minimum score of an object, a probability of its own; -1: for each language the one that"
        " siglip-perception calibrate measured, 0.5 where it measured none.",
        minimum=0.0,
        maximum=1.0,
        special=CALIBRATED,
    )
    max_objects: int = _parameter(
        20, "Maximum number of objects in a message.", minimum=1, maximum=255
    )
    windows: int = _parameter(
        1,
        "Overlapping windows along each side of the image in which objects are looked for, too: 2"
        " finds smaller things, and costs four more passes of the encoders per frame.",
        minimum=1,
        maximum=2,
    )
    publish_mask: bool = _parameter(False, "Add a mask of the objects to ~/objects.")
    instruction: str = _parameter(
        "",
        "Initial instruction; one that arrives on the topic replaces it.",
        max_bytes=MAX_INSTRUCTION_BYTES,
        change=Change.UNCONFIGURED,
    )
    phrases: tuple[str, ...] = _parameter(
        ("",),
        "Phrases to look for, verbatim, instead of an instruction's; empty: none.",
        max_bytes=MAX_INSTRUCTION_BYTES,
        max_items=MAX_PHRASES,
    )
    cameras: tuple[str, ...] = _parameter(
        ("",),
        "Names of the cameras, each on <name>/image; one empty name: a single camera, on image.",
        change=Change.UNCONFIGURED,
    )
    image_transport: str = _parameter(
        "raw",
        "Type of the images: sensor_msgs/Image (raw), or CompressedImage on image/compressed.",
        choices=("raw", "compressed"),
        change=Change.UNCONFIGURED,
    )
    image_reliability: str = _parameter(
        "best_effort",
        "QoS of the image subscriptions: best_effort matches every publisher; reliable recovers "
        "lost images but matches reliable publishers only.",
        choices=("best_effort", "reliable"),
        change=Change.START,
    )
    load_timeout: float = _parameter(
        300.0,
        "Time after which loading the model, in configure, is given up; 0: no limit.",
        unit="s",
        minimum=0.0,
        maximum=86400.0,
        change=Change.UNCONFIGURED,
    )
    max_age: float = _parameter(
        0.0,
        "Age at which a frame is dropped, on arrival or when its turn comes; 0: no limit.",
        unit="s",
        minimum=0.0,
        maximum=3600.0,
    )
    max_pixels: int = _parameter(
        4096 * 2176,
        "Maximum size of an image, and work to decode it, as that of a JPEG of this size; more is"
        " refused before it is decoded.",
        unit="pixels",
        minimum=1,
        maximum=2**28,
    )
    mono16_white: int = _parameter(
        0,
        "Value of white in 16-bit gray images (mono16, 16UC1); 0: they are refused.",
        minimum=0,
        maximum=65535,
    )
    pixel_reference: str = _parameter(
        "",
        "File by `siglip-perception fingerprint` of the policy's training set, from which the"
        " images must not differ; empty: they are not compared.",
        change=Change.UNCONFIGURED,
    )
    expected_rate: float = _parameter(
        0.0,
        "Frame rate per camera, by which a silent camera is detected; 0: learned.",
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
        "Give objects an id that is stable across frames, and smooth their scores.",
        name="tracking.enabled",
    )
    tracking_max_lost: float = _parameter(
        0.3,
        "Time for which a tracked object that is not found is kept, marked as lost.",
        name="tracking.max_lost",
        unit="s",
        minimum=0.0,
        maximum=10.0,
    )
    tracking_smoothing: float = _parameter(
        0.2,
        "Time constant that smooths a tracked object's score; 0: no smoothing.",
        name="tracking.smoothing",
        unit="s",
        minimum=0.0,
        maximum=10.0,
    )
    depth_enabled: bool = _parameter(
        False,
        "Locate objects with a registered depth image, on depth and camera_info.",
        name="depth.enabled",
        change=Change.UNCONFIGURED,
    )
    depth_tolerance: float = _parameter(
        0.05,
        "Maximum difference in time between a depth image and its color image.",
        name="depth.tolerance",
        unit="s",
        minimum=0.0,
        maximum=10.0,
    )
    autostart: bool = _parameter(
        True,
        "Configure and activate the node at the start.",
        change=Change.START,
    )

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Settings:
        """Make Settings from parameters' names and values; the others keep their defaults.

        Raises ConfigError, one sentence, for an unknown name, or a value of the wrong type or out
        of range.
        """
        unknown = sorted(set(values) - set(BY_NAME))
        if unknown:
            raise ConfigError(f"there is no parameter {format_value(unknown[0])}.")
        by_field: dict[str, Any] = {
            field_name(name): BY_NAME[name].check(value) for name, value in values.items()
        }
        if "cameras" in by_field:
            by_field["cameras"] = _cameras(by_field["cameras"])
        selection = {name: by_field.pop(name) for name in SELECTION_FIELDS if name in by_field}
        return cls(ModelSelection(**selection), **by_field)

    @property
    def score_threshold(self) -> float | None:
        """Minimum score of an object; None: each language's own."""
        return None if self.threshold == CALIBRATED else self.threshold

    def values(self) -> dict[str, Value]:
        """Return every parameter's name and value, such that Settings.of() restores this."""
        by_field = {**vars(self.selection), **vars(self)}
        return {name: by_field[field_name(name)] for name in BY_NAME}


def field_name(name: str) -> str:
    """Return the field of Settings for a parameter's name."""
    return name.replace(".", "_")


def _parameters() -> tuple[Parameter, ...]:
    parameters = []
    for item in (*fields(ModelSelection), *fields(Settings)):
        if item.name == "selection":
            continue
        options: dict[str, Any] = {"default": item.default, **item.metadata}
        options["name"] = options["name"] or item.name
        parameters.append(Parameter(**options))
    return tuple(parameters)


SELECTION_FIELDS = tuple(item.name for item in fields(ModelSelection))
PARAMETERS = _parameters()
BY_NAME: Mapping[str, Parameter] = {parameter.name: parameter for parameter in PARAMETERS}
_BY_FIELD = {
    field_name(parameter.name): replace(parameter, name=field_name(parameter.name))
    for parameter in PARAMETERS
}


def check_field(name: str, value: Any) -> Any:
    """Return a field's value as its parameter's type.

    Raises ConfigError, which names the field, for a wrong type or a value out of range.
    """
    return _BY_FIELD[name].check(value)


# Parameters that have a launch argument of their own.
_NOT_LAUNCHED = ("autostart",)


def launch_arguments() -> dict[str, Parameter]:
    """Map the launch files' arguments to the parameters that they set: tracking.enabled is
    tracking_enabled. `instruction` is the topic's name there, and the parameter's text
    initial_instruction."""
    names = {"instruction": "initial_instruction"}
    return {
        names.get(parameter.name, field_name(parameter.name)): parameter
        for parameter in PARAMETERS
        if parameter.name not in _NOT_LAUNCHED
    }


def launch_description(parameter: Parameter) -> str:
    """Describe a launch argument; launch itself lists choices."""
    limits = "" if parameter.choices else f"{parameter.constraint} {parameter.unit}".strip()
    note = f" {limits[0].upper()}{limits[1:]}." if limits else ""
    return f"{parameter.description}{note} Not given: as in params_file."


def _cameras(names: tuple[str, ...]) -> tuple[str, ...]:
    """Check the camera names; ("",) for a single camera without a name."""
    present = tuple(name for name in names if name)
    for name in present:
        if not _CAMERA_NAME.fullmatch(name):
            raise ConfigError(
                f"cameras has the name {format_value(name)}; a name is letters, digits and"
                " underscores, a letter first."
            )
    if len(set(present)) < len(present) or len(present) > MAX_CAMERAS:
        raise ConfigError(f"cameras must be at most {MAX_CAMERAS} names, each of them once.")
    return present or ("",)


def _literal(value: Value) -> str:
    """Format a value as YAML (and JSON)."""
    return json.dumps(list(value) if isinstance(value, tuple) else value)


def yaml_text() -> str:
    """Make config/siglip_perception.yaml: every parameter with its default, explained."""
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
    """Make the README's table of parameters, in Markdown, without a newline at the end."""
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
    """Print `yaml` or `table`; return the exit code."""
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
