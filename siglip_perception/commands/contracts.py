"""`siglip-perception contracts`: list the packaged contracts, or print one in full."""

from __future__ import annotations

import argparse
import textwrap

from siglip_perception import contracts
from siglip_perception.contracts.contract import Contract, EncoderSpec


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `siglip-perception contracts`."""
    parser.add_argument("name", nargs="?", default="", metavar="NAME", help="name or .yaml file")
    parser.add_argument(
        "--table", action="store_true", help="print all as the table of docs/contracts.md"
    )
    parser.add_argument("--yaml", action="store_true", help="print NAME's file, to copy and adapt")


def run(args: argparse.Namespace) -> int:
    """Print a line for each contract, or one contract in full."""
    if args.table:
        print(table_text())
        return 0
    if not args.name:
        width = max(map(len, contracts.names()))
        for name in contracts.names():
            contract = contracts.get(name)
            shape = f"{contract.rows} x {contract.cols} x {contract.dim:<4}"
            encoders = " + ".join(map(_short, contract.encoders))
            print(f"{name:<{width}}  {shape}  {encoders}, {contract.resize}")
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
        cameras = ", cameras joined" if contract.join_cameras else ""
        shape = f"{contract.rows} x {contract.cols} x {contract.dim}"
        rows.append(
            f"| `{contract.name}` | {shape} | {encoders}"
            f" | {taps} | {contract.image_size} px, {contract.resize},"
            f" {contract.interpolation}{cameras} |"
        )
    return "\n".join(rows)


def tap(spec: EncoderSpec) -> str:
    """Describe an encoder's tap in words."""
    block = {-1: "last block", -2: "second-to-last block"}.get(spec.tap, f"block {spec.tap}")
    return f"{block}, {'after' if spec.norm else 'before'} the final norm"


def _short(spec: EncoderSpec) -> str:
    return f"{spec.name} {spec.dim}/{spec.patch} at {spec.image_size}"


def _full_text(contract: Contract) -> list[str]:
    lines = [
        f"{contract.name}: [{contract.rows * contract.cols}, {contract.dim}] tokens,"
        f" {contract.rows} rows x {contract.cols}, row-major from the top left",
        *_wrap("", contract.description),
        f"  resize        {contract.resize}, {contract.interpolation} with antialias (Pillow's)",
        "  channels      " + ", then ".join(f"{s.name} ({s.dim})" for s in contract.encoders),
        "  cameras       "
        + ("joined on the token axis" if contract.join_cameras else "a sequence each"),
    ]
    has_fill = contract.resize in ("letterbox", "resize-pad")
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
