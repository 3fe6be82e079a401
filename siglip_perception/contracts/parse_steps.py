"""Parsing of a contract's pixel steps, with a check of their order and of the size they end at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, get_args

from siglip_perception.contracts.readers import (
    FieldError,
    build,
    flag,
    integer,
    number,
    one_of,
    triple,
)
from siglip_perception.contracts.steps import (
    NAMES,
    TOKEN_NAMES,
    Arithmetic,
    Chroma,
    Crop,
    Filter,
    Jpeg,
    Pad,
    Place,
    Pool,
    ResizeStep,
    Rounding,
    Shuffle,
    Step,
    Steps,
    Target,
    TokenSteps,
    block_side,
    is_free,
    place,
)
from siglip_perception.util.suggest import did_you_mean

_MAX_STEPS = 12
# Filters of each library, and whether each can be had with antialiasing and without.
_FILTERS: Mapping[str, Mapping[str, tuple[bool, ...]]] = {
    "pillow": dict.fromkeys(("bilinear", "bicubic", "lanczos3", "area"), (True,)),
    "tensorflow": {"bilinear": (True, False), "bicubic": (True,), "lanczos3": (True, False)},
    "jax": dict.fromkeys(("bilinear", "bicubic", "lanczos3"), (True, False)),
    "torch": {"bilinear": (True, False), "bicubic": (True, False), "area": (True,)},
    "opencv": {"bilinear": (False,), "bicubic": (False,), "area": (True,)},
}
_OWN_ROUNDING = ("pillow", "opencv")
# Images to try the steps on: wide, tall, square, tiny, and one of an odd size.
_SIZES = ((640, 480), (480, 640), (1920, 1080), (97, 133), (8, 8), (512, 512))


def _fill(value: Any) -> Any:
    if value == "mean":
        return value
    try:
        return triple(integer(0, 255))(value)
    except FieldError as error:
        raise FieldError(f'"mean", or {error}') from None


_READERS: Mapping[type[Any], Mapping[str, Callable[[Any], Any]]] = {
    Jpeg: {
        "quality": integer(1, 100),
        "chroma": one_of(get_args(Chroma)),
        "dct": one_of(("fast", "accurate")),
        "unless_sized": flag,
    },
    ResizeStep: {
        "filter": one_of(get_args(Filter)),
        "arithmetic": one_of(get_args(Arithmetic)),
        "to": one_of(get_args(Target)),
        "size": integer(1, 4096),
        "antialias": flag,
        "ratio": one_of(("divide", "multiply")),
        "sides": one_of(("down", "nearest")),
        "multiple": integer(2, 1024),
        "rounding": one_of(get_args(Rounding)),
    },
    Pad: {
        "to": one_of(("square", "size")),
        "place": one_of(get_args(Place)),
        "fill": _fill,
    },
    Shuffle: {"factor": integer(2, 16), "order": one_of(("patch", "channel"))},
    Pool: {"size": integer(2, 64)},
    Crop: {
        "to": one_of(("square", "size", "share")),
        "side": number(0.01, 1.0),
        "area": number(0.0001, 1.0),
        "offset": one_of(("half even", "down")),
        "arithmetic": one_of(("pixels", "tensorflow")),
        "rounding": one_of(get_args(Rounding)),
    },
}


def pixel_steps(value: Any) -> Steps:
    """Read the list of steps; each is a mapping of its name to its fields."""
    if isinstance(value, tuple):  # the steps of a strategy
        return value
    steps: list[Step] = []
    for where, entry in _entries(value, "pixels", NAMES):
        step: Step = _step(entry, where, NAMES)
        fault = _fault(step, tuple(steps))
        if fault:
            raise FieldError(f"{where} {fault}")
        steps.append(step)
    return tuple(steps)


def token_steps(value: Any) -> TokenSteps:
    """Read the list of steps from the tapped patches to the tokens."""
    return tuple(
        _step(entry, where, TOKEN_NAMES) for where, entry in _entries(value, "tokens", TOKEN_NAMES)
    )


def grid_fault(steps: TokenSteps, grid: int) -> str:
    """Say which step does not divide the grid that it gets; empty if all do."""
    for index, step in enumerate(steps):
        side = block_side(step)
        if grid % side:
            return f"tokens[{index}] to divide its {grid} x {grid} patches, and {side} does not"
        grid //= side
    return ""


def _entries(value: Any, field: str, names: Mapping[str, type[Any]]) -> Iterator[tuple[str, Any]]:
    """Yield each entry of a list of steps with its place."""
    if not isinstance(value, list) or not 1 <= len(value) <= _MAX_STEPS:
        raise FieldError(f"{field} to be a list of 1 to {_MAX_STEPS} steps ({', '.join(names)})")
    for index, entry in enumerate(value):
        yield f"{field}[{index}]", entry


def _step(entry: Any, where: str, names: Mapping[str, type[Any]]) -> Any:
    if isinstance(entry, str):  # a step with no fields, such as "jpeg"
        entry = {entry: None}
    if not isinstance(entry, dict) or len(entry) != 1:
        raise FieldError(f"{where} to be one step, as in `resize: {{filter: bicubic}}`")
    [(name, fields)] = entry.items()
    if name not in names:
        raise FieldError(
            f"{where} to be one of the steps {', '.join(names)}, and {ascii(name)[:60]} is none"
            + did_you_mean(str(name), names)
        )
    kind = names[name]
    content = {} if fields is None else fields
    return build(kind, _READERS[kind], content, f"{where}.{name}")


def _fault(step: Step, before: Steps) -> str:
    """Describe what is wrong with a step at its place; empty if nothing is."""
    if any(isinstance(earlier, ResizeStep) and earlier.to == "multiple" for earlier in before):
        return "before the resize to a multiple, which is the last step"
    if isinstance(step, ResizeStep):
        if bool(step.multiple) != (step.to == "multiple"):
            return "to have a multiple with `to: multiple` and only there"
        kinds = _FILTERS[step.arithmetic]
        if step.filter not in kinds:
            return f"to have a filter of {step.arithmetic}'s ({', '.join(kinds)})"
        if step.antialias not in kinds[step.filter]:
            never = "never antialiases" if step.antialias else "always antialiases"
            return (
                f"to have antialias: {str(not step.antialias).lower()}, as {step.arithmetic}'s"
                f" {step.filter} {never}"
            )
        if step.arithmetic in _OWN_ROUNDING and step.rounding != "half up":
            return f"to have no rounding: {step.arithmetic} rounds half up by itself"
    if isinstance(step, Crop):
        shares = [value for value in (step.side, step.area) if value]
        if len(shares) != (step.to == "share"):
            return "to have side or area, one of them, with `to: share` and only there"
        if step.arithmetic == "tensorflow" and step.to != "share":
            return "to have `to: share` with tensorflow's arithmetic"
    is_float = any(
        isinstance(earlier, (ResizeStep, Crop)) and earlier.rounding == "none"
        for earlier in before
    )
    takes_bytes = isinstance(step, Jpeg) or (
        isinstance(step, ResizeStep) and step.arithmetic in _OWN_ROUNDING
    )
    if is_float and takes_bytes:
        return "before the step with `rounding: none`: it takes whole levels, uint8"
    return ""


def size_fault(steps: Steps, side: int) -> str:
    """Say at which size the steps end instead of the encoder's; empty if they end there."""
    for width, height in _SIZES:
        size = width, height
        for index, step in enumerate(steps):
            new_size = place(step, *size, side).size
            grows = [new > old for new, old in zip(new_size, size, strict=True)]
            shrinks = [new < old for new, old in zip(new_size, size, strict=True)]
            wrong = (isinstance(step, Crop) and any(grows)) or (
                isinstance(step, Pad) and any(shrinks)
            )
            if wrong:
                return (
                    f"{side} x {side}, and pixels[{index}] gets an image of {size[0]} x {size[1]}"
                    f" from one of {width} x {height}, too {'small' if any(grows) else 'large'}"
                    " for it: put it after a resize"
                )
            size = new_size
        if size != (side, side) and not is_free(steps):
            return (
                f"{side} x {side}, and a {width} x {height} image ends at {size[0]} x {size[1]}:"
                " add a resize, a pad or a crop"
            )
    return ""
