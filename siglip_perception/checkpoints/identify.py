"""Identification of files and folders that are not a model, and advice on each.

People pass what they have: a cache folder, an adapter, a .pt file, the folder above. Each answer
is one sentence, made from names and first bytes; nothing is unpickled and no weights are read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from siglip_perception.errors import CheckpointError
from siglip_perception.util.files import open_regular, read_regular

WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"

_MODEL_FORMS = (
    "siglip/ and dinov2/ or dinov3/, one Hugging Face folder each, or a policy's config.json and"
    " safetensors"
)
_MAX_NAMES = 4
_HEAD = 512
_MAX_JSON_BYTES = 1 << 20
_LFS = b"version https://git-lfs.github.com/spec/"
_CONVERT = (
    "loading such a file can run code that is in it, so convert it to model.safetensors"
    " (transformers' save_pretrained or safetensors.torch.save_file)"
)
_TRANSFORMERS = (
    "give the same model as a Hugging Face folder with config.json and model.safetensors"
)
# Extensions of weights that are not loaded -> what they are, and what to do.
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
# Order of the search: .xml before .bin, for OpenVINO writes both; archives last.
_ORDER = (
    *(".gguf", ".onnx", ".xml", ".engine", ".plan", ".bin", ".pt", ".pth", ".ckpt", ".pkl"),
    *(".distcp", ".h5", ".pb", ".tflite", ".msgpack", ".npz", ".npy", ".mlmodel", ".incomplete"),
    *(".zip", ".tar", ".tgz", ".gz", ".zst"),
)
# First bytes of a file -> the extension that its content deserves.
_SIGNATURES: tuple[tuple[bytes, str], ...] = (
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
# model_type of models that are mistaken for a SigLIP or a DINOv2 -> what they are, and advice.
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
    """Say what a model of this model_type is and what to use instead; empty if unknown."""
    return _TYPES.get(model_type, "") if isinstance(model_type, str) else ""


def content_error(path: Path, head: bytes) -> CheckpointError | None:
    """Make the error for a file whose first bytes contradict its name; None if they do not."""
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
        kind, advice = _ENDINGS[ending]
        return CheckpointError(f"{path} is {kind} under this name: {advice}.")
    return None


def describe_file(path: Path) -> str:
    """Explain, in one sentence, why a file is not a model folder."""
    head = _head(path)
    error = content_error(path, head)
    if error is not None:
        return str(error)
    ending = _ending_of(path, head)
    if ending:
        kind, advice = _ENDINGS[ending]
        return f"{path} is {kind}, not a model folder: {advice}."
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
    """Explain, in one sentence, why a folder holds no model."""
    next(path.iterdir(), None)  # OSError, where it cannot be read
    names = _names(path)
    if not names:
        return f"{path} is an empty folder and holds no model: it needs {_MODEL_FORMS}."
    models = list(_models_below(path))
    if models:
        return f"{path} {_describe_models_below(path, models)}."
    description = describe_missing_weights(path)
    if description:
        return f"{path} {description}."
    model = model_above(path)
    if model:
        return f"{path} is a part of the model {model}: give that folder."
    files = ", ".join(names[:_MAX_NAMES]) + ", ..." * (len(names) > _MAX_NAMES)
    return f"{path} holds no model: it needs {_MODEL_FORMS}, and holds {files}."


def describe_missing_weights(path: Path) -> str:
    """Describe a folder without model.safetensors, as "is ...: do ..." or "holds ...: do ...".

    Empty if it holds nothing familiar.
    """
    names = _names(path)
    adapter = path / "adapter_config.json"
    if adapter.name in names:
        base_model = _json(adapter).get("base_model_name_or_path")
        name = base_model[:100] if isinstance(base_model, str) and base_model.isprintable() else ""
        return (
            f"is a LoRA adapter of {name or 'a base model'}, not a whole model: merge it into that"
            " (PEFT's merge_and_unload, then save_pretrained) and give the merged folder"
        )
    if "open_clip_config.json" in names or any(name.startswith("open_clip_") for name in names):
        return f"is an open_clip model, which is not loaded: {_open_clip(path)}"
    link = next((name for name in names if (path / name).is_symlink()), "")
    if link and not (path / link).exists():
        return (
            f"holds {link} as a link to a file that is not there: copy the whole cache folder,"
            " or copy with `cp -rL`"
        )
    for ending in _ORDER:
        name = next((name for name in names if name.lower().endswith(ending)), "")
        name = name or next(
            (f"{sub}/*{ending}" for sub in ("onnx",) if _has_ending(path / sub, ending)), ""
        )
        if name:
            kind, advice = _ENDINGS[ending]
            return f"holds {name}, {kind}, and {ending} files are not loaded: {advice}"
    weights = next((name for name in names if name.endswith(".safetensors")), "")
    if re.search(r"-\d{5}-of-\d{5}\.safetensors$", weights):
        return f"holds {weights} without {INDEX}: get that file, too"
    if weights:
        return f"holds {weights} and no {WEIGHTS}: rename it, or join its parts, to that name"
    if all(_TOKENIZER.fullmatch(name) for name in names):
        return "holds a tokenizer alone: give the folder with config.json and the weights, too"
    if set(names) <= {"config.json", "README.md"} and "config.json" in names:
        return f"holds config.json without weights: get {WEIGHTS}, too"
    return ""


def snapshot(path: Path) -> Path:
    """Resolve a folder of the Hub's cache to its snapshot; return any other path unchanged.

    Raises CheckpointError, listing the candidates, if the cache does not say which one to use.
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
    caches = [path / name for name in _names(path) if name.startswith("models--")]
    if len(caches) == 1:
        return _snapshot_of(caches[0])
    if caches:
        listing = ", ".join(folder.name for folder in caches[:_MAX_NAMES])
        remainder = f" and {len(caches) - _MAX_NAMES} more" if len(caches) > _MAX_NAMES else ""
        raise CheckpointError(
            f"{path} is the Hub's cache of {len(caches)} models ({listing}{remainder}): give the"
            f" folder of one, such as {caches[0]}."
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
        commit = read_regular(cache / "refs" / "main", _HEAD).decode().strip()
    except (OSError, UnicodeDecodeError):
        commit = ""
    newest = next((folder for folder in snapshots if folder.name == commit), None)
    if newest is not None:
        return newest
    listing = ", ".join(folder.name for folder in snapshots[:_MAX_NAMES])
    raise CheckpointError(
        f"{cache} holds {len(snapshots)} snapshots ({listing}) and its refs/main names none of"
        f" them: give one, such as {snapshots[0]}."
    )


def is_model(path: Path) -> bool:
    """Tell by file names if a folder holds a model."""
    names = _names(path)
    return ("config.json" in names and (WEIGHTS in names or INDEX in names)) or any(
        (path / part / "config.json").is_file() for part in ("siglip", "dinov2", "dinov3")
    )


def _models_below(path: Path) -> Iterator[Path]:
    for folder in sorted(_folders(path)):
        if is_model(folder):
            yield folder
        else:
            yield from (subfolder for subfolder in sorted(_folders(folder)) if is_model(subfolder))


def _describe_models_below(path: Path, models: list[Path]) -> str:
    if len(models) == 1:
        return (
            f"holds no model itself, and the folder {models[0].relative_to(path)} in it does:"
            f" give {models[0]}"
        )
    listing = ", ".join(str(folder.relative_to(path)) for folder in models[:_MAX_NAMES])
    types = {folder: str(_json(folder / "config.json").get("model_type", "")) for folder in models}
    siglip = [folder for folder, model_type in types.items() if model_type.startswith("siglip")]
    dino = [folder for folder, model_type in types.items() if model_type.startswith("dinov")]
    if len(siglip) == len(dino) == 1:
        part = "dinov3" if types[dino[0]].startswith("dinov3") else "dinov2"
        return (
            f"holds its encoders as {siglip[0].relative_to(path)} and {dino[0].relative_to(path)}:"
            f" name these folders siglip and {part}"
        )
    remainder = f" and {len(models) - _MAX_NAMES} more" if len(models) > _MAX_NAMES else ""
    return (
        f"holds no model itself, but {len(models)} folders of one ({listing}{remainder}): give one"
        " of these"
    )


def model_above(path: Path) -> Path | None:
    """Find the model folder that path lies in, up to two levels above."""
    return next((folder for folder in list(path.absolute().parents)[:2] if is_model(folder)), None)


def _open_clip(path: Path) -> str:
    """Name the Hugging Face folder of the same model, as far as open_clip_config.json tells."""
    model: Any = _json(path / "open_clip_config.json").get("model_cfg")
    vision: Any = model.get("vision_cfg") if isinstance(model, dict) else None
    text: Any = model.get("text_cfg") if isinstance(model, dict) else None
    name = str(vision.get("timm_model_name", "")) if isinstance(vision, dict) else ""
    parts = _OPEN_CLIP.match(name)
    if parts is None:
        label = f" ({name})" if name else ""
        return (
            f"give the same model{label} as transformers has it, if it is a SigLIP or a SigLIP 2"
        )
    is_siglip2 = isinstance(text, dict) and text.get("vocab_size") == _GEMMA_VOCABULARY
    size = {"giantopt": "giant-opt"}.get(parts[1], parts[1])
    folder = f"google/siglip{'2' if is_siglip2 else ''}-{size}-patch{parts[2]}-{parts[3]}"
    return f"give the same model as transformers has it, {folder}"


def _ending_of(path: Path, head: bytes) -> str:
    """Find a file's key in _ENDINGS, by content first and by name second; "" for none."""
    by_name = next((ending for ending in _ORDER if path.name.lower().endswith(ending)), "")
    for signature, ending in _SIGNATURES:
        if head.startswith(signature):
            # PyTorch's .pt, .pth and .bin are pickles too; their names say more.
            return by_name if ending == ".pkl" and by_name else ending
    if head.startswith(b"PK\x03\x04"):
        if b"data.pkl" in head or b".data/serialization_id" in head:
            return by_name or ".pt"
        return by_name or (".npz" if b".npy" in head else ".zip")
    return by_name


def _head(path: Path) -> bytes:
    try:
        with open_regular(path) as file:
            return file.read(_HEAD)
    except OSError as error:
        raise CheckpointError(
            f"Cannot read {path} ({error.strerror}): check its permissions."
        ) from error


def _names(path: Path) -> list[str]:
    """List the names in a folder, sorted, without hidden ones; empty if it cannot be read."""
    try:
        return sorted(entry.name for entry in path.iterdir() if not entry.name.startswith("."))
    except OSError:
        return []


def _folders(path: Path) -> Iterator[Path]:
    return (path / name for name in _names(path) if (path / name).is_dir())


def _has_ending(path: Path, ending: str) -> bool:
    return any(name.endswith(ending) for name in _names(path))


def _json(path: Path) -> dict[str, Any]:
    """Read the object in a JSON file; empty if there is none."""
    try:
        content = json.loads(read_regular(path, _MAX_JSON_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
