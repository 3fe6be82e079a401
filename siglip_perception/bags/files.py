"""Reading of bags, whole or damaged, and writing of whole bags."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import Literal

import yaml
from rosbags.rosbag2 import StoragePlugin, Writer

from siglip_perception.bags import mcap, sqlite
from siglip_perception.bags.mcap import McapFile
from siglip_perception.bags.messages import BagTopic, canonical_type
from siglip_perception.bags.sqlite import SqliteFile
from siglip_perception.bags.storage import (
    EVER,
    BrokenFileError,
    StoredFile,
    StoredTopic,
    merge_by_time,
    unpack_zstd,
)
from siglip_perception.errors import BagError
from siglip_perception.util import bounded_yaml
from siglip_perception.util.files import UnsuitableFileError, open_regular, read_regular

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_PLUGINS = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}
_BAG_VERSION: Literal[9] = 9
_ZSTD = b"\x28\xb5\x2f\xfd"
_ROS1 = b"#ROSBAG V"
# Other files that users may take for a bag: magic bytes, description, remedy.
_OTHER_FORMATS = (
    (b"\x1f\x8b", "a gzip file", "unpack it with gunzip"),
    (b"BZh", "a bzip2 file", "unpack it with bunzip2"),
    (b"\xfd7zXZ", "an xz file", "unpack it with unxz"),
    (b"\x04\x22\x4d\x18", "an lz4 file", "unpack it with unlz4"),
    (b"PK\x03\x04", "a zip archive", "unpack it with unzip"),
    (b"version https://git-lfs", "a pointer of Git LFS, not the file itself", "run git lfs pull"),
)
_MAX_NAMES = 5
# A recording split into thousands of files lists them in less; more takes seconds to parse.
_MAX_METADATA_BYTES = 1 << 20
# A packed file may unpack to this many times its size and this many bytes more; images compress to
# a fifth, a bomb to a ten-thousandth. It is unpacked by pieces of at most _UNPACKED_BYTES.
_MAX_GROWTH, _SPARE_BYTES, _UNPACKED_BYTES = 100, 1 << 26, 1 << 24


_Key = tuple[str, str, str]


@dataclass(frozen=True)
class _Metadata:
    """Content of a metadata.yaml. listed_counts: messages of each (topic, canonical type)."""

    files: tuple[str, ...] = ()
    listed_counts: Mapping[tuple[str, str], int] = field(default_factory=dict)
    compression: str = ""


class Recording:
    """A bag opened for reading by reading().

    topics: sorted by name. storage: "mcap" or "sqlite3", that of its first file.
    """

    def __init__(
        self,
        path: Path,
        files: Sequence[tuple[Path, StoredFile]],
        listed_counts: Mapping[tuple[str, str], int],
        notes: Sequence[str],
    ) -> None:
        self.path = path
        self.storage = "sqlite3" if isinstance(files[0][1], SqliteFile) else "mcap"
        self._files = files
        self._notes = tuple(notes)
        topics = _merged_topics([file.topics for _, file in files], listed_counts)
        self._topics = topics
        self.topics = tuple(topics[key] for key in sorted(topics))

    @property
    def damages(self) -> tuple[str, ...]:
        """Descriptions of what cannot be read; reading messages may add to them."""
        return tuple(
            f"{path.name}: {damage}" for path, file in self._files for damage in file.damages
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks on the bag, including its damages."""
        return (*self._notes, *(f"{damage}; what can be read is read" for damage in self.damages))

    def messages(
        self, topics: Iterable[BagTopic], start_ns: int = EVER
    ) -> Iterator[tuple[BagTopic, int, bytes]]:
        """Yield the topics' messages by time over all files, each with its time in nanoseconds.

        start_ns: earlier ones are left out, and hardly cost anything.
        Messages of the same time come in the order of the files, and within a file as written.
        Raises BagError if the bag cannot be read.
        """
        selected_topics = set(topics)
        sources = []
        for _, file in self._files:
            numbers = {item.number: self._topics[_key(item)] for item in file.topics}
            numbers = {n: topic for n, topic in numbers.items() if topic in selected_topics}
            if numbers:
                sources.append((file.start_ns, partial(_entries, file, numbers, start_ns)))
        try:
            for time, (topic, data) in merge_by_time(sources):
                yield topic, time, data
        except (BrokenFileError, OSError, zstd.ZstdError) as error:
            raise _unreadable(self.path, str(error)) from error

    def topics_named(self, name: str) -> list[BagTopic]:
        """Return the topics of this name, given with or without its leading slash."""
        exact = [topic for topic in self.topics if topic.name == name]
        return exact or [topic for topic in self.topics if topic.name == f"/{name}"]

    def first(self, topic: BagTopic) -> bytes | None:
        """Return the topic's first message; None if it has none."""
        return next((data for _, _, data in self.messages([topic])), None)


@contextmanager
def reading(bag: Path) -> Iterator[Recording]:
    """Open a bag, a rosbag2 folder or one file of it; raises BagError if it cannot be read.

    The format of a file is decided by its magic bytes. metadata.yaml only lists the files and how
    many messages they should hold.
    """
    notes: list[str] = []
    with ExitStack() as stack:
        try:
            paths, metadata = _find_files(bag, notes)
            files, reasons = [], []
            for path in paths:
                try:
                    file = _open_file(path, stack, metadata.compression)
                except BrokenFileError as error:
                    reasons.append(f"{path.name}: {error}")
                    continue
                stack.callback(file.close)
                files.append((path, file))
        except OSError as error:
            raise _unreadable(bag, error.strerror or str(error)) from error
        if not files:
            raise _unreadable(bag, reasons[0])
        notes += [f"{reason}; it is left out" for reason in reasons]
        # By time, in whatever order metadata.yaml lists them.
        files.sort(key=lambda entry: entry[1].start_ns)
        yield Recording(bag, files, metadata.listed_counts, notes)


def _key(topic: StoredTopic) -> _Key:
    return topic.name, canonical_type(topic.type), topic.encoding


def _merged_topics(
    files: Iterable[Iterable[StoredTopic]], listed_counts: Mapping[tuple[str, str], int]
) -> dict[_Key, BagTopic]:
    """Merge the topics of all files and those that only metadata.yaml lists."""
    topics: dict[_Key, BagTopic] = {}
    for stored_topic in (stored_topic for file in files for stored_topic in file):
        name, kind, encoding = key = _key(stored_topic)
        topic = topics.get(key) or BagTopic(
            name,
            kind,
            stored_topic.type,
            encoding,
            stored_topic.definition,
            0,
            listed_counts.get((name, kind)),
        )
        topics[key] = replace(topic, count=topic.count + stored_topic.count)
    stored_topics = {(name, kind) for name, kind, _ in topics}
    for (name, kind), count in listed_counts.items():
        if (name, kind) not in stored_topics:
            topics[name, kind, "cdr"] = BagTopic(name, kind, kind, "cdr", "", 0, count)
    return topics


def _entries(
    file: StoredFile, topics: Mapping[int, BagTopic], start_ns: int
) -> Iterator[tuple[int, tuple[BagTopic, bytes]]]:
    for time, number, data in file.messages(topics.keys(), start_ns):
        # rosbag2 can compress each message. No CDR message begins with zstd's magic bytes.
        yield time, (topics[number], unpack_zstd(data) if data[:4] == _ZSTD else data)


def _find_files(bag: Path, notes: list[str]) -> tuple[list[Path], _Metadata]:
    """Return a bag's files, at least one, and its metadata; raises BagError if it has none."""
    if bag.name == "metadata.yaml":
        bag = bag.parent
    if not bag.is_dir():
        _refuse_other_files(bag)
        return [bag], _Metadata()
    has_metadata = (bag / "metadata.yaml").is_file()
    metadata = _read_metadata(bag / "metadata.yaml", notes) if has_metadata else _Metadata()
    listed_files = [_listed_file(bag, name) for name in metadata.files]
    notes += [
        f"metadata.yaml lists {path.name}, which is not there"
        for path in listed_files
        if not path.is_file()
    ]
    listed_files = [path for path in listed_files if path.is_file()]
    all_files = [path for path in sorted(bag.iterdir()) if path.is_file() and _is_bag_file(path)]
    if listed_files:
        notes += [
            f"{path.name} is left out, as metadata.yaml does not list it"
            for path in all_files
            if path not in listed_files and not _is_copy(path, listed_files)
        ]
        return listed_files, metadata
    if all_files and (has_metadata or len(all_files) == 1 or _is_split(all_files)):
        if not has_metadata:
            notes.append(
                "there is no metadata.yaml, as after a crash while recording: all files are read"
            )
        return all_files, metadata
    raise _no_bag(bag, all_files)


def _is_bag_file(path: Path) -> bool:
    start = _start(path)
    has_suffix = any(suffix in (".mcap", ".db3") for suffix in path.suffixes)
    return start.startswith((mcap.MAGIC, sqlite.MAGIC)) or (
        has_suffix and path.suffix in (".mcap", ".db3", ".zst", ".zstd")
    )


def _is_copy(path: Path, files: Iterable[Path]) -> bool:
    """Return True for a compressed or decompressed copy of a file, as rosbag2's player leaves."""
    return any(path.stem == file.name or file.stem == path.name for file in files)


def _is_split(paths: Sequence[Path]) -> bool:
    """Return True if the names are those of one split bag: my_bag_0.mcap, my_bag_1.mcap."""
    names = {re.sub(r"_\d+(?=\.)", "", path.name) for path in paths}
    return len(names) == 1


def _listed_file(bag: Path, name: str) -> Path:
    """Return the path of a listed file by its name alone: the bag may have been moved."""
    path = bag / PureWindowsPath(name).name
    if path.is_file():
        return path
    candidates = [path.with_name(path.name + suffix) for suffix in (".zstd", ".zst")]
    if path.suffix in (".zstd", ".zst"):
        candidates.append(path.with_suffix(""))
    return next((candidate for candidate in candidates if candidate.is_file()), path)


def _no_bag(bag: Path, files: Sequence[Path]) -> BagError:
    """Return an error that describes a folder that is not a bag."""
    if files:
        return BagError(
            f"The folder {bag} holds {len(files)} bags as files and no metadata.yaml: give one of"
            f" them, {_enumerate(str(path) for path in files)}."
        )
    bags = sorted(path for path in bag.iterdir() if path.is_dir() and is_bag_folder(path))
    if len(bags) == 1:
        return BagError(f"{bag} is the folder above a bag: give {bags[0]}.")
    if bags:
        return BagError(
            f"{bag} is a folder of {len(bags)} bags: give one of them,"
            f" {_enumerate(str(path) for path in bags)}."
        )
    for path in sorted(bag.iterdir()):
        if path.is_file() and _start(path).startswith(_ROS1):
            return _ros1(path)
    return _unreadable(bag, "the folder holds no .mcap or .db3 file")


def is_bag_folder(folder: Path) -> bool:
    """Return True if the folder's content is that of a bag."""
    if (folder / "metadata.yaml").is_file():
        return True
    return any(path.is_file() and _is_bag_file(path) for path in folder.iterdir())


def _enumerate(names: Iterable[str]) -> str:
    """Return "a, b or c", with at most _MAX_NAMES names."""
    *first, last = names
    if len(first) >= _MAX_NAMES:
        return f"{', '.join(first[:_MAX_NAMES])} or {len(first) + 1 - _MAX_NAMES} more"
    return f"{', '.join(first)} or {last}" if first else last


def _read_metadata(path: Path, notes: list[str]) -> _Metadata:
    """Read the metadata.yaml of any version; only a few keys are used, and none is required."""
    try:
        text = read_regular(path, _MAX_METADATA_BYTES).decode("utf-8", errors="replace")
        document = bounded_yaml.load(text)
        info = document["rosbag2_bagfile_information"]
        names = info.get("relative_file_paths") or ()
        listed_counts: Counter[tuple[str, str]] = Counter()
        for entry in info.get("topics_with_message_count") or ():
            topic = entry["topic_metadata"]
            key = str(topic["name"]), canonical_type(str(topic["type"]))
            listed_counts[key] += int(entry["message_count"])
        compression = str(info.get("compression_format") or "")
        return _Metadata(tuple(str(name) for name in names), listed_counts, compression)
    except (
        yaml.YAMLError,
        UnsuitableFileError,
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
    ):
        notes.append("metadata.yaml is damaged: all files of the folder are read")
        return _Metadata()


def _open_file(path: Path, stack: ExitStack, compression: str) -> StoredFile:
    """Open one file of a bag, with any name; raises BrokenFileError if it is not one."""
    _refuse_other_files(path)
    start = _start(path)
    if start.startswith(_ZSTD):
        path = _decompress(path, Path(stack.enter_context(_temporary_folder())))
        start = _start(path)
    if start.startswith(mcap.MAGIC):
        return McapFile(path)
    if start.startswith(sqlite.MAGIC):
        sidecars = [path.with_name(path.name + suffix) for suffix in sqlite.SIDECARS]
        sidecars = [file for file in sidecars if file.is_file() and file.stat().st_size]
        if not sidecars:
            return SqliteFile(path)
        # SQLite would apply the sidecars to the user's bag: let it do so in a copy.
        folder = Path(stack.enter_context(_temporary_folder()))
        for file in (path, *sidecars):
            shutil.copyfile(file, folder / file.name)
        return SqliteFile(folder / path.name, immutable=False)
    if not start:
        raise BrokenFileError("it is empty")
    if compression and compression != "zstd":
        raise BrokenFileError(f"it is compressed with {compression!a}, and only zstd is supported")
    raise BrokenFileError("it is neither an MCAP nor an SQLite file")


def _temporary_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="siglip_perception_bag_")


def _decompress(path: Path, folder: Path) -> Path:
    """Decompress a zstd file into the folder, up to where it is cut off."""
    target = folder / path.stem
    limit = _MAX_GROWTH * path.stat().st_size + _SPARE_BYTES
    with open_regular(path) as file, target.open("wb") as out:
        decompressor = zstd.ZstdDecompressor()
        while block := file.read(2**20):
            while block or not (decompressor.needs_input or decompressor.eof):
                try:
                    out.write(decompressor.decompress(block, _UNPACKED_BYTES))
                except zstd.ZstdError as error:
                    raise BrokenFileError(f"its compression is damaged ({error})") from error
                if out.tell() > limit:
                    raise BrokenFileError(f"it unpacks to more than {limit >> 20} MiB")
                block = b""
                if decompressor.eof:
                    block = decompressor.unused_data
                    decompressor = zstd.ZstdDecompressor()
    return target


def _start(path: Path) -> bytes:
    with open_regular(path) as file:
        return file.read(32)


def _refuse_other_files(path: Path) -> None:
    """Raise BagError for a ROS 1 bag, an archive and the like, with what to do."""
    start = _start(path)
    if start.startswith(_ROS1):
        raise _ros1(path)
    for magic, kind, remedy in _OTHER_FORMATS:
        if start.startswith(magic):
            raise BagError(f"{path} is {kind}: {remedy}, and give the bag.")


def _ros1(path: Path) -> BagError:
    target = path.with_suffix("")
    if target == path or target.exists():
        target = path.with_name(f"{path.stem}_ros2")
    command = shlex.join(["rosbags-convert", "--src", str(path), "--dst", str(target)])
    return BagError(f"{path} is a ROS 1 bag: convert it with `{command}`, and give {target}.")


def _unreadable(bag: Path, reason: str) -> BagError:
    lines = reason.strip().splitlines() or ["it is damaged"]
    return BagError(
        f"The bag {bag} cannot be read ({lines[0].rstrip('.')}): give a whole rosbag2 bag, or"
        " repair it with `ros2 bag reindex`, `mcap recover` or `sqlite3 FILE .recover`."
    )


@contextmanager
def writing(out: Path, storage: str) -> Iterator[Writer]:
    """Write a bag that appears under its name once it is whole, and not at all after an error."""
    if storage not in _PLUGINS:
        raise BagError(f"There is no bag storage {storage!r}: use {' or '.join(_PLUGINS)}.")
    if out.exists():
        raise BagError(f"{out} exists already: name a new folder for the bag.")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise BagError(f"Cannot write to {out.parent} ({error.strerror}).") from error
    try:
        # In a folder of its own: the bag's file and metadata carry the bag folder's name.
        temporary_bag = folder / out.name
        try:
            with Writer(
                temporary_bag, version=_BAG_VERSION, storage_plugin=_PLUGINS[storage]
            ) as writer:
                yield writer
            temporary_bag.rename(out)
        except OSError as error:
            raise BagError(f"The bag {out} cannot be written ({error.strerror}).") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
