"""One camera's stream of frames over time, without ROS."""
