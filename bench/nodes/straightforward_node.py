"""A ROS 2 node as most people write one: a callback that runs Hugging Face models.

The baseline of bench/message_to_message.py. It publishes the same messages as the real node, from
the same weights, with none of the real node's work on speed: transformers' models in float32, the
image processor and the phrases' text tower in every callback, one thread, the middleware's queue.
Its objects are connected parts of SigLIP's patches that resemble a phrase. It checks neither
encodings nor stamps.

    python bench/nodes/straightforward_node.py MODEL --cameras front wrist --phrases "red cup"
"""

from __future__ import annotations

import argparse
import array
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer, SiglipImageProcessorPil

# A phrase's patches: those above this share of its best one.
_SHARE = 0.5


class Models:
    """Both encoders of a model folder, by transformers."""

    def __init__(self, folder: Path, phrases: Sequence[str]) -> None:
        self._siglip: Any = _load(folder / "siglip")
        self._dino: Any = _load(folder / "dinov2")
        self._tokenizer: Any = AutoTokenizer.from_pretrained(
            folder / "siglip", local_files_only=True
        )
        self._phrases = list(phrases)
        vision = self._siglip.config.vision_config
        side = {"height": vision.image_size, "width": vision.image_size}
        self._for_siglip: Any = SiglipImageProcessorPil(size=side, resample=3)
        self._for_dino: Any = SiglipImageProcessorPil(
            size=side,
            resample=3,
            image_mean=[0.485, 0.456, 0.406],
            image_std=[0.229, 0.224, 0.225],
        )
        self._registers = int(getattr(self._dino.config, "num_register_tokens", 0))
        self.grid = int(vision.image_size // vision.patch_size)

    @torch.inference_mode()
    def __call__(self, image: Any) -> tuple[Any, list[tuple[str, float, Any]]]:
        """Return tokens float32 [N, D], and (phrase, score, box) of each object; image: RGB."""
        siglip_pixels = self._for_siglip(image, return_tensors="pt")["pixel_values"]
        dino_pixels = self._for_dino(image, return_tensors="pt")["pixel_values"]
        dino = self._dino(dino_pixels, output_hidden_states=True).hidden_states[-2]
        vision = self._siglip.vision_model(siglip_pixels, output_hidden_states=True)
        patches = dino[:, 1 + self._registers :]
        tokens = torch.cat([patches, vision.hidden_states[-2]], dim=-1)[0].numpy()
        if not self._phrases:
            return tokens, []
        # At most as many ids as the text tower has places.
        length = self._siglip.config.text_config.max_position_embeddings
        ids = self._tokenizer(
            self._phrases,
            padding="max_length",
            truncation=True,
            max_length=length,
            return_tensors="pt",
        )["input_ids"]
        text = self._siglip.text_model(ids).pooler_output
        similarity = torch.nn.functional.normalize(
            vision.last_hidden_state[0], dim=-1
        ) @ torch.nn.functional.normalize(text, dim=-1).transpose(0, 1)
        logits = similarity * self._siglip.logit_scale.exp() + self._siglip.logit_bias
        objects = []
        for phrase, scores in zip(self._phrases, logits.sigmoid().T, strict=True):
            height, width = image.shape[:2]
            map_ = cv2.resize(scores.reshape(self.grid, self.grid).numpy(), (width, height))
            parts = cv2.connectedComponentsWithStats((map_ > _SHARE * map_.max()).astype(np.uint8))
            largest = max(range(1, parts[0]), key=lambda part: parts[2][part][4], default=0)
            objects.append((phrase, float(scores.max()), parts[2][largest][:4]))
        return tokens, objects


def _load(folder: Path) -> Any:
    return AutoModel.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()


def run(folder: Path, cameras: Sequence[str], phrases: Sequence[str], transport: str) -> None:
    """Subscribe to the cameras and publish until the process is ended."""
    import rclpy
    from sensor_msgs.msg import CompressedImage, Image, RegionOfInterest
    from siglip_perception_msgs.msg import GroundedObject, GroundedObjectArray, TokenSequence

    models = Models(folder, phrases)
    rclpy.init()
    node = rclpy.create_node("siglip_perception")

    def callback(message: Any, tokens_publisher: Any, objects_publisher: Any) -> None:
        if transport == "compressed":
            data = np.frombuffer(message.data, np.uint8)
            image: Any = cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)  # type: ignore[arg-type]
        else:
            shape = message.height, message.width, 3
            image = np.frombuffer(message.data, np.uint8).reshape(shape)
        tokens, objects = models(image)
        sequence = TokenSequence(header=message.header, rows=models.grid, cols=models.grid)
        sequence.dim = tokens.shape[1]
        # Not a numpy array, which rclpy checks byte by byte for 40 ms.
        sequence.data = array.array("B", tokens.tobytes())
        tokens_publisher.publish(sequence)
        if phrases:
            result = GroundedObjectArray(header=message.header, phrases=list(phrases))
            for phrase, score, (x, y, width, height) in objects:
                box = RegionOfInterest(x_offset=int(x), y_offset=int(y))
                box.width, box.height = int(width), int(height)
                result.objects.append(GroundedObject(phrase=phrase, score=score, box=box))
            objects_publisher.publish(result)

    for camera in cameras or [""]:
        under, inner = (f"~/{camera}/", f"{camera}/") if camera else ("~/", "")
        publishers = (
            node.create_publisher(TokenSequence, f"{under}tokens", 10),
            node.create_publisher(GroundedObjectArray, f"{under}objects", 10),
        )
        publish = functools.partial(
            callback, tokens_publisher=publishers[0], objects_publisher=publishers[1]
        )
        kind = CompressedImage if transport == "compressed" else Image
        topic = f"{inner}image/compressed" if transport == "compressed" else f"{inner}image"
        node.create_subscription(kind, topic, publish, rclpy.qos.qos_profile_sensor_data)
    rclpy.spin(node)


def main() -> None:
    """Run the node with the command's options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "model", type=Path, metavar="MODEL", help="folder with siglip/ and dinov2/"
    )
    parser.add_argument("--cameras", nargs="*", default=[])
    parser.add_argument("--phrases", nargs="*", default=[])
    parser.add_argument("--transport", choices=("raw", "compressed"), default="raw")
    options = parser.parse_args()
    run(options.model, options.cameras, options.phrases, options.transport)


if __name__ == "__main__":
    main()
