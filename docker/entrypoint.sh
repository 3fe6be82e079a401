#!/usr/bin/env bash
# Runs a command with ROS 2 and this package sourced, and the Fast DDS profile that keeps large
# messages alive, as the launch file has it.
set -e
source "/opt/ros/$ROS_DISTRO/setup.bash"
source /ws/install/setup.bash
export FASTRTPS_DEFAULT_PROFILES_FILE="${FASTRTPS_DEFAULT_PROFILES_FILE:-/ws/install/share/siglip_perception/config/fastdds.xml}"
exec "$@"
