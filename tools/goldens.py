"""Make the goldens of siglip_perception/contracts/goldens: squares by the policies' own code.

    python tools/goldens.py SOURCES [CONTRACT ...]

SOURCES holds clones of the policies' repositories as SOURCES/owner/name. Each policy's function is
read from its commit and run, with the libraries that it imports, in an environment that has them:
TensorFlow for OpenVLA's family; PyTorch, torchvision, timm, transformers, OpenCV and Pillow before
13 for the others. This package need not be installed there. Contracts whose libraries are missing
are left out, by name.
"""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import importlib.util
import io
import json
import math
import subprocess
import sys
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "siglip_perception" / "contracts" / "goldens"


def _pictures_module() -> Any:
    """Load golden_pictures.py alone: this package is not installed here."""
    path = ROOT / "siglip_perception" / "parity" / "golden_pictures.py"
    spec = importlib.util.spec_from_file_location("golden_pictures", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class _StopError(Exception):
    """Ends a policy's function once it has handed over its image."""


class Source:
    """Functions of one file of a repository at a commit."""

    def __init__(self, sources: Path, repository: str, commit: str, path: str) -> None:
        self._name = f"{repository}/{path}"
        self._text = subprocess.run(
            ["git", "-C", str(sources / repository), "show", f"{commit}:{path}"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    def load(self, names: Sequence[str], **namespace: Any) -> Any:
        """Define these functions and classes, wherever the file has them, in a namespace."""
        lines: list[str] = []
        for node in ast.walk(ast.parse(self._text)):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name in names:
                # Annotations name types that are not imported here.
                text = "from __future__ import annotations\n" + ast.unparse(node)
                exec(compile(text, self._name, "exec"), namespace)
                lines.append(f"{node.name} {node.lineno}-{node.end_lineno}")
        self.lines = ", ".join(sorted(set(lines)))
        return types.SimpleNamespace(**namespace)


@dataclass(frozen=True)
class Recipe:
    """How one contract's squares are made: libraries, file, and what the function does to it.

    make: from the source -> a function from a picture uint8 [H, W, 3] to the square [S, S, 3] in
        [0, 255], uint8 or float32.
    side: of the square; 0: the image decides the size.
    crops: the same, to the crops [n, S, S, 3] that the policy encodes beside the square.
    """

    libraries: tuple[str, ...]
    repository: str
    commit: str
    path: str
    make: Callable[[Source, Path], Callable[[Any], Any]]
    side: int = 224
    crops: Callable[[Source], Callable[[Any], Any]] | None = None


def _oft(source: Source, _: Path) -> Callable[[Any], Any]:
    import tensorflow as tf
    from PIL import Image

    code = source.load(
        (
            *("prepare_images_for_vla", "resize_image_for_policy", "crop_and_resize"),
            *("center_crop_image", "check_image_format"),
        ),
        tf=tf,
        np=np,
        Image=Image,
        OPENVLA_IMAGE_SIZE=224,
    )
    config = types.SimpleNamespace(center_crop=True)
    return lambda picture: np.asarray(code.prepare_images_for_vla([picture], config)[0])


def _fed_to_processor(action: Any, image: Any, **options: Any) -> Any:
    """Run a get_vla_action up to its processor, and return the image that it gets."""

    def processor(_: Any, fed: Any) -> Any:
        raise _StopError(fed)

    try:
        action(None, processor, "openvla", {"full_image": image}, "task", "key", **options)
    except _StopError as stop:
        return np.asarray(stop.args[0])
    raise AssertionError("the processor was not called")


def _libero(second: str) -> Callable[[Source, Path], Callable[[Any], Any]]:
    def make(source: Source, sources: Path) -> Callable[[Any], Any]:
        import tensorflow as tf
        from PIL import Image

        names = {"tf": tf, "np": np, "Image": Image}
        code = source.load(("get_libero_image", "resize_image"), **names)
        lines = source.lines
        repository, commit = second.split("@")
        other = Source(sources, repository, commit, "experiments/robot/openvla_utils.py")
        policy = other.load(
            ("get_vla_action", "crop_and_resize"), **names, OPENVLA_V01_SYSTEM_PROMPT=""
        )
        source.lines = f"{lines}; experiments/robot/openvla_utils.py {other.lines}"

        def run(picture: Any) -> Any:
            # The simulator's image is turned by 180 degrees, which get_libero_image undoes.
            image = code.get_libero_image({"agentview_image": picture[::-1, ::-1]}, 224)
            return _fed_to_processor(policy.get_vla_action, image, center_crop=True)

        return run

    return make


def _bridge(source: Source, _: Path) -> Callable[[Any], Any]:
    import tensorflow as tf

    code = source.load(("resize_image",), tf=tf, np=np)
    return lambda picture: code.resize_image(picture, (224, 224))


def _cogact(source: Source, _: Path) -> Callable[[Any], Any]:
    from PIL import Image

    code = source.load(("resize_image", "scale_and_resize"), Image=Image, math=math)

    def run(picture: Any) -> Any:
        if picture.shape[0] >= picture.shape[1]:
            return None  # it refuses what is not wide
        return np.asarray(code.resize_image(Image.fromarray(picture)))

    return run


def _graspvla(source: Source, _: Path) -> Callable[[Any], Any]:
    from PIL import Image

    code = source.load(("resize_with_bbox",), Image=Image, np=np)
    return lambda picture: np.asarray(
        code.resize_with_bbox(Image.fromarray(picture), None, (224, 224), random_padding=False)[0]
    )


def _minivla(source: Source, sources: Path) -> Callable[[Any], Any]:
    from PIL import Image

    code = source.load(("get_libero_image",), Image=Image, np=np)
    lines = source.lines
    other = Source(
        sources,
        "Stanford-ILIAD/openvla-mini",
        "0822b36227b5a771be4eb2680e34c559734c8fdc",
        "experiments/robot/openvla_utils.py",
    )
    policy = other.load(
        ("get_prismatic_vla_action", "apply_center_crop"), Image=Image, np=np, math=math
    )
    source.lines = f"{lines}; experiments/robot/openvla_utils.py {other.lines}"

    def run(picture: Any) -> Any:
        # The simulator's image is upside down, which get_libero_image undoes.
        image = code.get_libero_image({"agentview_image": np.flipud(picture)}, (224, 224))
        fed: list[Any] = []
        model = types.SimpleNamespace(predict_action=lambda image, *_, **__: fed.append(image))
        observation = {"full_image": [image]}
        policy.get_prismatic_vla_action(model, None, "", observation, "", "", center_crop=True)
        return np.asarray(fed[0])

    return run


def _siglip_processor(size: int) -> Any:
    from transformers import SiglipImageProcessorPil

    return SiglipImageProcessorPil(
        size={"height": size, "width": size}, resample=3, do_normalize=False, do_rescale=False
    )


def _rdt(source: Source, _: Path) -> Callable[[Any], Any]:
    from PIL import Image

    code = source.load(("expand2square",), Image=Image)
    processor = _siglip_processor(384)

    def run(picture: Any) -> Any:
        fill = tuple(int(x * 255) for x in (0.5, 0.5, 0.5))
        image = code.expand2square(Image.fromarray(picture), fill)
        return _planes(processor(image, return_tensors="np")["pixel_values"][0])

    return run


def _spatialvla(_: Source, __: Path) -> Callable[[Any], Any]:
    from PIL import Image

    processor = _siglip_processor(224)
    return lambda picture: _planes(
        processor(Image.fromarray(picture), return_tensors="np")["pixel_values"][0]
    )


def _planes(values: Any) -> Any:
    """Return [3, S, S] as uint8 [S, S, 3]: a library's whole levels as floats."""
    square = np.asarray(values).transpose(1, 2, 0)
    levels = square.astype(np.uint8)
    assert (levels == square).all()
    return levels


def _openpi(source: Source, _: Path) -> Callable[[Any], Any]:
    from PIL import Image

    code = source.load(("resize_with_pad", "_resize_with_pad_pil"), Image=Image, np=np)
    return lambda picture: code.resize_with_pad(picture, 224, 224)


def _torch_fit(name: str, side: int, **options: Any) -> Callable[..., Callable[[Any], Any]]:
    def make(source: Source, _: Path) -> Callable[[Any], Any]:
        import torch

        code = source.load((name,), torch=torch, F=torch.nn.functional, Tensor=torch.Tensor)

        def run(picture: Any) -> Any:
            image = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 255
            if image.shape[2:] == (side, side):
                square = image  # the policies skip it then
            else:
                square = getattr(code, name)(image, side, side, **options)
            return (square[0].permute(1, 2, 0) * 255).numpy()

        return run

    return make


def _gr00t(_: Source, __: Path) -> Callable[[Any], Any]:
    import torch
    from torchvision.transforms import InterpolationMode, v2

    def run(picture: Any) -> Any:
        height, width = picture.shape[:2]
        image = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 255
        image = v2.CenterCrop((int(height * 0.95), int(width * 0.95)))(image)
        image = v2.Resize((224, 224), interpolation=InterpolationMode.BILINEAR, antialias=True)(
            image
        )
        return (image[0].permute(1, 2, 0) * 255).to(torch.uint8).numpy()

    return run


def _molmoact(source: Source, _: Path) -> Callable[[Any], Any]:
    import torch
    import torchvision

    code = source.load(
        ("siglip_resize_and_pad", "_ensure_pyint_size2"),
        torch=torch,
        torchvision=torchvision,
        np=np,
        InterpolationMode=torchvision.transforms.InterpolationMode,
    )

    def run(picture: Any) -> Any:
        square, _ = code.siglip_resize_and_pad(picture.copy(), (378, 378))
        return np.rint(square * 255).astype(np.uint8)

    return run


def _molmoact_crops(source: Source) -> Callable[[Any], Any]:
    import torch
    import torchvision

    lines = source.lines
    code = source.load(
        (
            *("build_overlapping_crops", "select_tiling", "resize_image", "normalize_image"),
            *("siglip_resize_and_pad", "_ensure_pyint_size2"),
        ),
        torch=torch,
        torchvision=torchvision,
        np=np,
        InterpolationMode=torchvision.transforms.InterpolationMode,
    )
    source.lines = f"{lines}; {source.lines}"

    def run(picture: Any) -> Any:
        # Normalized to [-1, 1].
        crops, _, _ = code.build_overlapping_crops(
            picture.copy(), "siglip", "siglip", 8, [4, 4], [378, 378], 0, 14
        )
        return np.rint((crops + 1) / 2 * 255).astype(np.uint8)

    return run


def _gr00t_naflex(_: Source, __: Path) -> Callable[[Any], Any]:
    import albumentations
    import cv2
    from PIL import Image

    shorter = albumentations.SmallestMaxSize(max_size=256, interpolation=cv2.INTER_AREA)

    def crop(image: Any) -> Any:
        """FractionalCenterCrop of 0.95."""
        height, width = image.shape[:2]
        down, across = max(1, int(height * 0.95)), max(1, int(width * 0.95))
        top, left = (height - down) // 2, (width - across) // 2
        return image[top : top + down, left : left + across]

    def smart_resize(height: int, width: int) -> tuple[int, int]:
        """processing_eagle3_vl.py's, of images between its limits."""
        sides = [max(28, round(side / 28) * 28) for side in (height, width)]
        assert 4 * 28 * 28 <= sides[0] * sides[1] <= 4096 * 28 * 28
        return sides[0], sides[1]

    def run(picture: Any) -> Any:
        image = shorter(image=crop(shorter(image=picture)["image"]))["image"]
        height, width = smart_resize(*image.shape[:2])
        return np.asarray(Image.fromarray(image).resize((width, height)))

    return run


def _starvla(_: Source, __: Path) -> Callable[[Any], Any]:
    from PIL import Image
    from torchvision import transforms

    resize = transforms.Resize((224, 224))
    return lambda picture: np.asarray(resize(Image.fromarray(picture)))


def _internvla(source: Source, _: Path) -> Callable[[Any], Any]:
    import cv2

    code = source.load(("_resize_image",), cv=cv2, np=np)
    owner = types.SimpleNamespace(image_size=[224, 224])
    return lambda picture: code._resize_image(owner, picture)


def _prismatic(source: Source, _: Path) -> Callable[[Any], Any]:
    import timm.data
    import torch
    import torchvision.transforms.functional as functional
    from PIL import Image
    from torchvision.transforms import CenterCrop, Compose, Normalize, Resize, ToTensor
    from transformers.image_processing_utils import ImageProcessingMixin

    code = source.load(
        ("PrismaticImageProcessor",),
        ImageProcessingMixin=ImageProcessingMixin,
        timm=timm,
        torch=torch,
        TVF=functional,
        CenterCrop=CenterCrop,
        Compose=Compose,
        Normalize=Normalize,
        Resize=Resize,
        ToTensor=ToTensor,
        Image=Image,
    )
    # Values in [0, 1] come out, of both encoders' channels.
    processor = code.PrismaticImageProcessor(
        use_fused_vision_backbone=True,
        image_resize_strategy="resize-naive",
        input_sizes=[(3, 224, 224), (3, 224, 224)],
        interpolations=["bicubic", "bicubic"],
        means=[(0.0, 0.0, 0.0), (0.0, 0.0, 0.0)],
        stds=[(1.0, 1.0, 1.0), (1.0, 1.0, 1.0)],
    )

    def run(picture: Any) -> Any:
        values = processor.apply_transform(Image.fromarray(picture)).numpy()
        assert (values[:3] == values[3:]).all()
        return np.rint(values[:3].transpose(1, 2, 0) * 255).astype(np.uint8)

    return run


_OPENVLA = ("openvla/openvla", "c8f03f48af692657d3060c19588038c7220e9af9")
_LEROBOT = ("huggingface/lerobot", "7427f31801f944f5ec9ce53cda02862ce7d1638b")
_UNIVLA = ("OpenDriveLab/UniVLA", "0ab9e9dd3074ffa14fdd1a00aa2aa84e4f8e1352")
_GR00T = "NVIDIA/Isaac-GR00T"
_UTILS = "experiments/robot/openvla_utils.py"
_VLA_UTILS = "src/lerobot/policies/common/vla_utils.py"
_TF, _TORCH = ("tensorflow-cpu", "pillow"), ("torch", "torchvision", "pillow")
_GR00T_FILE = "gr00t/data/transform/video.py"
RECIPES: dict[str, Recipe] = {
    "openvla-224": Recipe(
        (*_TORCH, "timm", "transformers"),
        *_OPENVLA,
        "prismatic/extern/hf/processing_prismatic.py",
        _prismatic,
    ),
    "openvla-libero-224": Recipe(
        _TF, *_OPENVLA, "experiments/robot/libero/libero_utils.py", _libero("@".join(_OPENVLA))
    ),
    "openvla-bridge-224": Recipe(
        _TF, *_OPENVLA, "experiments/robot/bridge/bridgev2_utils.py", _bridge
    ),
    "openvla-oft-224": Recipe(
        _TF, "moojink/openvla-oft", "213c5ff8d6e9673885d7e4dd6f2ce73b5d8a45db", _UTILS, _oft
    ),
    "vla-adapter-224": Recipe(
        _TF,
        "OpenHelix-Team/VLA-Adapter",
        "838a36da195daf3e8b8a53520c8c7ce86231b6d9",
        _UTILS,
        _oft,
    ),
    "univla-224": Recipe(
        _TF, *_UNIVLA, "experiments/robot/libero/libero_utils.py", _libero("@".join(_UNIVLA))
    ),
    "cogact-224": Recipe(
        ("pillow",),
        "microsoft/CogACT",
        "b174a1b86deedfab4d198d935207e7bb0527994e",
        "scripts/deploy.py",
        _cogact,
    ),
    "graspvla-224": Recipe(
        ("pillow",),
        "PKU-EPIC/GraspVLA",
        "52d3a931b0b1a2f5002a6fa8b829102169f3e7e0",
        "vla_network/data_preprocessing/preprocess.py",
        _graspvla,
    ),
    "minivla-224": Recipe(
        ("pillow",),
        "Stanford-ILIAD/openvla-mini",
        "0822b36227b5a771be4eb2680e34c559734c8fdc",
        "experiments/robot/libero/libero_utils.py",
        _minivla,
    ),
    "rdt-384": Recipe(
        ("transformers", "pillow"),
        "thu-ml/RoboticsDiffusionTransformer",
        "deb71d82278780d83253a28d9b904085559be400",
        "scripts/agilex_model.py",
        _rdt,
        384,
    ),
    "spatialvla-224": Recipe(
        ("transformers", "pillow"),
        "SpatialVLA/SpatialVLA",
        "e48075326a92116adaaf1232cf01471f15f09a73",
        "model/processing_spatialvla.py",
        _spatialvla,
    ),
    "pi0-openpi-224": Recipe(
        ("pillow",),
        "Physical-Intelligence/openpi",
        "15a9616a00943ada6c20a0f158e3adb39df2ccac",
        "packages/openpi-client/src/openpi_client/image_tools.py",
        _openpi,
    ),
    "pi0-lerobot-224": Recipe(
        ("torch",), *_LEROBOT, _VLA_UTILS, _torch_fit("resize_with_pad_torch", 224)
    ),
    "smolvla-512": Recipe(
        ("torch",), *_LEROBOT, _VLA_UTILS, _torch_fit("resize_with_pad", 512, pad_value=0), 512
    ),
    "gr00t-n1-224": Recipe(
        _TORCH, _GR00T, "091e495c2768f6b554308a135cc0c47746ceb6c4", _GR00T_FILE, _gr00t
    ),
    "gr00t-n1.5-224": Recipe(
        _TORCH, _GR00T, "091e495c2768f6b554308a135cc0c47746ceb6c4", _GR00T_FILE, _gr00t
    ),
    "molmoact-378": Recipe(
        _TORCH,
        "allenai/molmoact",
        "622ad0841e89338aed143e9e57de3b92785b4460",
        "olmo/hf_model/molmoact/image_processing_molmoact.py",
        _molmoact,
        378,
        _molmoact_crops,
    ),
    "gr00t-n1.6": Recipe(
        ("albumentations", "opencv-python-headless", "pillow"),
        _GR00T,
        "2ce75434d3b926d5d08af9b27f2df5cd060f4db5",
        "gr00t/model/gr00t_n1d6/image_augmentations.py",
        _gr00t_naflex,
        0,
    ),
    "starvla-224": Recipe(
        _TORCH,
        "starVLA/starVLA",
        "0ed0aad2c83f587714f6167ef60cf7218b786590",
        "starVLA/model/modules/dino_model/dino.py",
        _starvla,
    ),
    "internvla-m1-224": Recipe(
        ("opencv-python-headless",),
        "InternRobotics/InternVLA-M1",
        "949223b51a34e309fb1b02be8a635a12f17b4c91",
        "deployment/model_server/tools/model_interface.py",
        _internvla,
    ),
}
# Policies whose function is a list of torchvision's transforms inside a method: the same calls are
# written here, and no source is read.
_RESTATED = ("gr00t-n1.6", "gr00t-n1-224", "gr00t-n1.5-224", "spatialvla-224", "starvla-224")


class _NoSource:
    lines = "its transforms, restated"


def make(name: str, recipe: Recipe, sources: Path, module: Any) -> None:
    """Run a policy's code over the pictures and write the golden."""
    versions = {library: importlib.metadata.version(library) for library in recipe.libraries}
    source: Any = _NoSource()
    if name not in _RESTATED:
        source = Source(sources, recipe.repository, recipe.commit, recipe.path)
    run = recipe.make(source, sources)
    arrays: dict[str, Any] = {}
    for picture, image in module.pictures().items():
        square = run(image)
        if square is None:
            continue
        expected = (recipe.side, recipe.side, 3) if recipe.side else (*square.shape[:2], 3)
        assert square.shape == expected, (name, picture, square.shape)
        arrays[picture] = square if picture == module.WHOLE else module.lattice(square)
    if recipe.crops is not None:
        cut = recipe.crops(source)
        for picture in (module.WHOLE, "tall", "hd"):
            crops = cut(module.pictures()[picture])
            arrays[f"{picture}/crops"] = (
                crops if picture == module.WHOLE else np.stack([*map(module.lattice, crops)])
            )
    about = {
        "repository": recipe.repository,
        "commit": recipe.commit,
        "file": recipe.path,
        "functions": source.lines,
        "libraries": versions,
    }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, about=np.array(json.dumps(about)), **arrays)
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{name}.npz").write_bytes(buffer.getvalue())
    print(f"{name}: {', '.join(arrays)}, {len(buffer.getvalue()) / 1000:.0f} kB", flush=True)


def main(words: Sequence[str]) -> int:
    """Make the goldens named, or all whose libraries are here."""
    sources, module = Path(words[0]), _pictures_module()
    for name in words[1:] or RECIPES:
        recipe = RECIPES[name]
        missing = [lib for lib in recipe.libraries if not _has(lib)]
        if missing:
            print(f"{name}: left out, as {', '.join(missing)} is not installed here")
            continue
        make(name, recipe, sources, module)
    return 0


def _has(library: str) -> bool:
    try:
        importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
