"""`make gpu`: check that the CUDA path is correct on this GPU, and measure its speed.

    python -m siglip_perception.commands.bench.gpu [-o FOLDER] [--rehearse] [--again]

Each part runs in its own process, so that its failure does not end the others, and writes its
findings into the folder; a part with findings is not run again. Needs PyTorch with CUDA, but no
network and no ROS 2. With --rehearse the same script runs on the CPU at a small size.
"""
