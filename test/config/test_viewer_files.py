"""Files in config/ that viewers open: they name topics that the node has."""

from __future__ import annotations

import json
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


# Panels of Foxglove, and the keys of their settings, as its SDK (0.30) and app write them.
_SCENE = {
    *("cameraState", "followTf", "followMode", "scene", "transforms", "topics", "layers"),
    *("publish", "synchronize", "fixedFrame"),
}
PANELS = {
    "Image": _SCENE | {"imageMode"},
    "3D": _SCENE,
    "Plot": {
        *("paths", "minXValue", "maxXValue", "minYValue", "maxYValue", "showLegend"),
        *("legendDisplay", "showPlotValuesInLegend", "showXAxisLabels", "showYAxisLabels"),
        *("isSynced", "xAxisVal", "sidebarDimension", "followingViewWidth"),
    },
    "RawMessages": {
        *("topicPath", "diffEnabled", "diffMethod", "diffTopicPath", "showFullMessageForDiff"),
    },
    "DiagnosticSummary": {
        *("topicToRender", "minLevel", "pinnedIds", "hardwareIdFilter", "sortByLevel"),
        "secondsUntilStale",
    },
}
IMAGE_MODE = {"imageTopic", "calibrationTopic", "annotations", "synchronize"}
SERIES = {"value", "label", "enabled", "timestampMethod", "color", "lineSize", "showLine"}
# A replay with images has these, too: its camera, and what is drawn over it.
REPLAYED = {"/image/compressed", "/siglip_perception/annotations", "/diagnostics"}


def panels_of(layout: Any) -> Iterator[str]:
    """The panels of a tree of splits, each once where it is placed."""
    if isinstance(layout, str):
        yield layout
        return
    assert set(layout) == {"direction", "first", "second", "splitPercentage"}
    assert layout["direction"] in ("row", "column")
    assert 0 < layout["splitPercentage"] < 100
    yield from panels_of(layout["first"])
    yield from panels_of(layout["second"])


def test_foxglove_knows_every_panel_and_setting_of_the_layout() -> None:
    layout = json.loads((ROOT / "config" / "foxglove_layout.json").read_text())
    assert set(layout) == {
        *("configById", "globalVariables", "userNodes", "playbackConfig", "layout"),
    }
    placed = list(panels_of(layout["layout"]))
    assert sorted(placed) == sorted(layout["configById"])
    assert len(set(placed)) == len(placed)
    for name, settings in layout["configById"].items():
        kind, _, number = name.partition("!")
        assert number
        assert set(settings) - {"foxglovePanelTitle"} <= PANELS[kind], name
        assert set(settings.get("imageMode", {})) <= IMAGE_MODE
        assert all(set(series) <= SERIES for series in settings.get("paths", []))


def test_foxglove_shows_topics_of_the_node_and_of_a_replay() -> None:
    layout = json.loads((ROOT / "config" / "foxglove_layout.json").read_text())
    text = json.dumps(layout)
    topics = {match.partition(".")[0] for match in re.findall(r'"(/[a-z_/]+[a-z.]*)', text)}
    own = {f"/siglip_perception/{name}" for name in OUTPUTS}
    assert {"/siglip_perception/objects", "/siglip_perception/markers"} <= topics
    assert topics - {"/siglip_perception"} <= own | REPLAYED
