"""One look at a path that is not a model this package loads: its name, and what to do with it.

People give what they have: a cache folder, an adapter, a .pt file, a folder too high. Each answer
is one sentence, made from names and first bytes; nothing is unpickled and no weights are read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from siglip_perception.errors import CheckpointError

WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"

_NEEDED = (
    "siglip/ and dinov2/ or dinov3/, one Hugging Face folder each, or a policy's config.json and"
    " safetensors"
)
_LISTED = 4
_HEAD = 512
_LFS = b"version https://git-lfs.github.com/spec/"
_CONVERT = (
    "loading such a file can run code that is in it, so convert it to model.safetensors"
    " (transformers' save_pretrained or safetensors.torch.save_file)"
)
_TRANSFORMERS = (
    "give the same model as a Hugging Face folder with config.json and model.safetensors"
)
# Endings of weights that are not loaded: what they are, and what to do.
_ENDINGS: dict[str, tuple[str, str]] = {
    ".bin": ("PyTorch weights in pickle form", _CONVERT),
    ".pt": ("a PyTorch file in pickle form", _CONVERT),
    ".pth": ("a PyTorch file in pickle form", _CONVERT),
    ".ckpt": ("a checkpoint of a training in pickle form", _CONVERT),
    ".pkl": ("a pickle", _CONVERT),
    ".distcp": ("a part of PyTorch's distributed checkpoint", _CONVERT),
    ".gguf": ("a GGUF file of llama.cpp", _TRANSFORMERS),
    ".onnx": (
        "an ONNX graph",
        f"{_TRANSFORMERS}; `siglip-perception export` makes ONNX from that",
    ),
    ".engine": ("a TensorRT engine", f"{_TRANSFORMERS}; engines are built from that"),
    ".plan": ("a TensorRT engine", f"{_TRANSFORMERS}; engines are built from that"),
    ".xml": (
        "an OpenVINO graph",
        f"{_TRANSFORMERS}; `siglip-perception export` makes one from that",
    ),
    ".h5": ("TensorFlow weights", _TRANSFORMERS),
    ".pb": ("a TensorFlow graph", _TRANSFORMERS),
    ".tflite": ("a TensorFlow Lite graph", _TRANSFORMERS),
    ".msgpack": ("Flax weights", _TRANSFORMERS),
    ".npz": ("NumPy arrays, as big_vision writes its checkpoints", _TRANSFORMERS),
    ".npy": ("a NumPy array", _TRANSFORMERS),
    ".mlmodel": ("a Core ML model", _TRANSFORMERS),
    ".incomplete": ("a download that was cut off", "get the model again"),
    ".zip": ("an archive", "unpack it and give the folder"),
    ".tar": ("an archive", "unpack it and give the folder"),
    ".tgz": ("an archive", "unpack it and give the folder"),
    ".gz": ("a compressed file", "unpack it and give the folder"),
    ".zst": ("a compressed file", "unpack it and give the folder"),
}
# An .xml before the .bin beside it, which then is OpenVINO's; archives last.
_ORDER = (
    *(".gguf", ".onnx", ".xml", ".engine", ".plan", ".bin", ".pt", ".pth", ".ckpt", ".pkl"),
    *(".distcp", ".h5", ".pb", ".tflite", ".msgpack", ".npz", ".npy", ".mlmodel", ".incomplete"),
    *(".zip", ".tar", ".tgz", ".gz", ".zst"),
)
# The first bytes of a file, whatever its name is.
_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"GGUF", ".gguf"),
    (b"\x89HDF\r\n\x1a\n", ".h5"),
    (b"\x93NUMPY", ".npy"),
    (b"\x80\x02", ".pkl"),
    (b"\x80\x03", ".pkl"),
    (b"\x80\x04", ".pkl"),
    (b"\x80\x05", ".pkl"),
    (b"\x1f\x8b", ".gz"),
    (b"\x28\xb5\x2f\xfd", ".zst"),
)
_TOKENIZER = re.compile(
    r"(tokenizer.*\.json|special_tokens_map\.json|added_tokens\.json|vocab\.(json|txt)|merges\.txt"
    r"|.*\.model|processor_config\.json|preprocessor_config\.json|chat_template.*)"
)
_CLIP = (
    "CLIP: its scores are a softmax over all phrases, not a probability of each, so give a SigLIP,"
    " such as google/siglip2-base-patch16-224"
)
_NAFLEX = (
    "SigLIP 2 NaFlex, whose grid changes with the picture: give a SigLIP 2 of fixed resolution,"
    " such as google/siglip2-base-patch16-224"
)
# model_type in config.json of models that people take for a SigLIP or a DINOv2.
_TYPES = {
    "siglip2": _NAFLEX,
    "siglip2_vision_model": _NAFLEX,
    "siglip_text_model": "a SigLIP text tower alone: give the whole SigLIP",
    "clip": _CLIP,
    "clip_vision_model": _CLIP,
    "clip_text_model": _CLIP,
    "chinese_clip": _CLIP,
    "altclip": _CLIP,
    "metaclip_2": _CLIP,
    "align": _CLIP,
    "dinov3_convnext": "DINOv3's ConvNeXt, which has no tokens: give a DINOv3 ViT",
    "vit": "a plain ViT (DINO's first version among them): give a DINOv2 or DINOv3",
}
_OPEN_CLIP = re.compile(r"vit_(base|large|so400m|giantopt)_patch(\d+)_siglip_(?:gap_)?(\d+)")
_GEMMA_VOCABULARY = 256_000


def type_advice(model_type: object) -> str:
    """What a model of this model_type is and what to give instead; empty where that is unknown."""
    return _TYPES.get(model_type, "") if isinstance(model_type, str) else ""


def content_error(path: Path, head: bytes) -> CheckpointError | None:
    """The error for a file whose first bytes say that it is not itself; None where they do not."""
    if head.startswith(_LFS):
        size = re.search(rb"size (\d+)", head)
        megabytes = f" of {int(size[1]) / 1e6:,.1f} MB" if size else ""
        return CheckpointError(
            f"{path} is a Git LFS pointer to a file{megabytes}, not the file: run `git lfs pull`"
            " in its repository, or get the model again with `siglip-perception fetch`."
        )
    start = head.lstrip(b"\xef\xbb\xbf \r\n\t").lower()
    if start.startswith(
        (b"<!doctype", b"<html", b"<?xml", b"entry not found", b"access to model")
    ):
        return CheckpointError(
            f"{path} is a page of a web site that was saved under this name: get the file again,"
            " by `siglip-perception fetch` or its download link."
        )
    ending = _ending_of(Path(path.stem), head)
    if path.suffix == ".safetensors" and ending:
        what, advice = _ENDINGS[ending]
        return CheckpointError(f"{path} is {what} under this name: {advice}.")
    return None


def describe_file(path: Path) -> str:
    """One sentence for a file that was given in place of a model folder."""
    head = _head(path)
    error = content_error(path, head)
    if error is not None:
        return str(error)
    ending = _ending_of(path, head)
    if ending:
        what, advice = _ENDINGS[ending]
        return f"{path} is {what}, not a model folder: {advice}."
    if path.suffix == ".safetensors":
        if not (path.parent / "config.json").is_file():
            return (
                f"{path} is a weights file without its config.json: put both into a folder, the"
                f" weights as {WEIGHTS}, and give the folder."
            )
        return f"{path} is one file of a model: give the folder that holds it, {path.parent}."
    if path.suffix in (".json", ".model", ".txt"):
        return f"{path} is one file of a model: give the folder that holds it, {path.parent}."
    return f"{path} is a file, not a model folder: give a folder with siglip/ and dinov2/ in it."


def describe_folder(path: Path) -> str:
    """One sentence for a folder in which no model was found."""
    next(path.iterdir(), None)  # OSError, where it cannot be read
    names = _names(path)
    if not names:
        return f"{path} is an empty folder and holds no model: it needs {_NEEDED}."
    below = list(_models_below(path))
    if below:
        return f"{path} {_too_high(path, below)}."
    instead = instead_of_weights(path)
    if instead:
        return f"{path} {instead}."
    above = model_above(path)
    if above:
        return f"{path} is a part of the model {above}: give that folder."
    files = ", ".join(names[:_LISTED]) + ", ..." * (len(names) > _LISTED)
    return f"{path} holds no model: it needs {_NEEDED}, and holds {files}."


def instead_of_weights(path: Path) -> str:
    """What a folder without model.safetensors holds instead, as "is ...: do" or "holds ...: do".

    Empty where it holds nothing that is known.
    """
    names = _names(path)
    adapter = path / "adapter_config.json"
    if adapter.name in names:
        base = _json(adapter).get("base_model_name_or_path")
        name = base[:100] if isinstance(base, str) and base.isprintable() else ""
        return (
            f"is a LoRA adapter of {name or 'a base model'}, not a whole model: merge it into that"
            " (PEFT's merge_and_unload, then save_pretrained) and give the merged folder"
        )
    if "open_clip_config.json" in names or any(name.startswith("open_clip_") for name in names):
        return f"is an open_clip model, which is not loaded: {_open_clip(path)}"
    partial = next((name for name in names if (path / name).is_symlink()), "")
    if partial and not (path / partial).exists():
        return (
            f"holds {partial} as a link to a file that is not there: copy the whole cache folder,"
            " or copy with `cp -rL`"
        )
    for ending in _ORDER:
        name = next((name for name in names if name.lower().endswith(ending)), "")
        name = name or next(
            (f"{sub}/*{ending}" for sub in ("onnx",) if _any(path / sub, ending)), ""
        )
        if name:
            what, advice = _ENDINGS[ending]
            return f"holds {name}, {what}, and {ending} files are not loaded: {advice}"
    other = next((name for name in names if name.endswith(".safetensors")), "")
    if re.search(r"-\d{5}-of-\d{5}\.safetensors$", other):
        return f"holds {other} without {INDEX}: get that file, too"
    if other:
        return f"holds {other} and no {WEIGHTS}: rename it, or join its parts, to that name"
    if all(_TOKENIZER.fullmatch(name) for name in names):
        return "holds a tokenizer alone: give the folder with config.json and the weights, too"
    if set(names) <= {"config.json", "README.md"} and "config.json" in names:
        return f"holds config.json without weights: get {WEIGHTS}, too"
    return ""


def snapshot(path: Path) -> Path:
    """The folder of a model's files, where path is a Hub cache folder; else path itself.

    Raises CheckpointError, naming what there is, where the cache does not say which one.
    """
    if path.name == "snapshots" and (path.parent / "refs").is_dir():
        path = path.parent
    elif path.name in ("blobs", "refs") and (path.parent / "snapshots").is_dir():
        raise CheckpointError(
            f"{path} is a part of the Hub's cache: give the folder above it, {path.parent}."
        )
    if (path / "snapshots").is_dir():
        return _snapshot_of(path)
    if (path / "hub").is_dir() and any(n.startswith("models--") for n in _names(path / "hub")):
        return snapshot(path / "hub")
    cached = [path / name for name in _names(path) if name.startswith("models--")]
    if len(cached) == 1:
        return _snapshot_of(cached[0])
    if cached:
        listed = ", ".join(folder.name for folder in cached[:_LISTED])
        more = f" and {len(cached) - _LISTED} more" if len(cached) > _LISTED else ""
        raise CheckpointError(
            f"{path} is the Hub's cache of {len(cached)} models ({listed}{more}): give the folder"
            f" of one, such as {cached[0]}."
        )
    return path


def _snapshot_of(cache: Path) -> Path:
    snapshots = sorted(_folders(cache / "snapshots"))
    if not snapshots:
        raise CheckpointError(
            f"{cache} is a folder of the Hub's cache without a snapshot: get the model again."
        )
    if len(snapshots) == 1:
        return snapshots[0]
    try:
        commit = (cache / "refs" / "main").read_text().strip()
    except (OSError, UnicodeDecodeError):
        commit = ""
    newest = next((folder for folder in snapshots if folder.name == commit), None)
    if newest is not None:
        return newest
    listed = ", ".join(folder.name for folder in snapshots[:_LISTED])
    raise CheckpointError(
        f"{cache} holds {len(snapshots)} snapshots ({listed}) and its refs/main names none of"
        f" them: give one, such as {snapshots[0]}."
    )


def is_model(path: Path) -> bool:
    """Whether a folder has the files of a model, by their names alone."""
    names = _names(path)
    return ("config.json" in names and (WEIGHTS in names or INDEX in names)) or any(
        (path / part / "config.json").is_file() for part in ("siglip", "dinov2", "dinov3")
    )


def _models_below(path: Path) -> Iterator[Path]:
    for folder in sorted(_folders(path)):
        if is_model(folder):
            yield folder
        else:
            yield from (below for below in sorted(_folders(folder)) if is_model(below))


def _too_high(path: Path, below: list[Path]) -> str:
    if len(below) == 1:
        return (
            f"holds no model itself, and the folder {below[0].relative_to(path)} in it does:"
            f" give {below[0]}"
        )
    listed = ", ".join(str(folder.relative_to(path)) for folder in below[:_LISTED])
    types = {folder: str(_json(folder / "config.json").get("model_type", "")) for folder in below}
    siglip = [folder for folder, kind in types.items() if kind.startswith("siglip")]
    dino = [folder for folder, kind in types.items() if kind.startswith("dinov")]
    if len(siglip) == len(dino) == 1:
        part = "dinov3" if types[dino[0]].startswith("dinov3") else "dinov2"
        return (
            f"holds its encoders as {siglip[0].relative_to(path)} and {dino[0].relative_to(path)}:"
            f" name these folders siglip and {part}"
        )
    more = f" and {len(below) - _LISTED} more" if len(below) > _LISTED else ""
    return (
        f"holds no model itself, but {len(below)} folders of one ({listed}{more}): give one of"
        " these"
    )


def model_above(path: Path) -> Path | None:
    """The model folder that path lies in, up to two levels above."""
    return next((folder for folder in list(path.absolute().parents)[:2] if is_model(folder)), None)


def _open_clip(path: Path) -> str:
    """Which Hugging Face folder holds the same model, as far as open_clip_config.json says."""
    model: Any = _json(path / "open_clip_config.json").get("model_cfg")
    vision: Any = model.get("vision_cfg") if isinstance(model, dict) else None
    text: Any = model.get("text_cfg") if isinstance(model, dict) else None
    name = str(vision.get("timm_model_name", "")) if isinstance(vision, dict) else ""
    parts = _OPEN_CLIP.match(name)
    if parts is None:
        shown = f" ({name})" if name else ""
        return (
            f"give the same model{shown} as transformers has it, if it is a SigLIP or a SigLIP 2"
        )
    second = isinstance(text, dict) and text.get("vocab_size") == _GEMMA_VOCABULARY
    size = {"giantopt": "giant-opt"}.get(parts[1], parts[1])
    folder = f"google/siglip{'2' if second else ''}-{size}-patch{parts[2]}-{parts[3]}"
    return f"give the same model as transformers has it, {folder}"


def _ending_of(path: Path, head: bytes) -> str:
    """The entry of _ENDINGS that a file is, by its content before its name; "" for none."""
    by_name = next((ending for ending in _ORDER if path.name.lower().endswith(ending)), "")
    for magic, ending in _MAGIC:
        if head.startswith(magic):
            # PyTorch's .pt, .pth and .bin are pickles too, and told by their better name.
            return by_name if ending == ".pkl" and by_name else ending
    if head.startswith(b"PK\x03\x04"):
        if b"data.pkl" in head or b".data/serialization_id" in head:
            return by_name or ".pt"
        return by_name or (".npz" if b".npy" in head else ".zip")
    return by_name


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_HEAD)
    except OSError as error:
        raise CheckpointError(
            f"Cannot read {path} ({error.strerror}): check its permissions."
        ) from error


def _names(path: Path) -> list[str]:
    """Names in a folder, without hidden ones, sorted; empty where it is none or unreadable."""
    try:
        return sorted(entry.name for entry in path.iterdir() if not entry.name.startswith("."))
    except OSError:
        return []


def _folders(path: Path) -> Iterator[Path]:
    return (path / name for name in _names(path) if (path / name).is_dir())


def _any(path: Path, ending: str) -> bool:
    return any(name.endswith(ending) for name in _names(path))


def _json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; an empty one where it holds none."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
