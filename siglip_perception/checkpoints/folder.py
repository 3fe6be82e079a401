"""A model folder whose files are held against its manifest as they are read."""

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
    instead_of_weights,
)
from siglip_perception.checkpoints.tensors import Entry, Read, read, read_header
from siglip_perception.errors import CheckpointError

MANIFEST = "manifest.json"
_CHUNK = 1 << 22
# What PyTorch's wrappers (DistributedDataParallel, torch.compile, FSDP, activation checkpoints)
# put before the names of what they wrap, at any depth.
_WRAPPER = re.compile(
    r"(?:^|(?<=\.))(?:_orig_mod|module|_forward_module|_fsdp_wrapped_module"
    r"|_checkpoint_wrapped_module)\."
)


class Folder:
    """Reads each file once; what is hashed is what is used.

    required: whether there has to be a manifest. Raises CheckpointError, one sentence, for a
    missing, unreadable or changed file.
    """

    def __init__(self, path: Path, required: bool = False) -> None:
        self.path = path
        self.manifest: dict[str, str] | None = None
        self.contract = ""
        if (path / MANIFEST).is_file():
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
            data = (self.path / name).read_bytes()
        except OSError as error:
            raise self._unreadable(name, error) from error
        foreign = content_error(self.path / name, data[:512])
        if foreign is not None:
            raise foreign
        return data

    def _unreadable(self, name: str, error: OSError) -> CheckpointError:
        if isinstance(error, FileNotFoundError):
            return CheckpointError(_missing(self.path, name))
        if isinstance(error, IsADirectoryError):
            return CheckpointError(
                f"{self.path / name} is a folder and has to be a file: get the model folder again."
            )
        return CheckpointError(
            f"Cannot read {self.path / name} ({error.strerror}): check its permissions."
        )

    def read(self, name: str) -> bytes:
        """The file's bytes, after they have been held against the manifest."""
        data = self._bytes(name)
        self._hold(name, hashlib.sha256(data).hexdigest())
        return data

    def read_json(self, name: str) -> dict[str, Any]:
        return parse_json(self.read(name), self.path / name)

    def read_tensors(self, name: str, wanted: Callable[[str], bool]) -> Read:
        """The wanted tensors of a safetensors file that was held against the manifest.

        Their names, here as in read_header and weight_files, are without PyTorch's wrappers.
        """
        try:
            found = read(
                self.path / name,
                lambda stored: wanted(_unwrapped(stored)),
                whole_digest=self.manifest is not None,
            )
        except OSError as error:
            raise self._unreadable(name, error) from error
        self._hold(name, found.file_digest)
        names = self._unwrap(name, found.tensors)
        return Read(
            {plain: found.tensors[stored] for plain, stored in names.items()},
            {plain: found.digests[stored] for plain, stored in names.items()},
            found.file_digest,
        )

    def read_header(self, name: str) -> dict[str, Entry]:
        """Names and shapes; not yet verified, so load by read_tensors alone."""
        try:
            entries = read_header(self.path / name)
        except OSError as error:
            raise self._unreadable(name, error) from error
        return {plain: entries[stored] for plain, stored in self._unwrap(name, entries).items()}

    def _unwrap(self, name: str, stored: Iterable[str]) -> dict[str, str]:
        """Each tensor's name without wrappers -> its name in the file."""
        names: dict[str, str] = {}
        for tensor in stored:
            plain = _unwrapped(tensor)
            if plain in names:
                raise CheckpointError(
                    f"{self.path / name} holds {plain!r} twice, as {names[plain]!r} and"
                    f" {tensor!r}: save the model again without its wrapper."
                )
            names[plain] = tensor
        return names

    def verify(self, name: str) -> None:
        """Hold a file against the manifest without keeping it."""
        try:
            found = sha256(self.path / name)
        except OSError as error:
            raise self._unreadable(name, error) from error
        self._hold(name, found)

    def _hold(self, name: str, found: str) -> None:
        if self.manifest is None:
            return
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

    def has(self, name: str) -> bool:
        """Whether the file is there; a listed file that is missing is an error, not an absence."""
        listed = self.manifest is not None and name in self.manifest
        return listed or (self.path / name).is_file()

    def require(self, name: str) -> None:
        """Raise CheckpointError where the file is not there; nothing is read."""
        if not (self.path / name).exists():
            raise CheckpointError(_missing(self.path, name))

    def weight_files(self, part: str) -> dict[str, list[str]]:
        """The files that hold the weights of a part ("" for the folder itself).

        Sharded: with the names of each file's tensors, as the index lists them. Otherwise the one
        file, and no names.
        """
        index = f"{part}{INDEX}"
        if self.has(f"{part}{WEIGHTS}") or not self.has(index):
            return {f"{part}{WEIGHTS}": []}
        names = self.read_json(index).get("weight_map")
        wrong = CheckpointError(
            f"{self.path / index} does not map tensors to files of its own folder:"
            " get the model folder again."
        )
        if not isinstance(names, dict) or not names:
            raise wrong
        files: dict[str, list[str]] = {}
        for tensor, file in names.items():
            # A file of another folder is none of the model's.
            if not isinstance(file, str) or Path(file).name != file or "\\" in file:
                raise wrong
            files.setdefault(f"{part}{file}", []).append(_unwrapped(str(tensor)))
        return files


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turns what the system says of a file or folder into a CheckpointError."""
    try:
        yield
    except OSError as error:
        place = Path(error.filename or path)
        while not os.access(place.parent, os.X_OK):  # what is in it may not even be there
            place = place.parent
        raise CheckpointError(
            f"Cannot read {place} ({error.strerror}): check its permissions."
        ) from error


def _unwrapped(name: str) -> str:
    return _WRAPPER.sub("", name)


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file of any size; OSError if it cannot be read."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            total.update(chunk)
    return total.hexdigest()


def parse_json(data: bytes, path: Path) -> dict[str, Any]:
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is not valid JSON ({first_line(error)}): get the model folder again."
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is not a JSON object: get the model folder again.")
    return content


def _missing(folder: Path, name: str) -> str:
    path = folder / name
    if path.name == WEIGHTS or not path.parent.is_dir():
        instead = instead_of_weights(path.parent)
        if instead:
            return f"{path} is missing, and the folder {instead}."
    elif path.suffix == ".safetensors":
        return f"{path} is missing, and {INDEX} lists it: get the files that are missing, too."
    return f"{path} is missing: a model folder needs it, get the folder again."


def first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].strip().rstrip(".:") if lines else type(error).__name__
