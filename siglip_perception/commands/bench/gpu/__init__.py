"""`make gpu`: is the CUDA path right on this GPU, and how fast is it? One command, by parts.

    python -m siglip_perception.commands.bench.gpu [-o FOLDER] [--rehearse] [--again]

Each part is a process of its own, which the others outlive, and writes what it saw into the
folder; a part that is there is not run again. Needs PyTorch with CUDA, no network and no ROS 2.
With --rehearse the same script goes through the CPU at a small size.
"""
