"""The node as it comes, on its embedded model: the boxes sit on what the instruction names."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import simplejpeg
from diagnostic_msgs.msg import DiagnosticStatus
from peer import NODE, Peer, Start, compressed_image

from siglip_perception.scenes.scenes import render, sample_scene
from siglip_perception.scenes.vocabulary import Language
from siglip_perception.types import Box

SCENES = 10
# The scenes are always the same; four in five is what the embedded model promises.
ENOUGH = 8


@pytest.fixture(scope="module")
def peer(start: Start) -> Iterator[Peer]:
    with start(model="tabletop", image_transport="compressed") as (_, peer):
        peer.wait_status("node", DiagnosticStatus.OK, "active")
        yield peer


@pytest.mark.parametrize("language", ["en", "ko"])
def test_the_named_object_is_found(peer: Peer, language: Language) -> None:
    random = np.random.default_rng(20_000)
    result = 0
    for number in range(SCENES):
        scene = sample_scene(random, 3)
        picture_of_scene = render(scene)
        peer.say(f"{scene.objects[0].phrase(language)}.")
        jpeg = simplejpeg.encode_jpeg(picture_of_scene.image, quality=95)
        image = compressed_image(jpeg, 100.0 * (language == "ko") + number + 1)
        objects = peer.frame(image, "image/compressed", f"{NODE}/objects")
        rows, cols = np.nonzero(picture_of_scene.instances == 1)
        truth = Box(
            int(cols.min()),
            int(rows.min()),
            int(np.ptp(cols)) + 1,
            int(np.ptp(rows)) + 1,
        )
        if objects.objects:
            box = objects.objects[0].box
            found_box = Box(box.x_offset, box.y_offset, box.width, box.height)
            result += truth.iou(found_box) >= 0.5
    assert result >= ENOUGH
