"""The encodings of sensor_msgs/Image: the memory layout of each, and why some are refused.

The table in docs/encodings.md is printed by `python -m siglip_perception.images.encodings`.
"""

from __future__ import annotations

import difflib
import re
import sys
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import cv2

from siglip_perception.errors import ImageError


@dataclass(frozen=True)
class Encoding:
    """Memory layout of one encoding.

    channels: samples per pixel; depth: bytes per sample.
    code: OpenCV's conversion to RGB; None where the samples are RGB already.
    layout: `packed`; `even`: packed, two pixels share their color; `bayer`: a mosaic;
        `half_planes`: a luma plane above a chroma plane of half its height and width;
        `full_planes`: the chroma plane at full size, so its rows are twice as long.
    meaning: description of a pixel, for the table in the docs.
    """

    channels: int
    code: int | None
    meaning: str
    depth: Literal[1, 2] = 1
    layout: Literal["packed", "even", "bayer", "half_planes", "full_planes"] = "packed"

    @property
    def is_gray16(self) -> bool:
        return self.depth == 2 and self.channels == 1 and self.layout == "packed"

    @property
    def rows(self) -> Fraction:
        """Rows of `step` bytes in the data for each row of the image."""
        return {"half_planes": Fraction(3, 2), "full_planes": Fraction(3)}.get(
            self.layout, Fraction(1)
        )


def _bayer(depth: Literal[1, 2]) -> dict[str, Encoding]:
    # OpenCV names a mosaic by the second row and column, ROS by the first: ROS's rggb is OpenCV's
    # "BG", and so on.
    codes = {
        "rggb": cv2.COLOR_BayerBG2RGB,
        "bggr": cv2.COLOR_BayerRG2RGB,
        "gbrg": cv2.COLOR_BayerGR2RGB,
        "grbg": cv2.COLOR_BayerGB2RGB,
    }
    return {
        f"bayer_{name}{8 * depth}": Encoding(1, code, "a Bayer mosaic", depth, "bayer")
        for name, code in codes.items()
    }


_UYVY = Encoding(2, cv2.COLOR_YUV2RGB_UYVY, "YUV 4:2:2, limited range, U first", layout="even")
_YUYV = Encoding(2, cv2.COLOR_YUV2RGB_YUY2, "YUV 4:2:2, limited range, Y first", layout="even")
_GRAY = Encoding(1, cv2.COLOR_GRAY2RGB, "gray")
_GRAY16 = Encoding(1, cv2.COLOR_GRAY2RGB, "gray; needs mono16_white", 2)
_AS_OPENCV = "taken as OpenCV stores it: "

ENCODINGS: dict[str, Encoding] = {
    "rgb8": Encoding(3, None, "RGB"),
    "rgba8": Encoding(4, cv2.COLOR_RGBA2RGB, "RGB, alpha dropped"),
    "rgb16": Encoding(3, None, "RGB, 65535 is white", 2),
    "rgba16": Encoding(4, cv2.COLOR_RGBA2RGB, "RGB, 65535 is white, alpha dropped", 2),
    "bgr8": Encoding(3, cv2.COLOR_BGR2RGB, "BGR"),
    "bgra8": Encoding(4, cv2.COLOR_BGRA2RGB, "BGR, alpha dropped"),
    "bgr16": Encoding(3, cv2.COLOR_BGR2RGB, "BGR, 65535 is white", 2),
    "bgra16": Encoding(4, cv2.COLOR_BGRA2RGB, "BGR, 65535 is white, alpha dropped", 2),
    "mono8": _GRAY,
    "mono16": _GRAY16,
    "8UC1": _GRAY,
    "8UC3": Encoding(3, cv2.COLOR_BGR2RGB, f"{_AS_OPENCV}BGR"),
    "8UC4": Encoding(4, cv2.COLOR_BGRA2RGB, f"{_AS_OPENCV}BGR, alpha dropped"),
    "16UC1": _GRAY16,
    "16UC3": Encoding(3, cv2.COLOR_BGR2RGB, f"{_AS_OPENCV}BGR, 65535 is white", 2),
    "16UC4": Encoding(4, cv2.COLOR_BGRA2RGB, f"{_AS_OPENCV}BGR, 65535 is white, alpha dropped", 2),
    **_bayer(1),
    **_bayer(2),
    "uyvy": _UYVY,
    "yuv422": _UYVY,
    "yuyv": _YUYV,
    "yuv422_yuy2": _YUYV,
    "nv12": Encoding(
        1, cv2.COLOR_YUV2RGB_NV12, "YUV 4:2:0, limited range, U first", layout="half_planes"
    ),
    "nv21": Encoding(
        1, cv2.COLOR_YUV2RGB_NV21, "YUV 4:2:0, limited range, V first", layout="half_planes"
    ),
    "nv24": Encoding(
        1, cv2.COLOR_YUV2RGB_UYVY, "YUV 4:4:4, limited range, U first", layout="full_planes"
    ),
}

# Every name in sensor_msgs/image_encodings.hpp, in its order.
ROS_ENCODINGS = (
    *("rgb8", "rgba8", "rgb16", "rgba16", "bgr8", "bgra8", "bgr16", "bgra16", "mono8", "mono16"),
    *(
        f"{kind}C{channels}"
        for kind in ("8U", "8S", "16U", "16S", "32S", "32F", "64F")
        for channels in range(1, 5)
    ),
    *(
        f"bayer_{pattern}{bits}"
        for bits in (8, 16)
        for pattern in ("rggb", "bggr", "gbrg", "grbg")
    ),
    *("uyvy", "yuv422", "yuyv", "yuv422_yuy2", "nv21", "nv24"),
)

_NUMERIC = re.compile(r"(8|16|32|64)([USF])C(\d*)")
_BAYER = re.compile(r"bayer_([rgb]{4})(?:8|16)")
_GENICAM = re.compile(r"bayer([rgb]{2})(8|1[0246])")
_GENICAM_PATTERNS = {"rg": "rggb", "bg": "bggr", "gb": "gbrg", "gr": "grbg"}
# Other names that drivers and libraries use, in lower case without punctuation.
_OTHER_NAMES = {
    **dict.fromkeys(("rgb", "rgb24", "rgb888", "rgb8packed", "r8g8b8", "srgb"), "rgb8"),
    **dict.fromkeys(("bgr", "bgr24", "bgr888", "bgr8packed", "b8g8r8"), "bgr8"),
    **dict.fromkeys(("rgba", "rgba32", "rgba8888"), "rgba8"),
    **dict.fromkeys(("bgra", "bgra32", "bgra8888", "argb"), "bgra8"),
    **dict.fromkeys(("gray", "grey", "gray8", "grey8", "y8", "l8", "mono", "8u"), "mono8"),
    **dict.fromkeys(("gray16", "gray16", "y16", "l16", "mono10", "mono12", "mono14"), "mono16"),
    **dict.fromkeys(("yuy2", "yuv422yuyv", "yuyv422", "yuv422yuy2packed"), "yuyv"),
    **dict.fromkeys(("yuv422packed", "yuv422uyvy", "uyvy422", "ycbcr4228", "yuv4228"), "uyvy"),
}
_OTHER_YUV = (
    *("i420", "yuv420", "yuv420p", "yv12", "yuv422p", "yuv444", "yuv444p", "yvyu", "vyuy"),
    *("nv16", "nv61", "nv42", "p010", "p016"),
)
_FILES = ("jpeg", "jpg", "mjpeg", "mjpg", "png", "webp", "tiff")
_VIDEO = ("h264", "h265", "hevc", "av1", "vp8", "vp9", "theora", "ffmpeg")


def quote(text: str) -> str:
    """Quote text from a message for an error: printable, at most 40 characters."""
    return ascii(text if len(text) <= 40 else f"{text[:37]}...")


def refused_encoding(encoding: str) -> ImageError:
    """Make the ImageError that says why an encoding is refused, and what to send instead."""
    return ImageError("encoding", f"the image's encoding {quote(encoding)} {_refusal(encoding)}")


def bayer_pattern(text: str) -> str:
    """Find the 8-bit Bayer encoding in text such as "bayer_rggb16"; "" if there is none."""
    pattern = _BAYER.search(text.lower())
    name = f"bayer_{pattern[1]}8" if pattern else ""
    return name if name in ENCODINGS else ""


def _refusal(encoding: str) -> str:
    numeric = _NUMERIC.fullmatch(encoding)
    if numeric:
        if numeric[2] != "U" or numeric[1] in ("32", "64"):
            depth = ", and depth on the topic depth" if numeric[3] == "1" else ""
            return (
                "holds signed or floating-point numbers of no known brightness; send rgb8, bgr8 "
                f"or mono8{depth}."
            )
        return (
            f"has {numeric[3] or 'no number of'} channels, which are no colors; send rgb8, bgr8 "
            "or mono8."
        )
    plain = re.sub(r"[^a-z0-9]", "", encoding[:64].lower())
    if plain in _FILES:
        return (
            "is a file format; send the file as a sensor_msgs/CompressedImage, or the image as "
            "rgb8."
        )
    if plain in _OTHER_YUV:
        return "is not one of sensor_msgs; send uyvy, yuyv, nv12, nv21, nv24 or rgb8."
    if plain in _VIDEO:
        return "is a video stream, not single images; send rgb8, bgr8 or mono8, or JPEG files."
    nearest = _nearest(plain)
    advice = f"did you mean {nearest}? Send" if nearest else "send"
    return f"is not supported; {advice} one of {', '.join(ENCODINGS)}."


def _nearest(plain: str) -> str:
    """Guess the encoding that a misspelled name means; "" if none is close."""
    names = {re.sub(r"[^a-z0-9]", "", name.lower()): name for name in ENCODINGS} | _OTHER_NAMES
    genicam = _GENICAM.fullmatch(plain)
    if genicam and genicam[1] in _GENICAM_PATTERNS:
        return f"bayer_{_GENICAM_PATTERNS[genicam[1]]}{8 if genicam[2] == '8' else 16}"
    near = difflib.get_close_matches(plain, names, n=1, cutoff=0.8)
    return names.get(plain) or (names[near[0]] if near else "")


def table_text() -> str:
    """Build the Markdown table: every encoding of sensor_msgs, then the other accepted ones."""
    lines = ["| encoding | taken | |", "|---|---|---|"]
    for name in (*ROS_ENCODINGS, *(n for n in ENCODINGS if n not in ROS_ENCODINGS)):
        kind = ENCODINGS.get(name)
        answer, text = ("yes", kind.meaning) if kind else ("no", _refusal(name).rstrip("."))
        lines.append(f"| `{name}` | {answer} | {text} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(table_text() + "\n")
