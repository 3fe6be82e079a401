"""Files in config/ that viewers open: they name topics that the node has."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
# The node's topics as the README lists them.
OUTPUTS = set(
    re.findall(r"^\| `~/([a-z0-9_/]+)` \| `\w+/\w+`", (ROOT / "README.md").read_text(), re.M)
)


def values(content: Any, key: str) -> Iterator[Any]:
    """Every value of this key, however deep."""
    if isinstance(content, dict):
        for name, value in content.items():
            if name == key:
                yield value
            yield from values(value, key)
    elif isinstance(content, list):
        for value in content:
            yield from values(value, key)


def test_rviz_shows_topics_of_the_node() -> None:
    text = (ROOT / "config" / "siglip_perception.rviz").read_text()
    topics = {topic["Value"] for topic in values(yaml.safe_load(text), "Topic")}
    assert topics == {"/siglip_perception/overlay", "/siglip_perception/markers"}
    assert {topic.removeprefix("/siglip_perception/") for topic in topics} <= OUTPUTS
