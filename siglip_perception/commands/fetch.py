"""`siglip-perception fetch MODEL`: the only command that uses the network.

Downloads weights from the Hugging Face Hub at one revision and records its commit. An interrupted
download resumes; the model folder appears only once it is complete.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from siglip_perception import contracts
from siglip_perception.errors import PerceptionError
from siglip_perception.util.files import UnsuitableFileError, open_regular, read_regular
from siglip_perception.util.suggest import did_you_mean

_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
# Git allows more in the names of tags and branches, and no more is in use on the Hub.
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/+-]{0,127}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA1_CHARS = 40
_MAX_JSON_BYTES = 16 << 20
_WEIGHTS = "model.safetensors"
_INDEX = f"{_WEIGHTS}.index.json"
# A text tower needs this file and one of the vocabularies.
_TOKENIZER = "tokenizer_config.json"
_VOCABULARIES = ("tokenizer.json", "spiece.model")
_OPTIONAL = ("special_tokens_map.json", "preprocessor_config.json", "processor_config.json")
_ENCODER_TYPES = ("siglip", "siglip_vision_model", "dinov2", "dinov2_with_registers", "dinov3_vit")


class FetchError(PerceptionError):
    """Weights that cannot be fetched: no such repository, no access, no network, no disk space."""


@dataclass(frozen=True)
class Part:
    """Part of a model folder that one repository fills. folder: "" for the model folder itself."""

    folder: str
    repository: str


def parts_of(model: str) -> tuple[Part, ...]:
    """List the repositories of a contract's weights, or the one repository that `model` names.

    A policy's contract takes the policy's own checkpoint: stock weights give other tokens.
    Raises FetchError if there is nothing to fetch under that name.
    """
    if model in contracts.names():
        contract = contracts.get(model)
        if contract.policy:
            return (Part("", contract.policy),)
        parts = tuple(Part(s.name, s.weights) for s in contract.encoders if s.weights)
        if len(parts) == len(contract.encoders):
            return parts
        if model == "tabletop":
            raise FetchError(
                f"The model {model!r} comes with this package: there is nothing to fetch."
            )
        raise FetchError(
            f"The contract {model} names no repository, as each of its policies trained its own"
            " encoders: fetch the policy's by its repository's name, as in owner/name."
        )
    if _REPOSITORY.fullmatch(model):
        return (Part("", model),)
    raise FetchError(
        f"There is no model {model[:80]!a} to fetch{did_you_mean(model, contracts.names())}: name"
        f" a contract ({', '.join(n for n in contracts.names() if n != 'tabletop')}) or a"
        " repository, as in google/siglip2-base-patch16-224."
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `siglip-perception fetch`."""
    parser.add_argument("model", metavar="MODEL", help="a contract's name, or a repository's")
    parser.add_argument(
        "--revision",
        action="append",
        default=[],
        metavar="REV",
        help="commit, tag or branch, once for each repository in the order of the contract's"
        " encoders (default: main; its commit is written down)",
    )
    parser.add_argument("--output", "-o", type=Path, help="folder to make (default: by its name)")


def run(args: argparse.Namespace) -> int:
    """Fetch the model, check it, write its manifest and print its folder."""
    parts = parts_of(args.model)
    if args.revision and len(args.revision) != len(parts):
        raise FetchError(
            f"{args.model} comes from {len(parts)} repositories"
            f" ({', '.join(part.repository for part in parts)}): give --revision for each."
        )
    for revision in args.revision:
        if not _REVISION.fullmatch(revision) or ".." in revision:
            raise FetchError(
                f"{revision[:80]!a} is no revision: give a commit, a tag or a branch, as in main."
            )
    _go_online()
    from siglip_perception.checkpoints.store import fetch_folder

    revisions = args.revision or ["main"] * len(parts)
    output: Path = (args.output or fetch_folder(args.model)).expanduser().absolute()
    contract = args.model if args.model in contracts.names() else ""
    fetch(parts, revisions, output, contract, lambda line: print(line, flush=True))
    print(f"{output}: use it with --model {args.output or args.model}")
    return 0


def _go_online() -> None:
    """Allow the network, before the first import of huggingface_hub, which reads the variables."""
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        raise FetchError("HF_HUB_OFFLINE is set: unset it to let this command use the network.")
    if "huggingface_hub" in sys.modules:
        raise RuntimeError("huggingface_hub was imported before fetch could set it online")
    os.environ["HF_HUB_OFFLINE"] = "0"
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def fetch(
    parts: Sequence[Part],
    revisions: Sequence[str],
    output: Path,
    contract: str,
    say: Callable[[str], None],
) -> None:
    """Create the model folder `output`, completely or not at all.

    If it exists at these revisions already, verify and keep it.
    Raises FetchError or CheckpointError, one sentence each.
    """
    from siglip_perception import checkpoints

    hub = _Hub()
    listings = [
        hub.list_files(part.repository, revision)
        for part, revision in zip(parts, revisions, strict=True)
    ]
    source = {
        part.folder or ".": {"repository": part.repository, "revision": listing.commit}
        for part, listing in zip(parts, listings, strict=True)
    }
    if output.exists():
        _reuse(output, source, say)
        return
    partial = output.with_name(f".{output.name}.partial")
    try:
        partial.mkdir(parents=True, exist_ok=True)
        for part, listing in zip(parts, listings, strict=True):
            _fetch_part(hub, part, listing, partial / part.folder, say)
        shutil.rmtree(partial / ".cache", ignore_errors=True)
        for part in parts:
            shutil.rmtree(partial / part.folder / ".cache", ignore_errors=True)
        say("writing the manifest")
        checkpoints.write_manifest(partial, contract=contract, source=source)
        checkpoints.Checkpoint(partial)  # fails if it is not a model, before it gets its name
        partial.rename(output)
    except OSError as error:
        raise FetchError(
            f"Cannot write to {partial} ({error.strerror or error}): free some space or name"
            " another folder with --output; what was fetched is kept."
        ) from error


def _reuse(output: Path, source: Mapping[str, Any], say: Callable[[str], None]) -> None:
    from siglip_perception import checkpoints

    try:
        manifest_source = json.loads((output / checkpoints.MANIFEST).read_text()).get("source")
    except (OSError, ValueError, AttributeError):
        manifest_source = None
    if manifest_source != dict(source):
        raise FetchError(
            f"{output} exists already and is another model or revision: remove it, or name another"
            " folder with --output."
        )
    checkpoints.verify(output)
    say("already there, and every file is as it was fetched")


def _fetch_part(
    hub: _Hub, part: Part, listing: _Listing, folder: Path, say: Callable[[str], None]
) -> None:
    say(f"{part.repository} at {listing.commit}")

    def download(name: str) -> Path:
        size = listing.sizes.get(name)
        size_text = f" ({size / 1e6:,.1f} MB)" if size else ""
        say(f"  {part.folder + '/' if part.folder else ''}{name}{size_text}")
        return hub.download(part.repository, listing, name, folder)

    config = _read_config(download("config.json")) if "config.json" in listing.sizes else {}
    model_type = config.get("model_type")
    if _WEIGHTS in listing.sizes:
        download(_WEIGHTS)
    elif _INDEX in listing.sizes:
        for shard in _shards(download(_INDEX), all_shards=model_type in _ENCODER_TYPES):
            if shard not in listing.sizes:
                raise FetchError(f"{part.repository} lists {shard} and does not have it.")
            download(shard)
    else:
        raise FetchError(
            f"{part.repository} has no {_WEIGHTS}, whole or in shards: only safetensors are used."
        )
    if model_type == "siglip":
        vocabularies = [name for name in _VOCABULARIES if name in listing.sizes]
        for name in (_TOKENIZER, *(vocabularies or _VOCABULARIES[:1])):
            if name not in listing.sizes:
                raise FetchError(f"{part.repository} has no {name}, which its text tower needs.")
            download(name)
    for name in _OPTIONAL:
        if name in listing.sizes:
            download(name)


def _read_config(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(read_regular(path, _MAX_JSON_BYTES))
    except (UnsuitableFileError, ValueError, RecursionError) as error:
        raise FetchError(f"{path.name} of the repository is not valid JSON.") from error
    return content if isinstance(content, dict) else {}


def _shards(index: Path, *, all_shards: bool) -> list[str]:
    """List the shards to fetch: of a policy, only those with a vision encoder's tensors."""
    from siglip_perception.checkpoints.layout import vision_prefixes

    names = _read_config(index).get("weight_map")
    if not isinstance(names, dict) or not all(
        isinstance(file, str) and Path(file).name == file for file in names.values()
    ):
        raise FetchError(f"{index.name} of the repository does not map tensors to files.")
    if all_shards:
        return sorted(set(names.values()))
    prefixes = tuple(vision_prefixes(names))
    if not prefixes:
        raise FetchError("The repository's weights hold no SigLIP or DINOv2 encoder.")
    return sorted({file for name, file in names.items() if name.startswith(prefixes)})


@dataclass(frozen=True)
class _Listing:
    """Files of a repository at one commit, with their sizes in bytes.

    digests: hex SHA-256 of the LFS files, and Git's own hex SHA-1 (its blob id) of the others.
    """

    commit: str
    sizes: Mapping[str, int | None]
    digests: Mapping[str, str]


class _Hub:
    """Access to the Hub, with its library's errors as FetchErrors."""

    def list_files(self, repository: str, revision: str) -> _Listing:
        from huggingface_hub import HfApi

        with _HubErrors(repository, revision):
            info = HfApi().model_info(repository, revision=revision, files_metadata=True)
        if not _COMMIT.fullmatch(str(info.sha)):
            raise FetchError(
                f"The Hub names no commit of {repository}, but {str(info.sha)[:80]!a}: it is not"
                " to be trusted."
            )
        files = info.siblings or []
        return _Listing(
            str(info.sha),
            {file.rfilename: file.size for file in files},
            {
                file.rfilename: file.lfs.sha256 if file.lfs else file.blob_id or ""
                for file in files
            },
        )

    def download(self, repository: str, listing: _Listing, name: str, folder: Path) -> Path:
        from huggingface_hub import hf_hub_download

        digest = listing.digests.get(name)
        if not digest:
            raise FetchError(
                f"The Hub lists no digest of {name} in {repository}, so nothing shows that it"
                " arrives unchanged: it is not fetched."
            )
        with _HubErrors(repository, listing.commit):
            path = Path(
                hf_hub_download(repository, name, revision=listing.commit, local_dir=folder)
            )
        if _digest(path, git=len(digest) == _SHA1_CHARS) != digest:
            path.unlink()
            raise FetchError(
                f"{name} of {repository} did not arrive as the Hub lists it (digest {digest}):"
                " fetch it again."
            )
        return path


def _digest(path: Path, *, git: bool) -> str:
    """Compute a file's hex SHA-256, or the id that Git gives it as a blob."""
    digest = hashlib.sha256()
    if git:
        digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with open_regular(path) as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


class _HubErrors:
    """Context that turns the errors of the Hub's library into a FetchError."""

    def __init__(self, repository: str, revision: str) -> None:
        self._source = f"{repository} at {revision}"

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        from huggingface_hub import errors

        if error is None or not isinstance(error, Exception):
            return
        if isinstance(error, errors.GatedRepoError):
            cause = "you have to accept its terms on its page, and log in with `hf auth login`"
        elif isinstance(error, errors.RepositoryNotFoundError):
            cause = "there is no such repository, or it is not yours to read: check the name"
        elif isinstance(error, errors.RevisionNotFoundError):
            cause = "there is no such revision: give a commit, tag or branch with --revision"
        elif isinstance(error, OSError) and error.errno is not None:
            raise error
        else:
            lines = str(error).strip().splitlines()
            reason = lines[0].rstrip(".") if lines else type(error).__name__
            cause = f"{reason}; check the network and run the command again, which resumes"
        raise FetchError(f"Cannot fetch {self._source}: {cause}.") from error
