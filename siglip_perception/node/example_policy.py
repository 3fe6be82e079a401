"""Minimal policy node: subscribes to tokens and objects and prints once a second what came.

Copy it to start your own: your policy goes into `on_tokens`.
"""

from __future__ import annotations

import sys
from contextlib import suppress

import rclpy
import torch
from rclpy.executors import ExternalShutdownException
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node
from siglip_perception_msgs.msg import GroundedObjectArray, TokenSequence

from siglip_perception.client import tokens_to_torch


class ExamplePolicy(Node):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__("example_policy")
        self.tokens = ""
        self.objects = "no objects yet"
        self.count = 0
        self.create_subscription(TokenSequence, "siglip_perception/tokens", self.on_tokens, 1)
        self.create_subscription(
            GroundedObjectArray, "siglip_perception/objects", self.on_objects, 1
        )
        self.create_timer(1.0, self.report)
        print("waiting for tokens", flush=True)

    def on_tokens(self, message: TokenSequence) -> None:
        # [rows * cols, dim]; compare message.contract with the contract of your policy
        tokens: torch.Tensor = tokens_to_torch(message)
        # action = policy(tokens, ...)
        self.count += 1
        self.tokens = f"{tokens.shape[0]} x {tokens.shape[1]} {message.contract} tokens"

    def on_objects(self, message: GroundedObjectArray) -> None:
        descriptions = [
            f"{item.phrase} {item.score:.2f} at ({item.box.x_offset}, {item.box.y_offset})"
            for item in message.objects
        ]
        self.objects = (
            f'"{message.instruction}": {", ".join(descriptions) or "nothing of it in view"}'
        )

    def report(self) -> None:
        if self.tokens:
            print(f"{self.count:2d} frames, {self.tokens}; {self.objects}", flush=True)
        self.count = 0


def main() -> int:
    try:
        rclpy.init()
        rclpy.spin(ExamplePolicy())
    except (KeyboardInterrupt, ExternalShutdownException):
        return 0
    finally:
        # On SIGINT rclpy shuts down by itself, sometimes at this very moment.
        with suppress(rclpy_implementation.RCLError):
            rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
