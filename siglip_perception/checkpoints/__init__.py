"""Model folders: resolve, verify, load. The only access to weights.

A model folder holds one folder for each encoder, in Hugging Face's form or timm's, whole or in
shards:

    siglip/            config.json, model.safetensors, tokenizer.json, tokenizer_config.json
    dinov2/ or dinov3/ config.json, model.safetensors
    manifest.json      SHA-256 of each file (optional, but required of the embedded models)
    grounding.json     numbers of the grounding that belong to these weights (optional)

or it is the Hugging Face folder of one encoder, or a policy's own checkpoint, of which the vision
encoders are taken and nothing else is read.

Every file is read once and the bytes that were checked against the manifest are those that are
loaded. Only safetensors, only named classes; `fetch` alone uses the network.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from siglip_perception.checkpoints.folder import MANIFEST, Folder, readable, sha256
from siglip_perception.checkpoints.layout import (
    Layout,
    Source,
    discover,
    quiet,
    refuse_no_model,
)
from siglip_perception.checkpoints.store import EMBEDDED, MODELS, resolve
from siglip_perception.contracts import (
    Contract,
    EncoderFacts,
    EncoderName,
    InputFacts,
    contradictions,
)
from siglip_perception.errors import CheckpointError
from siglip_perception.util.files import write_atomically

if TYPE_CHECKING:
    # PyTorch and transformers take seconds: a wrong name or folder is told before.
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, SiglipModel

    from siglip_perception.checkpoints.build import Loaded
    from siglip_perception.checkpoints.tokenizer import TokenizerFiles

__all__ = [
    "EMBEDDED",
    "GROUNDING",
    "MANIFEST",
    "MODELS",
    "Checkpoint",
    "Models",
    "fingerprint",
    "glance",
    "load",
    "quiet",
    "resolve",
    "verify",
    "write_manifest",
]

GROUNDING = "grounding.json"
_MAPS = "special_tokens_map.json"
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Models:
    """What one model folder holds, loaded: float32, CPU, eval mode, sdpa attention.

    vision: the encoders, transformers' own models, by name.
    siglip: the whole SigLIP, whose vision_model is vision["siglip"]; None without a text tower.
    tokenizer: SigLIP's; None without a text tower.
    aligned: whether SigLIP's vision tower still matches its text tower.
    grounding: the content of grounding.json, empty where there is none.
    digests: of each encoder, hex SHA-256 over what its tokens depend on: the vision tower's
        tensors, and its configuration where it has one. verified: a manifest vouched for them.
    """

    vision: Mapping[EncoderName, PreTrainedModel]
    siglip: SiglipModel | None
    tokenizer: PreTrainedTokenizerBase | None
    aligned: bool
    grounding: Mapping[str, Any]
    digests: Mapping[EncoderName, str]
    verified: bool


class Checkpoint:
    """A model folder that was looked at, but not yet loaded.

    Raises CheckpointError, one sentence, where it cannot be a model.
    """

    def __init__(self, path: Path) -> None:
        with readable(path):
            self._folder = Folder(path, required=path.parent == MODELS)
            self._layout: Layout = discover(self._folder)

    @property
    def path(self) -> Path:
        return self._folder.path

    @property
    def facts(self) -> Mapping[EncoderName, EncoderFacts]:
        """What it says of each of its encoders."""
        return {name: source.facts for name, source in self._layout.encoders.items()}

    @property
    def policy(self) -> InputFacts | None:
        """What a policy's configuration says of its input."""
        return self._layout.policy

    @property
    def contract(self) -> str:
        """The contract that it was fetched for, as its manifest says; empty where it says none."""
        return self._folder.contract

    def log_contradictions(self, contract: Contract) -> None:
        """Say in what its own image processors differ from the contract, which is followed."""
        for where, differences in contradictions(contract, self.facts).items():
            _LOGGER.warning(
                "The contract %s is followed, not %s: %s.",
                contract.name,
                self.path / where,
                "; ".join(difference.text for difference in differences),
            )

    def load(self, contract: Contract | None = None) -> Models:
        """Load the contract's encoders, or all where none is given.

        A contract is needed for weights that come without a configuration, timm's or a policy's.
        Raises CheckpointError in one sentence if it cannot be loaded.
        """
        # First: the others import transformers too.
        from siglip_perception.checkpoints.offline import transformers  # isort: split
        from siglip_perception.checkpoints.build import build
        from siglip_perception.checkpoints.tokenizer import load_tokenizer

        folder = self._folder
        loaded: dict[EncoderName, Loaded] = {}
        siglip, tokenizer = None, None
        for name, source in self._layout.encoders.items():
            spec = None
            if contract is not None:
                spec = next((spec for spec in contract.encoders if spec.name == name), None)
                if spec is None:
                    continue
            if isinstance(source.config, transformers.SiglipConfig):
                # Before the weights, which take seconds: a tokenizer's error is told at once.
                tokenizer = load_tokenizer(
                    _tokenizer_files(folder, source), source.config.text_config
                )
            loaded[name] = build(folder, source, spec)
            if isinstance(loaded[name].whole, transformers.SiglipModel):
                siglip = loaded[name].whole
        grounding = folder.read_json(GROUNDING) if folder.has(GROUNDING) else {}
        return Models(
            vision={name: one.vision for name, one in loaded.items()},
            siglip=siglip,
            tokenizer=tokenizer,
            aligned=siglip is not None and not self._layout.trained,
            grounding=grounding,
            digests={name: one.digest for name, one in loaded.items()},
            verified=folder.manifest is not None,
        )


def _tokenizer_files(folder: Folder, source: Source) -> TokenizerFiles:
    from siglip_perception.checkpoints.tokenizer import (
        CONFIG,
        FAST,
        SENTENCEPIECE,
        TokenizerFiles,
    )

    part = source.part
    fast, pieces = (
        folder.read(f"{part}{name}") if folder.has(f"{part}{name}") else None
        for name in (FAST, SENTENCEPIECE)
    )
    settings = folder.read_json(f"{part}{CONFIG}")
    # Older folders state the special tokens there alone.
    maps = folder.read_json(f"{part}{_MAPS}") if folder.has(f"{part}{_MAPS}") else {}
    return TokenizerFiles(folder.path / part, {**maps, **settings}, fast, pieces)


def glance(path: Path) -> None:
    """Raise CheckpointError where a folder is no model's by the names in it; nothing is loaded."""
    with readable(path):
        refuse_no_model(Folder(path, required=path.parent == MODELS))


def load(path: Path, contract: Contract | None = None) -> Models:
    """Checkpoint(path).load(contract)."""
    return Checkpoint(path).load(contract)


def verify(path: Path) -> int:
    """Hold every file that the manifest lists against it; how many there were, 0 without one.

    Raises CheckpointError for a missing or unreadable file and, with both hashes, a changed one.
    """
    folder = Folder(path, required=path.parent == MODELS)
    for name in folder.manifest or {}:
        folder.verify(name)
    return len(folder.manifest or {})


def write_manifest(path: Path, **more: Any) -> None:
    """Write manifest.json over every file of the folder, with `more` of where they came from."""
    names = sorted(
        file.relative_to(path).as_posix()
        for file in path.rglob("*")
        if file.is_file() and file.name != MANIFEST and not _hidden(file.relative_to(path))
    )
    if not names:
        raise CheckpointError(f"{path} holds no files: there is nothing to list.")
    files = {name: sha256(path / name) for name in names}
    content = {"format": 1, **more, "files": files}
    write_atomically(path / MANIFEST, (json.dumps(content, indent=2) + "\n").encode())


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def fingerprint(models: Models, contract: Contract) -> str:
    """Hex SHA-256 over the contract's encoders and its preprocessing.

    Equal fingerprints: the same function of the image.
    """
    lines = [f"{spec.name} {models.digests[spec.name]}" for spec in contract.encoders]
    lines.append(json.dumps(contract.preprocessing(), sort_keys=True, separators=(",", ":")))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
