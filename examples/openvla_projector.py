"""Feed the node's tokens into an OpenVLA-style projector: [256, 2176] -> [256, 4096].

With the node running on the contract openvla-224 (source your ROS 2, or .venv/ros.sh):

    python examples/openvla_projector.py --checkpoint ~/openvla-7b --fingerprint 4f0c12ab34cd

or on the tokens of one image, without ROS:

    siglip-perception tokens frame.png --model ~/openvla-7b --contract openvla-224 -o tokens.npz
    python examples/openvla_projector.py --checkpoint ~/openvla-7b --npz tokens.npz

The projector is OpenVLA's (openvla/openvla, prismatic/extern/hf/modeling_prismatic.py): three
linear layers with exact GELU between them. Without --checkpoint its weights are random, which
shows shapes and nothing more. It takes any contract: its width is the tokens'.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor, nn

from siglip_perception.errors import PerceptionError
from siglip_perception.util import ros


class Projector(nn.Module):
    """Tokens [N, dim] -> the language model's embeddings [N, llm_dim]."""

    def __init__(self, dim: int, llm_dim: int = 4096) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, llm_dim)
        self.fc3 = nn.Linear(llm_dim, llm_dim)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = nn.functional.gelu(self.fc1(tokens))
        hidden = nn.functional.gelu(self.fc2(hidden))
        projected: Tensor = self.fc3(hidden)
        return projected


def projector(dim: int, checkpoint: Path | None) -> Projector:
    """Load a projector with the policy's weights, and only these, from its shards."""
    if checkpoint is None:
        return Projector(dim).eval()
    index = json.loads((checkpoint / "model.safetensors.index.json").read_text())["weight_map"]
    state = {}
    for name, file in index.items():
        if name.startswith("projector."):
            with safe_open(checkpoint / file, framework="pt") as shard:
                state[name.removeprefix("projector.")] = shard.get_tensor(name).float()
    model = Projector(dim, state["fc3.weight"].shape[0])
    model.load_state_dict(state)
    return model.eval()


@torch.inference_mode()
def project(model: Projector, tokens: Tensor) -> Tensor:
    """Return the embeddings that the policy's language model reads in place of the image."""
    embeddings: Tensor = model(tokens.float())
    return embeddings


def from_npz(path: Path, checkpoint: Path | None) -> None:
    arrays = np.load(path)
    tokens = torch.from_numpy(arrays["tokens"])
    embeddings = project(projector(tokens.shape[1], checkpoint), tokens)
    print(f"{arrays['contract']}: {list(tokens.shape)} -> {list(embeddings.shape)}")


def from_node(contract: str, fingerprint: str, checkpoint: Path | None, frames: int) -> None:
    ros.require("Without --npz this example")
    import rclpy
    from siglip_perception_msgs.msg import TokenSequence

    from siglip_perception.client import expect, tokens_to_torch

    check = expect(contract=contract, fingerprint=fingerprint)
    projectors: list[Projector] = []
    frame_count = 0

    def on_tokens(message: Any) -> None:
        nonlocal frame_count
        tokens = tokens_to_torch(check(message))  # raises at the first message that does not fit
        if not projectors:
            projectors.append(projector(tokens.shape[1], checkpoint))
        embeddings = project(projectors[0], tokens)
        frame_count += 1
        print(f"{message.contract}: {list(tokens.shape)} -> {list(embeddings.shape)}", flush=True)

    rclpy.init()
    node = rclpy.create_node("openvla_projector")
    node.create_subscription(TokenSequence, "siglip_perception/tokens", on_tokens, 1)
    try:
        while frame_count < frames or not frames:
            rclpy.spin_once(node)
    finally:
        rclpy.try_shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, help="the policy's folder, as openvla-7b")
    parser.add_argument("--contract", default="openvla-224")
    parser.add_argument("--fingerprint", default="", help="of the tokens that are expected")
    parser.add_argument("--npz", type=Path, help="tokens of one image, in place of the node's")
    parser.add_argument("--frames", type=int, default=0, help="stop after so many (0: go on)")
    args = parser.parse_args()
    try:
        if args.npz:
            from_npz(args.npz, args.checkpoint)
        else:
            from_node(args.contract, args.fingerprint, args.checkpoint, args.frames)
    except PerceptionError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
