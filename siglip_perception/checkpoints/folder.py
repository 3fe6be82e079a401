"""A model folder that checks each file against its manifest while reading it."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from siglip_perception.checkpoints.identify import (
    INDEX,
    WEIGHTS,
    content_error,
    describe_missing_weights,
)
from siglip_perception.checkpoints.tensors import Entry, TensorData, read_header, read_tensors
from siglip_perception.errors import CheckpointError, first_line
from siglip_perception.util.files import UnsuitableFileError, read_regular, sha256

MANIFEST = "manifest.json"
# Most bytes that are read of a file whole, by its name; other files are small configurations.
# Gemma's vocabulary, the largest in use, takes 34 MB as tokenizer.json.
_MAX_CONFIG_BYTES = 1 << 20
_MAX_BYTES = {
    MANIFEST: 16 << 20,
    INDEX: 16 << 20,
    "tokenizer.json": 64 << 20,
    "tokenizer_config.json": 16 << 20,
    "spiece.model": 16 << 20,
}
# Prefixes that PyTorch's wrappers (DistributedDataParallel, torch.compile, FSDP, activation
# checkpoints) add to names, at any depth.
_WRAPPER = re.compile(
    r"(?:^|(?<=\.))(?:_orig_mod|module|_forward_module|_fsdp_wrapped_module"
    r"|_checkpoint_wrapped_module)\."
)


class Folder:
    """Reader of a model folder; it reads each file once, so the bytes hashed are the bytes used.

    required: refuse a folder without a manifest. Methods raise CheckpointError, one sentence, for
    a missing, unreadable or changed file.
    """

    def __init__(self, path: Path, required: bool = False) -> None:
        self.path = path
        self.manifest: dict[str, str] | None = None
        self.contract = ""
        if (path / MANIFEST).exists():
            content = parse_json(self._bytes(MANIFEST), path / MANIFEST)
            files = content.get("files")
            if not isinstance(files, dict) or not files:
                raise CheckpointError(
                    f"{path / MANIFEST} lists no files: write it again or remove the folder."
                )
            self.manifest = {str(name): str(digest) for name, digest in files.items()}
            self.contract = str(content.get("contract", ""))
        elif required:
            raise CheckpointError(
                f"The embedded model {path.name!r} has no {MANIFEST}: install the package again."
            )

    def _bytes(self, name: str) -> bytes:
        try:
            data = read_regular(
                self.path / name, _MAX_BYTES.get(Path(name).name, _MAX_CONFIG_BYTES)
            )
        except OSError as error:
            raise self._unreadable(name, error) from error
        foreign = content_error(self.path / name, data[:512])
        if foreign is not None:
            raise foreign
        return data

    def _unreadable(self, name: str, error: OSError) -> CheckpointError:
        if isinstance(error, FileNotFoundError):
            return CheckpointError(_missing_file(self.path, name))
        if isinstance(error, IsADirectoryError):
            return CheckpointError(
                f"{self.path / name} is a folder and must be a file: get a fresh copy of the model"
                " folder."
            )
        if isinstance(error, UnsuitableFileError):
            return CheckpointError(
                f"{self.path / name} is not read, for {error.strerror}: get a fresh copy of the"
                " model folder."
            )
        return CheckpointError(
            f"Cannot read {self.path / name} ({error.strerror}): check its permissions."
        )

    def read(self, name: str) -> bytes:
        """Read a file and check it against the manifest."""
        data = self._bytes(name)
        self._check_digest(name, hashlib.sha256(data).hexdigest())
        return data

    def read_json(self, name: str) -> dict[str, Any]:
        return parse_json(self.read(name), self.path / name)

    def read_tensors(
        self, name: str, select: Callable[[str], bool], admit: Callable[[int], None]
    ) -> TensorData:
        """Read the selected tensors of a safetensors file and check it against the manifest.

        admit: takes their bytes in all before they are read, and raises if these are too many.

        Names, here as in read_header and weight_files, come without PyTorch's wrappers.
        """
        try:
            data = read_tensors(
                self.path / name,
                lambda raw_name: select(_strip_wrappers(raw_name)),
                admit,
                whole_digest=self.manifest is not None,
            )
        except OSError as error:
            raise self._unreadable(name, error) from error
        self._check_digest(name, data.file_digest)
        names = self._plain_names(name, data.tensors)
        return TensorData(
            {plain: data.tensors[raw_name] for plain, raw_name in names.items()},
            {plain: data.digests[raw_name] for plain, raw_name in names.items()},
            data.file_digest,
        )

    def read_header(self, name: str) -> dict[str, Entry]:
        """Read names and shapes without checking them; load tensors only with read_tensors()."""
        try:
            entries = read_header(self.path / name)
        except OSError as error:
            raise self._unreadable(name, error) from error
        return {
            plain: entries[raw_name]
            for plain, raw_name in self._plain_names(name, entries).items()
        }

    def _plain_names(self, name: str, raw_names: Iterable[str]) -> dict[str, str]:
        """Map each tensor's name without wrappers to its name in the file."""
        names: dict[str, str] = {}
        for raw_name in raw_names:
            plain = _strip_wrappers(raw_name)
            if plain in names:
                raise CheckpointError(
                    f"{self.path / name} holds {plain!r} twice, as {names[plain]!r} and"
                    f" {raw_name!r}: save the model again without its wrapper."
                )
            names[plain] = raw_name
        return names

    def verify(self, name: str) -> None:
        """Check a file against the manifest without keeping its content."""
        try:
            digest = sha256(self.path / name)
        except OSError as error:
            raise self._unreadable(name, error) from error
        self._check_digest(name, digest)

    def _check_digest(self, name: str, digest: str) -> None:
        if self.manifest is None:
            return
        manifest_digest = self.manifest.get(name)
        if manifest_digest is None:
            raise CheckpointError(
                f"{name} is not in {self.path / MANIFEST}: get a fresh copy of the whole folder."
            )
        if manifest_digest != digest:
            raise CheckpointError(
                f"{self.path / name} is not the file that the manifest lists (SHA-256 {digest},"
                f" listed {manifest_digest}): get a fresh copy of the model folder."
            )

    def has(self, name: str) -> bool:
        """Return whether the file is there or in the manifest.

        A listed file that is gone, or a special file, fails when it is read.
        """
        in_manifest = self.manifest is not None and name in self.manifest
        path = self.path / name
        return in_manifest or (path.exists() and not path.is_dir())

    def require(self, name: str) -> None:
        """Raise CheckpointError if the file does not exist; read nothing."""
        if not (self.path / name).exists():
            raise CheckpointError(_missing_file(self.path, name))

    def weight_files(self, part: str) -> dict[str, list[str]]:
        """List the weight files of a part ("" for the folder itself) with their tensors' names.

        Only the index of a sharded checkpoint has the names; a single file has an empty list.
        """
        index = f"{part}{INDEX}"
        if self.has(f"{part}{WEIGHTS}") or not self.has(index):
            return {f"{part}{WEIGHTS}": []}
        names = self.read_json(index).get("weight_map")
        error = CheckpointError(
            f"{self.path / index} does not map tensors to files of its own folder:"
            " get a fresh copy of the model folder."
        )
        if not isinstance(names, dict) or not names:
            raise error
        files: dict[str, list[str]] = {}
        for tensor, file in names.items():
            # An index must not lead out of the folder.
            if not isinstance(file, str) or Path(file).name != file or "\\" in file:
                raise error
            files.setdefault(f"{part}{file}", []).append(_strip_wrappers(str(tensor)))
        return files


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn an OSError about a file or folder into a CheckpointError."""
    try:
        yield
    except OSError as error:
        place = Path(error.filename or path)
        while not os.access(place.parent, os.X_OK):  # stat() fails on anything inside
            place = place.parent
        raise CheckpointError(
            f"Cannot read {place} ({error.strerror}): check its permissions."
        ) from error


def _strip_wrappers(name: str) -> str:
    return _WRAPPER.sub("", name)


def parse_json(data: bytes, path: Path) -> dict[str, Any]:
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is not valid JSON ({first_line(error)}): get a fresh copy of the model"
            " folder."
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path} is not a JSON object: get a fresh copy of the model folder."
        )
    return content


def _missing_file(folder: Path, name: str) -> str:
    path = folder / name
    if path.name == WEIGHTS or not path.parent.is_dir():
        description = describe_missing_weights(path.parent)
        if description:
            return f"{path} is missing, and the folder {description}."
    elif path.suffix == ".safetensors":
        return f"{path} is missing, and {INDEX} lists it: download the missing files, too."
    return f"{path} is missing, and a model folder needs it: download the folder again."
