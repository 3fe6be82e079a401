"""Model folders: resolve, verify and load them. All access to weights goes through here.

A model folder holds one folder per encoder, in Hugging Face's or timm's form, whole or in shards:

    siglip/            config.json, model.safetensors, tokenizer.json, tokenizer_config.json
    dinov2/ or dinov3/ config.json, model.safetensors
    manifest.json      SHA-256 of each file (optional, but required of the embedded models)
    grounding.json     calibration of the grounding for these weights (optional)

or it is the Hugging Face folder of one encoder, or a policy's own checkpoint, from which only the
vision encoders are read.

Each file is read once, so the bytes checked against the manifest are the bytes loaded. Only
safetensors and only listed classes are loaded; only `fetch` uses the network.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from siglip_perception.checkpoints.configs import SiglipConfig
from siglip_perception.checkpoints.folder import MANIFEST, Folder, readable
from siglip_perception.checkpoints.layout import (
    EncoderSource,
    Layout,
    discover,
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
from siglip_perception.util.files import sha256, write_atomically

if TYPE_CHECKING:
    # PyTorch and transformers take seconds: a wrong name or folder is told before.
    from transformers import PreTrainedTokenizerBase

    from siglip_perception.checkpoints.build import LoadedEncoder
    from siglip_perception.checkpoints.networks import Siglip, VisionNetwork
    from siglip_perception.checkpoints.tokenizer import TokenizerFiles

__all__ = [
    "EMBEDDED",
    "GROUNDING",
    "MANIFEST",
    "MODELS",
    "Checkpoint",
    "Models",
    "fingerprint",
    "load",
    "resolve",
    "verify",
    "write_manifest",
]

GROUNDING = "grounding.json"
_SPECIAL_TOKENS = "special_tokens_map.json"
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Models:
    """Content of a model folder: float32, on the CPU, in eval mode, without gradients.

    vision: the encoders by name.
    siglip: the whole SigLIP, whose vision_model is vision["siglip"]; None without a text tower.
    tokenizer: SigLIP's; None without a text tower.
    aligned: SigLIP's vision tower still matches its text tower.
    grounding: content of grounding.json; empty without one.
    digests: hex SHA-256 per encoder over all that its tokens depend on: the vision tower's
        tensors, and its configuration if it has one.
    verified: the files matched a manifest.
    text_digest: hex SHA-256 of SigLIP's text tower; empty without one.
    grounding_digest: the same over all that a score depends on: every encoder, SigLIP's head and
        its text tower, but not its scale and bias.
    """

    vision: Mapping[EncoderName, VisionNetwork]
    siglip: Siglip | None
    tokenizer: PreTrainedTokenizerBase | None
    aligned: bool
    grounding: Mapping[str, Any]
    digests: Mapping[EncoderName, str]
    verified: bool
    text_digest: str = ""
    grounding_digest: str = ""


class Checkpoint:
    """A model folder whose layout is known and whose weights are not yet loaded.

    Raises CheckpointError, one sentence, if the folder cannot be a model.
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
        """Facts about each encoder, from configurations and tensor shapes."""
        return {name: source.facts for name, source in self._layout.encoders.items()}

    @property
    def policy(self) -> InputFacts | None:
        """Facts about the input of a policy, from its configuration; None for other models."""
        return self._layout.policy

    @property
    def has_text_tower(self) -> bool:
        """True if there is a whole SigLIP, with its text tower."""
        return any(isinstance(s.config, SiglipConfig) for s in self._layout.encoders.values())

    @property
    def contract(self) -> str:
        """Contract that the manifest says it was fetched for; empty if it names none."""
        return self._folder.contract

    def log_contradictions(self, contract: Contract) -> None:
        """Warn of differences between its image processors and the contract, which wins."""
        for where, differences in contradictions(contract, self.facts).items():
            _LOGGER.warning(
                "The contract %s is followed, not %s: %s.",
                contract.name,
                self.path / where,
                "; ".join(difference.text for difference in differences),
            )

    def load(self, contract: Contract | None = None) -> Models:
        """Load the contract's encoders, or all of them without a contract.

        Weights without a configuration (timm's, a policy's) need a contract. Raises
        CheckpointError, one sentence, if something cannot be loaded.
        """
        from siglip_perception.checkpoints.build import build
        from siglip_perception.checkpoints.networks import Siglip
        from siglip_perception.checkpoints.tokenizer import load_tokenizer

        folder = self._folder
        encoders: dict[EncoderName, LoadedEncoder] = {}
        siglip, tokenizer = None, None
        for name, source in self._layout.encoders.items():
            spec = None
            if contract is not None:
                spec = next((spec for spec in contract.encoders if spec.name == name), None)
                if spec is None:
                    continue
            if isinstance(source.config, SiglipConfig):
                # Before the weights, which take seconds, so that a bad tokenizer fails at once.
                tokenizer = load_tokenizer(
                    _tokenizer_files(folder, source), source.config.text_config
                )
            encoders[name] = build(folder, source, spec)
            whole = encoders[name].whole
            if isinstance(whole, Siglip):
                siglip = whole
        grounding = folder.read_json(GROUNDING) if folder.has(GROUNDING) else {}
        return Models(
            vision={name: encoder.vision for name, encoder in encoders.items()},
            siglip=siglip,
            tokenizer=tokenizer,
            aligned=siglip is not None and not self._layout.trained,
            grounding=grounding,
            digests={name: encoder.digest for name, encoder in encoders.items()},
            verified=folder.manifest is not None,
            text_digest=next((e.text_digest for e in encoders.values() if e.text_digest), ""),
            grounding_digest=hashlib.sha256(
                "\n".join(
                    f"{name} {encoder.digest} {encoder.head_digest} {encoder.text_digest}"
                    for name, encoder in sorted(encoders.items())
                ).encode()
            ).hexdigest(),
        )


def _tokenizer_files(folder: Folder, source: EncoderSource) -> TokenizerFiles:
    from siglip_perception.checkpoints.tokenizer import (
        CONFIG,
        FAST,
        SENTENCEPIECE,
        TokenizerFiles,
    )

    part = source.part
    fast, sentencepiece = (
        folder.read(f"{part}{name}") if folder.has(f"{part}{name}") else None
        for name in (FAST, SENTENCEPIECE)
    )
    settings = folder.read_json(f"{part}{CONFIG}")
    # Older folders have the special tokens only there.
    special_tokens = (
        folder.read_json(f"{part}{_SPECIAL_TOKENS}")
        if folder.has(f"{part}{_SPECIAL_TOKENS}")
        else {}
    )
    return TokenizerFiles(folder.path / part, {**special_tokens, **settings}, fast, sentencepiece)


def load(path: Path, contract: Contract | None = None) -> Models:
    """Load a model folder: Checkpoint(path).load(contract)."""
    return Checkpoint(path).load(contract)


def verify(path: Path) -> int:
    """Check every file in the manifest and return their number, 0 without a manifest.

    Raises CheckpointError for a missing, unreadable or changed file.
    """
    folder = Folder(path, required=path.parent == MODELS)
    for name in folder.manifest or {}:
        folder.verify(name)
    return len(folder.manifest or {})


def write_manifest(path: Path, **provenance: Any) -> None:
    """Write manifest.json with the digest of every file, and `provenance`, such as the source."""
    names = sorted(
        file.relative_to(path).as_posix()
        for file in path.rglob("*")
        if file.is_file() and file.name != MANIFEST and not _is_hidden(file.relative_to(path))
    )
    if not names:
        raise CheckpointError(f"{path} holds no files: there is nothing to list.")
    files = {name: sha256(path / name) for name in names}
    content = {"format": 1, **provenance, "files": files}
    write_atomically(path / MANIFEST, (json.dumps(content, indent=2) + "\n").encode())


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def fingerprint(models: Models, contract: Contract) -> str:
    """Compute the hex SHA-256 over the contract's encoders and its preprocessing.

    Equal fingerprints mean equal tokens for the same image.
    """
    lines = [f"{spec.name} {models.digests[spec.name]}" for spec in contract.encoders]
    lines.append(json.dumps(contract.preprocessing(), sort_keys=True, separators=(",", ":")))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
