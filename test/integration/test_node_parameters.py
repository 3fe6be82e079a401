"""Parameter files and the real node: what it got, what it ignores, and a dump that is whole."""

from __future__ import annotations

import sys
from pathlib import Path

from peer import NODE, peer_of
from rcl_interfaces.srv import GetParameters, ListParameters
from watching import isolated, running

from siglip_perception.config import PARAMETERS


def test_the_node_says_what_it_got_and_what_it_ignores_and_can_be_dumped(tmp_path: Path) -> None:
    own_file, other_file = tmp_path / "mine.yaml", tmp_path / "other.yaml"
    own_file.write_text(
        "/**:\n  ros__parameters:\n    cameras: []\n    phrases: []\n    treshold: 0.3\n"
        "    autostart: false\n"
    )
    other_file.write_text("perception:\n  ros__parameters:\n    threshold: 0.3\n")
    environment = isolated(tmp_path)
    command = [sys.executable, "-m", "siglip_perception.node.perception_node", "--ros-args"]
    command += ["--params-file", str(own_file), "--params-file", str(other_file)]
    with (
        peer_of(environment) as peer,
        running(command, environment, Path(__file__).parents[2]) as process,
    ):
        process.wait_for_line(r"parameters from \S+mine.yaml: /\*\* \(4\)")
        process.wait_for_line(r"other.yaml has nothing for this node, /siglip_perception: .*perc")
        process.wait_for_line("no parameter treshold, .* did you mean threshold")
        names = peer.call(ListParameters, f"{NODE}/list_parameters", ListParameters.Request())
        assert {parameter.name for parameter in PARAMETERS} <= set(names.result.names)
        request = GetParameters.Request(names=list(names.result.names))
        response = peer.call(GetParameters, f"{NODE}/get_parameters", request)
        assert len(response.values) == len(names.result.names)
        assert all(value.type for value in response.values)
