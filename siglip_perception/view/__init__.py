"""The page that shows what the pipeline sees, and the server behind it.

A source gives frames, the engine runs the pipeline over them, and the server sends what came of
it to every page that is open. Nothing here imports ROS: a live node is a source of its own, in
siglip_perception.node.
"""
