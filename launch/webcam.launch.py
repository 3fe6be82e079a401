"""Start a webcam's driver and a perception node on its images."""

from __future__ import annotations

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

IMAGE, INFO = "/webcam/image_raw", "/webcam/camera_info"


def generate_launch_description() -> LaunchDescription:
    """Start both, so that Ctrl-C ends both; takes all arguments of perception.launch.py."""
    share = Path(get_package_share_directory("siglip_perception"))
    parameters = {
        "video_device": ParameterValue(LaunchConfiguration("video_device"), value_type=str),
        "image_width": ParameterValue(LaunchConfiguration("width"), value_type=int),
        "image_height": ParameterValue(LaunchConfiguration("height"), value_type=int),
        "framerate": ParameterValue(LaunchConfiguration("fps"), value_type=float),
        "frame_id": "webcam_optical_frame",
    }
    driver = Node(
        package="usb_cam",
        executable="usb_cam_node_exe",
        name="webcam",
        parameters=[parameters],
        remappings=[("image_raw", IMAGE), ("camera_info", INFO)],
        output="both",
        respawn=True,
        respawn_delay=2.0,
    )
    perception = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(share / "launch" / "perception.launch.py")),
        launch_arguments={"image": IMAGE, "camera_info": INFO}.items(),
    )
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "video_device",
                default_value="/dev/video0",
                description="Device file of the webcam, as `v4l2-ctl --list-devices` lists it.",
            ),
            DeclareLaunchArgument(
                "width", default_value="640", description="Width of the images, in pixels."
            ),
            DeclareLaunchArgument(
                "height", default_value="480", description="Height of the images, in pixels."
            ),
            DeclareLaunchArgument(
                "fps",
                default_value="30.0",
                description="Frame rate of the webcam, in images per second.",
            ),
            driver,
            perception,
        ]
    )
