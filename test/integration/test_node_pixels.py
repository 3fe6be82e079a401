"""Images that differ from the policy's training set, told by the real node."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from peer import Start, raw_image

from siglip_perception.images.fingerprint import FIELDS, pixel_fingerprint
from siglip_perception.images.pixel_reference import PixelReference

OK, WARN = DiagnosticStatus.OK, DiagnosticStatus.WARN


def test_swapped_channels_and_a_band_are_told_before_a_policy_moves(
    start: Start, picture: np.ndarray[Any, Any], tmp_path: Path
) -> None:
    file = tmp_path / "reference.json"
    PixelReference.of([pixel_fingerprint(picture)] * 8).write(file, "the policy's pictures")
    with start(pixel_reference=file) as (_, peer):
        peer.wait_status("node", OK, "active")
        for second in range(3):
            tokens = peer.frame(raw_image(picture, 100.0 + second))
        assert len(tokens.pixel_fingerprint) == len(FIELDS)
        np.testing.assert_allclose(tokens.pixel_fingerprint, pixel_fingerprint(picture))
        peer.wait(
            lambda: peer.values("camera").get("pixels") == "as in the training set", "comparison"
        )
        faulty = picture[:, :, ::-1].copy()
        faulty[:40] = 0
        for second in range(6):
            peer.frame(raw_image(faulty, 110.0 + second))
        faults = ("channels look swapped", "a black band that training did not have")
        # One may be sure of itself a frame before the other.
        peer.wait(
            lambda: all(fault in peer.values("camera").get("pixels", "") for fault in faults),
            "both faults",
        )
        assert all(fault in peer.wait_status("camera", WARN).message for fault in faults)
