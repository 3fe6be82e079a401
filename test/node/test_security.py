"""SROS 2: the policy lists what the node uses; without keys an enforced node does not start."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast
from xml.etree import ElementTree

import pytest
import rclpy
from doubles import FakePipeline
from rclpy.context import Context
from rclpy.parameter import Parameter
from watching import isolated

from siglip_perception.node.executor import NodeExecutor
from siglip_perception.node.node import PerceptionNode

POLICY = Path(__file__).parents[2] / "config" / "sros2_policy.xml"
# Of the schema of policies, version 0.2.0: element -> its attributes and the elements in it.
SCHEMA: dict[str, tuple[set[str], set[str]]] = {
    "policy": ({"version"}, {"enclaves"}),
    "enclaves": (set(), {"enclave"}),
    "enclave": ({"path"}, {"profiles"}),
    "profiles": (set(), {"profile"}),
    "profile": ({"ns", "node"}, {"topics", "services", "actions"}),
    "topics": ({"publish", "subscribe"}, {"topic"}),
    "services": ({"request", "reply"}, {"service"}),
    "topic": (set(), set()),
    "service": (set(), set()),
}
# Listed because other options or installations use them.
OPTIONAL = {"/image/compressed", "/clock", "/siglip_perception/detections"}


def test_the_policy_keeps_to_the_schema() -> None:
    root = ElementTree.parse(POLICY).getroot()
    assert (root.tag, root.get("version")) == ("policy", "0.2.0")
    for element in root.iter():
        attributes, children = SCHEMA[element.tag]
        assert set(element.attrib) <= attributes
        assert {child.tag for child in element} <= children
        if element.tag in ("topics", "services"):
            assert len(element.attrib) == 1
            assert set(element.attrib.values()) == {"ALLOW"}
        if element.tag in ("topic", "service"):
            assert element.text is not None
            assert element.text.startswith("/")


def allowed(kind: str, use: str) -> set[str]:
    enclave = (
        ElementTree.parse(POLICY).getroot().find("enclaves/enclave[@path='/siglip_perception']")
    )
    assert enclave is not None
    return {str(item.text) for item in enclave.findall(f".//{kind}[@{use}='ALLOW']/*")}


@pytest.fixture
def node(tmp_path: Path) -> Iterator[PerceptionNode]:
    context = Context()
    rclpy.init(context=context, domain_id=int(isolated(tmp_path)["ROS_DOMAIN_ID"]))
    overrides = {"autostart": False, "depth.enabled": True}
    node = PerceptionNode(
        lambda sentence: None,
        cast("Any", lambda settings: FakePipeline()),
        context=context,
        parameter_overrides=[Parameter(name, value=value) for name, value in overrides.items()],
    )
    executor = NodeExecutor(context=context)
    executor.add_node(node)
    spinner = threading.Thread(target=executor.spin)
    spinner.start()
    yield node
    node.stop(10.0)
    executor.shutdown(10.0)
    spinner.join(10.0)
    node.destroy_node()
    context.try_shutdown()


def test_the_policy_lists_what_the_node_uses(node: PerceptionNode) -> None:
    node.transition(node.trigger_configure, node.state_id)
    node.transition(node.trigger_activate, node.state_id)
    assert node.state_label == "active"
    name = (node.get_name(), node.get_namespace())
    for listed, used in (
        (allowed("topics", "publish"), node.get_publisher_names_and_types_by_node(*name)),
        (allowed("topics", "subscribe"), node.get_subscriber_names_and_types_by_node(*name)),
        (allowed("services", "reply"), node.get_service_names_and_types_by_node(*name)),
        (allowed("services", "request"), node.get_client_names_and_types_by_node(*name)),
    ):
        names = {item for item, _ in used}
        assert names <= listed
        assert listed - names <= OPTIONAL


def test_without_keys_an_enforced_node_does_not_start(tmp_path: Path) -> None:
    (tmp_path / "enclaves" / "siglip_perception").mkdir(parents=True)
    process = subprocess.run(
        [
            *(sys.executable, "-m", "siglip_perception.node.perception_node"),
            *("--ros-args", "--enclave", "/siglip_perception"),
        ],
        env={
            **isolated(tmp_path),
            "ROS_SECURITY_ENABLE": "true",
            "ROS_SECURITY_STRATEGY": "Enforce",
            "ROS_SECURITY_KEYSTORE": str(tmp_path),
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
        },
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert process.returncode == 2
    assert "perception_node: " in process.stderr
    assert "loading the model" not in process.stderr
