"""ROS 2 bags without ROS: open, list, replay, record."""
