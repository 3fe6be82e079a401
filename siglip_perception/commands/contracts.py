"""`siglip-perception contracts`: list the packaged contracts, or print one in full."""

from __future__ import annotations

import argparse
import textwrap

from siglip_perception import contracts
from siglip_perception.contracts.contract import Contract, EncoderSpec
from siglip_perception.contracts.steps import (
    Jpeg,
    Pad,
    ResizeStep,
    Shuffle,
    Step,
    TokenStep,
    block_side,
    host_steps,
)
from siglip_perception.errors import PerceptionError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `siglip-perception contracts`."""
    parser.add_argument("name", nargs="?", default="", metavar="NAME", help="name or .yaml file")
    parser.add_argument(
        "--table", action="store_true", help="print all as the table of docs/contracts.md"
    )
    parser.add_argument("--yaml", action="store_true", help="print NAME's file, to copy and adapt")
    parser.add_argument(
        "--check",
        metavar="NAME",
        help="compare NAME's pixels with its policy's own code; all: every contract that has some",
    )
    parser.add_argument(
        "--model", default="", metavar="FOLDER", help="with --check: compare its tokens, too"
    )
    parser.add_argument(
        "--tokens",
        action="store_true",
        help="with --check: compare tokens of random weights at real size, too (minutes)",
    )


def run(args: argparse.Namespace) -> int:
    """Print a line for each contract, or one contract in full."""
    if args.check:
        from siglip_perception.commands.contract_check import check

        return check(args.check, args.model, args.tokens, args.table)
    if args.table:
        print(table_text())
        return 0
    if args.model or args.tokens:
        raise PerceptionError(
            "--model and --tokens need --check NAME: name the contract to check."
        )
    if not args.name:
        width = max(map(len, contracts.names()))
        for name in contracts.names():
            contract = contracts.get(name)
            shape = f"{_grid(contract)} x {contract.dim:<4}"
            encoders = " + ".join(map(_short, contract.encoders))
            print(f"{name:<{width}}  {shape}  {encoders}, {_pixels(contract)}")
        return 0
    contract = contracts.get(args.name)
    if args.yaml:
        print(contracts.path(args.name).read_text(encoding="utf-8"), end="")
    else:
        print("\n".join(_full_text(contract)))
    return 0


def table_text() -> str:
    """Return the Markdown table of docs/contracts.md, without a final newline."""
    rows = [
        "| contract | tokens | encoders, in the order of their channels | tap | image |",
        "|---|---|---|---|---|",
    ]
    for contract in map(contracts.get, contracts.names()):
        encoders = ", ".join(f"`{s.name}` {s.dim}" for s in contract.encoders)
        taps = " / ".join(dict.fromkeys(map(tap, contract.encoders)))
        cameras = f", then up to {contract.crops.most} crops" if contract.crops else ""
        cameras += ", cameras joined" if contract.join_cameras else ""
        cameras += f", {contract.history} frames joined" if contract.history > 1 else ""
        shape = f"{_grid(contract)} x {contract.dim}"
        rows.append(
            f"| `{contract.name}` | {shape} | {encoders}"
            f" | {taps} | {contract.image_size} px, {_pixels(contract)}{cameras} |"
        )
    return "\n".join(rows)


def tap(spec: EncoderSpec) -> str:
    """Describe an encoder's taps in words."""
    names = {-1: "last block", -2: "second-to-last block"}
    block = " and ".join(names.get(block, f"block {block}") for block in spec.taps)
    return f"{block}, {'after' if spec.norm else 'before'} the final norm"


def describe(step: Step) -> str:
    """Describe a pixel step in words."""
    if isinstance(step, Jpeg):
        skip = ", unless the image has the encoder's size" if step.unless_sized else ""
        return f"JPEG of quality {step.quality}, {step.chroma}, and back{skip}"
    if isinstance(step, ResizeStep):
        size = f"{step.size} px" if step.size else "the encoder's size"
        if step.to == "multiple":
            size = f"the nearest multiple of {step.multiple} px"
        target = {
            "square": "both sides",
            "short side": "the shorter side",
            "fit": "the longer side",
            "multiple": "each side",
        }
        antialias = "with antialias" if step.antialias else "without antialias"
        result = "float32" if step.rounding == "none" else f"rounded {step.rounding}"
        return (
            f"resize {target[step.to]} to {size}: {step.arithmetic}'s {step.filter} {antialias},"
            f" {result}"
        )
    if isinstance(step, Pad):
        size = "a square" if step.to == "square" else "the encoder's size"
        fill = "the encoder's fill" if step.fill is None else str(step.fill)
        return f"pad to {size} with {fill}, the image {step.place}"
    if step.to != "share":
        return f"crop the center to {'a square' if step.to == 'square' else 'the encoder size'}"
    share = f"{step.area:g} of its area" if step.area else f"{step.side:g} of each side"
    back = (
        ", sampled back to its size as TensorFlow does" if step.arithmetic == "tensorflow" else ""
    )
    return f"crop the center to {share}{back}"


def describe_tokens(step: TokenStep) -> str:
    """Describe a step from the patches to the tokens in words."""
    side = block_side(step)
    kind = "joined on the channels" if isinstance(step, Shuffle) else "averaged"
    return f"each {side} x {side} patches {kind}"


def _grid(contract: Contract) -> str:
    return "image's grid" if contract.has_free_grid else f"{contract.rows} x {contract.cols}"


def _rows(contract: Contract) -> str:
    if contract.has_free_grid:
        return "as many rows and columns as the image's size asks for"
    return f"{contract.rows} rows x {contract.cols}"


def where(contract: Contract) -> str:
    """Say where the pixel steps run if the encoders are on a GPU."""
    libraries = host_steps(contract.pixels)
    if libraries:
        return f"on the host, for {' and '.join(libraries)}; a GPU is sent the square"
    if contract.crops:
        return "crops are cut on the host; the rest is in a GPU's graph, where there is one"
    return "in a GPU's graph, where there is one; the camera's image is uploaded once"


def _pixels(contract: Contract) -> str:
    """Describe the pixel steps in a few words."""
    if contract.strategy:
        return ", ".join(contract.strategy)
    return " > ".join(_brief(step) for step in contract.pixels)


def _brief(step: Step) -> str:
    if isinstance(step, Jpeg):
        return f"JPEG {step.quality}"
    if isinstance(step, ResizeStep):
        sides = {"square": "", "short side": "short side, ", "fit": "fit, "}.get(
            step.to, f"multiple of {step.multiple}, "
        )
        antialias = "" if step.antialias else " without antialias"
        return f"{sides}{step.arithmetic} {step.filter}{antialias}"
    if isinstance(step, Pad):
        return f"pad ({step.place})"
    if step.to != "share":
        return f"crop to {step.to}"
    return f"crop {step.area or step.side:g} of the {'area' if step.area else 'side'}"


def _short(spec: EncoderSpec) -> str:
    return f"{spec.name} {spec.dim}/{spec.patch} at {spec.image_size}"


def _full_text(contract: Contract) -> list[str]:
    lines = [
        f"{contract.name}: [{contract.rows * contract.cols or 'N'}, {contract.dim}] tokens,"
        f" {_rows(contract)}, row-major from the top left",
        *_wrap("", contract.description),
        *(
            f"  {'' if index else 'pixels':<14}{index + 1}. {describe(step)}"
            for index, step in enumerate(contract.pixels)
        ),
        f"  run           {where(contract)}",
        *(
            f"  crops         up to {crops.most} behind the whole image, each with its own"
            f" {contract.rows} rows; neighbors overlap by {2 * crops.margin} patches"
            for crops in ([contract.crops] if contract.crops else [])
        ),
        "  channels      " + ", then ".join(f"{s.name} ({s.dim})" for s in contract.encoders),
        *(f"  tokens        {describe_tokens(step)}" for step in contract.tokens),
        "  cameras       "
        + ("joined on the token axis" if contract.join_cameras else "a sequence each")
        + (f", the last {contract.history} frames joined" * (contract.history > 1)),
    ]
    has_fill = any(isinstance(step, Pad) and step.fill is None for step in contract.pixels)
    if contract.policy:
        lines.append(f"  policy        {contract.policy}")
    for spec in contract.encoders:
        lines.append(f"  {spec.name}")
        rows = (
            ("input", f"{spec.image_size} x {spec.image_size}, RGB in [0, 1]"),
            ("mean, std", f"{list(spec.mean)}, {list(spec.std)}"),
            ("fill", str(list(spec.fill)) if has_fill else ""),
            ("patch", f"{spec.patch}, registers {spec.registers}"),
            ("tap", tap(spec)),
            ("blocks, heads", f"{_or_checkpoint(spec.layers)}, {_or_checkpoint(spec.heads)}"),
            (
                "activation",
                f"{_or_checkpoint(spec.hidden_act)}, LayerNorm eps {spec.layer_norm_eps:g}",
            ),
            ("weights", spec.weights),
            ("timm", spec.timm),
        )
        lines += [f"    {name:<14}{value}" for name, value in rows if value]
    return [*lines, *_wrap("source: ", contract.source)]


def _or_checkpoint(value: object) -> str:
    return str(value or "the checkpoint's")


def _wrap(head: str, text: str) -> list[str]:
    return textwrap.wrap(
        head + text, 96, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False
    )
