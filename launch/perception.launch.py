"""Start the perception node, which activates itself, and respawn it when it dies."""

from __future__ import annotations

import os
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode
from launch_ros.parameter_descriptions import ParameterValue

from siglip_perception.config import launch_arguments, launch_description
from siglip_perception.parameter import Value

PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
RESPAWN_DELAY_S = 2.0


def profile_environment(config: Path) -> dict[str, str]:
    """Name the Fast DDS profile that keeps large messages alive, unless the user chose one."""
    if any(os.environ.get(name) for name in PROFILE_VARIABLES):
        return {}
    return {name: str(config / "fastdds.xml") for name in PROFILE_VARIABLES}


def typed(value: Value) -> object:
    """Keep a parameter's value of its own type: launch_ros would read a text as YAML."""
    if isinstance(value, str):
        return ParameterValue(value, value_type=str)
    return list(value) if isinstance(value, tuple) else value


def make_node(context: LaunchContext) -> list[LifecycleNode]:
    config = Path(get_package_share_directory("siglip_perception")) / "config"

    def argument(name: str) -> LaunchConfiguration:
        return LaunchConfiguration(name)

    # The node activates itself, so a respawned node needs nobody to do it.
    parameters: list[object] = [
        argument("params_file"),
        {
            "use_sim_time": ParameterValue(argument("use_sim_time"), value_type=bool),
            "autostart": ParameterValue(argument("autostart"), value_type=bool),
        },
    ]
    parameters.append(
        {
            parameter.name: typed(parameter.from_text(text))
            for name, parameter in launch_arguments().items()
            if (text := context.perform_substitution(argument(name)))
        }
    )
    node = LifecycleNode(
        package="siglip_perception",
        executable="perception_node",
        name="siglip_perception",
        namespace=argument("namespace"),
        parameters=parameters,
        remappings=[
            ("image", argument("image")),
            # A remapping applies to one topic, not to those below it.
            ("image/compressed", [argument("image"), "/compressed"]),
            ("instruction", argument("instruction")),
            ("depth", argument("depth")),
            ("camera_info", argument("camera_info")),
        ],
        ros_arguments=["--log-level", argument("log_level")],
        additional_env=profile_environment(config),
        output="both",
        emulate_tty=True,
        respawn=True,
        respawn_delay=RESPAWN_DELAY_S,
    )
    return [node]


def generate_launch_description() -> LaunchDescription:
    share = Path(get_package_share_directory("siglip_perception"))
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "params_file",
                default_value=str(share / "config" / "siglip_perception.yaml"),
                description="YAML file with the node's parameters; copy the default and edit it.",
            ),
            DeclareLaunchArgument(
                "namespace",
                default_value="",
                description="Namespace of the node and of its relative topics, such as `image`.",
            ),
            DeclareLaunchArgument(
                "image",
                default_value="image",
                description=(
                    "Topic of the raw images, such as /camera/color/image_raw; compressed ones "
                    "are on <image>/compressed. Cameras with names keep their <camera>/image."
                ),
            ),
            DeclareLaunchArgument(
                "instruction",
                default_value="instruction",
                description="Topic of the instructions, as std_msgs/String.",
            ),
            DeclareLaunchArgument(
                "use_sim_time",
                default_value="false",
                choices=["true", "false"],
                description="Take the time from /clock, as with a simulator or a played bag.",
            ),
            DeclareLaunchArgument(
                "autostart",
                default_value="true",
                choices=["true", "false"],
                description="Activate the node; otherwise it waits, unconfigured.",
            ),
            DeclareLaunchArgument(
                "log_level",
                default_value="info",
                choices=["debug", "info", "warn", "error", "fatal"],
                description="Minimum severity of the messages that are logged.",
            ),
            DeclareLaunchArgument(
                "depth",
                default_value="depth",
                description="Topic of depth images registered to the color image (depth_enabled).",
            ),
            DeclareLaunchArgument(
                "camera_info",
                default_value="camera_info",
                description="Topic of the color camera's CameraInfo (depth_enabled).",
            ),
            *(
                DeclareLaunchArgument(
                    name,
                    default_value="",
                    choices=["", *parameter.choices] if parameter.choices else None,
                    description=launch_description(parameter),
                )
                for name, parameter in launch_arguments().items()
            ),
            OpaqueFunction(function=make_node),
        ]
    )
