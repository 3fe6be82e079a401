"""Model folders: resolve, verify, load. The only access to weights; it never uses the network.

A model folder holds one Hugging Face folder for each encoder:

    siglip/  config.json, model.safetensors, tokenizer.json, tokenizer_config.json
    dinov2/  config.json, model.safetensors
    manifest.json   SHA-256 of each file (optional, but required of the embedded models)
    grounding.json  numbers of the grounding that belong to these weights (optional)

Every file is read once, checked against the manifest, and those same bytes are loaded.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

# Before transformers is imported: it reads the variable then, and only then.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from transformers import (
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipModel,
)
from transformers.utils import logging as _logging

from siglip_perception.contracts import Contract
from siglip_perception.errors import CheckpointError
from siglip_perception.files import write_atomically
from siglip_perception.tokenizer import load_tokenizer

MODELS = Path(__file__).parent / "models"
EMBEDDED = ("tabletop",)
MANIFEST = "manifest.json"
GROUNDING = "grounding.json"
ENCODER_FILES = (
    "siglip/config.json",
    "siglip/model.safetensors",
    "dinov2/config.json",
    "dinov2/model.safetensors",
)
TOKENIZER_FILES = ("siglip/tokenizer.json", "siglip/tokenizer_config.json")
_SHOWN = 200

# Keys of a config.json that make transformers fetch or run code from elsewhere.
_REMOTE_CODE_KEYS = frozenset(
    {
        "auto_map",
        "attn_implementation",
        "_attn_implementation",
        "_attn_implementation_internal",
        "experts_implementation",
        "_experts_implementation_internal",
        "fusion_config",
        "kernel_config",
        "use_kernels",
    }
)

ConfigT = TypeVar("ConfigT", SiglipConfig, Dinov2WithRegistersConfig)
ModelT = TypeVar("ModelT", bound=PreTrainedModel)
_transformers_logging: Any = _logging


@dataclass(frozen=True)
class Models:
    """Everything that one model folder holds, loaded: float32, CPU, eval mode, sdpa attention.

    digest: hex SHA-256 over the encoders' files. verified: whether a manifest vouched for them.
    grounding: the content of grounding.json, empty where there is none.
    """

    siglip: SiglipModel
    tokenizer: PreTrainedTokenizerFast
    dinov2: Dinov2WithRegistersModel
    grounding: Mapping[str, Any]
    digest: str
    verified: bool


def resolve(model: str) -> Path:
    """The folder of an embedded model's name ("tabletop") or of a path.

    Raises CheckpointError, naming the embedded models, where there is no such folder.
    """
    try:
        folder = MODELS / model if model in EMBEDDED else Path(model).expanduser()
        there = bool(model) and folder.is_dir()
    except (OSError, RuntimeError, ValueError):  # no name for a path: too long, "~nobody", "\0"
        there = False
    if not there:
        kind = "The embedded model" if model in EMBEDDED else "There is no model folder"
        rest = " is not installed; install the package again" if model in EMBEDDED else ""
        shown = model if len(model) <= _SHOWN else f"{model[:_SHOWN]}..."
        raise CheckpointError(
            f"{kind} {shown!r}{rest}: give a folder with siglip/ and dinov2/ in it,"
            f" or one of: {', '.join(EMBEDDED)}."
        )
    return folder


class _Folder:
    """A model folder whose files are checked as they are read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.digests: dict[str, str] = {}
        self.manifest: dict[str, str] | None = None
        if (path / MANIFEST).is_file():
            content = _parse_json(self._bytes(MANIFEST), path / MANIFEST)
            files = content.get("files")
            if not isinstance(files, dict) or not files:
                raise CheckpointError(
                    f"{path / MANIFEST} lists no files: write it again or remove the folder."
                )
            self.manifest = {str(name): str(digest) for name, digest in files.items()}
        elif path.parent == MODELS:
            raise CheckpointError(
                f"The embedded model {path.name!r} has no {MANIFEST}: install the package again."
            )

    def _bytes(self, name: str) -> bytes:
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError as error:
            raise CheckpointError(_missing(self.path, name)) from error
        except OSError as error:
            raise CheckpointError(
                f"Cannot read {self.path / name} ({error.strerror}): check its permissions."
            ) from error

    def read(self, name: str) -> bytes:
        """The file's bytes, after they have been held against the manifest."""
        data = self._bytes(name)
        found = hashlib.sha256(data).hexdigest()
        self.digests[name] = found
        if self.manifest is None:
            return data
        wanted = self.manifest.get(name)
        if wanted is None:
            raise CheckpointError(
                f"{name} is not in {self.path / MANIFEST}: get the whole model folder again."
            )
        if wanted != found:
            raise CheckpointError(
                f"{self.path / name} is not the file that the manifest lists (SHA-256 {found},"
                f" listed {wanted}): get the model folder again."
            )
        return data

    def read_json(self, name: str) -> dict[str, Any]:
        return _parse_json(self.read(name), self.path / name)

    def has(self, name: str) -> bool:
        """Whether the file is there; a listed file that is missing is an error, not an absence."""
        listed = self.manifest is not None and name in self.manifest
        return listed or (self.path / name).is_file()

    def digest(self) -> str:
        total = hashlib.sha256()
        for name in ENCODER_FILES:
            if name not in self.digests:
                self.read(name)
            total.update(f"{name} {self.digests[name]}\n".encode())
        return total.hexdigest()


def verify(folder: Path) -> str:
    """Check every file of a model folder; the hex SHA-256 over both encoders' files.

    Without a manifest there is nothing to hold the files against and only the digest is made.
    Raises CheckpointError for a missing or unreadable file and, with both hashes, a changed one.
    """
    opened = _Folder(folder)
    for name in opened.manifest or ENCODER_FILES:
        opened.read(name)
    return opened.digest()


def is_vouched_for(folder: Path) -> bool:
    """Whether the folder has a manifest to hold its files against."""
    return (folder / MANIFEST).is_file()


def write_manifest(folder: Path) -> None:
    """Write manifest.json over every file of the folder's two encoders, and grounding.json."""
    names = sorted(
        path.relative_to(folder).as_posix()
        for part in ("siglip", "dinov2")
        for path in (folder / part).rglob("*")
        if path.is_file()
    )
    if (folder / GROUNDING).is_file():
        names.append(GROUNDING)
    for name in ENCODER_FILES + TOKENIZER_FILES:
        if name not in names:
            raise CheckpointError(_missing(folder, name))
    files = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    text = json.dumps({"format": 1, "files": files}, indent=2) + "\n"
    write_atomically(folder / MANIFEST, text.encode())


def fingerprint(digest: str, contract: Contract) -> str:
    """Hex SHA-256 over the weights' digest and the contract's preprocessing.

    Equal fingerprints: the same function of the image.
    """
    preprocessing = json.dumps(contract.preprocessing(), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(f"{digest}\n{preprocessing}\n".encode()).hexdigest()


def load(folder: Path) -> Models:
    """Load everything out of a model folder; CheckpointError in one sentence if it cannot be."""
    opened = _Folder(folder)
    siglip, tokenizer = _siglip(opened)
    return Models(
        siglip=siglip,
        tokenizer=tokenizer,
        dinov2=_dinov2(opened),
        grounding=opened.read_json(GROUNDING) if opened.has(GROUNDING) else {},
        digest=opened.digest(),
        verified=opened.manifest is not None,
    )


def _siglip(folder: _Folder) -> tuple[SiglipModel, PreTrainedTokenizerFast]:
    config = _config(folder, "siglip", SiglipConfig)
    tokenizer = load_tokenizer(
        folder.path / "siglip",
        folder.read(TOKENIZER_FILES[0]),
        folder.read_json(TOKENIZER_FILES[1]),
        config.text_config,
    )
    return _model(folder, "siglip", SiglipModel, config), tokenizer


def _dinov2(folder: _Folder) -> Dinov2WithRegistersModel:
    config = _config(folder, "dinov2", Dinov2WithRegistersConfig)
    return _model(folder, "dinov2", Dinov2WithRegistersModel, config)


def _config(folder: _Folder, part: str, kind: type[ConfigT]) -> ConfigT:
    name = f"{part}/config.json"
    fields = folder.read_json(name)
    found = fields.get("model_type")
    if found != kind.model_type:
        raise CheckpointError(
            f"{folder.path / name} is of the type {found!r} and has to be {kind.model_type!r}:"
            " this model is not supported."
        )
    if "quantization_config" in fields:
        raise CheckpointError(
            f"{folder.path / name} describes quantised weights: give the unquantised model."
        )
    try:
        with quiet():
            config: ConfigT = kind.from_dict(_without_remote_code(fields))
            return config
    except Exception as error:  # transformers raises errors of many kinds for a bad field
        raise CheckpointError(
            f"{folder.path / name} cannot be understood ({_first_line(error)}):"
            " get the model folder again."
        ) from error


def _model(folder: _Folder, part: str, kind: type[ModelT], config: Any) -> ModelT:
    name = f"{part}/model.safetensors"
    path = folder.path / name
    try:
        tensors = load_safetensors(folder.read(name))
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is not a whole safetensors file ({_first_line(error)}):"
            " get the model folder again."
        ) from error
    # Old SigLIP checkpoints store this buffer; the classes make it themselves.
    for key in [key for key in tensors if key.endswith("embeddings.position_ids")]:
        del tensors[key]
    loader: Any = kind
    model: ModelT
    report: dict[str, Any]
    try:
        with quiet():
            # from_pretrained over load_state_dict: it renames the keys of older checkpoints.
            model, report = loader.from_pretrained(
                None,
                config=config,
                state_dict=tensors,
                dtype=torch.float32,
                attn_implementation="sdpa",
                local_files_only=True,
                ignore_mismatched_sizes=True,  # they come back in the report, and are refused
                output_loading_info=True,
            )
    except (RuntimeError, ValueError, LookupError, TypeError, ArithmeticError) as error:
        raise CheckpointError(
            f"{path} and its config.json cannot be loaded ({_first_line(error)}):"
            " get the model folder again."
        ) from error
    _refuse_differences(path, report)
    model.eval()
    model.requires_grad_(False)
    return model


def _refuse_differences(path: Path, report: Mapping[str, Any]) -> None:
    for kind, verb in (
        ("missing_keys", "lacks"),
        ("unexpected_keys", "has unexpected"),
        ("mismatched_keys", "has the wrong shape for"),
    ):
        keys = sorted(key if isinstance(key, str) else key[0] for key in report[kind])
        if keys:
            raise CheckpointError(
                f"{path} {verb} {len(keys)} tensor(s), the first {keys[0]!r}:"
                " weights and config.json do not belong together."
            )


def _without_remote_code(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _without_remote_code(value) if isinstance(value, dict) else value
        for key, value in fields.items()
        if key not in _REMOTE_CODE_KEYS
    }


def _parse_json(data: bytes, path: Path) -> dict[str, Any]:
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is not valid JSON ({_first_line(error)}): get the model folder again."
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is not a JSON object: get the model folder again.")
    return content


def _missing(folder: Path, name: str) -> str:
    shards = folder / f"{name}.index.json"
    if name.endswith(".safetensors") and shards.is_file():
        return f"{folder / name} is split into shards: join them into one safetensors file."
    if name.endswith(".safetensors") and any((folder / name).parent.glob("*.bin")):
        return f"{folder / name} is missing, and .bin files are not loaded: convert them."
    return f"{folder / name} is missing: a model folder needs it, get the folder again."


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].strip().rstrip(".:") if lines else type(error).__name__


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' progress bars and load reports: errors say what matters."""
    verbosity = _transformers_logging.get_verbosity()
    bars = _transformers_logging.is_progress_bar_enabled()
    _transformers_logging.set_verbosity_error()
    _transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        _transformers_logging.set_verbosity(verbosity)
        if bars:
            _transformers_logging.enable_progress_bar()
