"""Bags on a disk: opened, read, and written whole or not at all."""

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
from siglip_perception.bags.storage import BrokenFileError, StoredFile, StoredTopic, merge_by_time
from siglip_perception.errors import BagError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_PLUGINS = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}
_BAG_VERSION: Literal[9] = 9
_ZSTD = b"\x28\xb5\x2f\xfd"
_ROS1 = b"#ROSBAG V"
# Other files that people take for a bag: how they begin, what they are, and what to do.
_OTHERS = (
    (b"\x1f\x8b", "a gzip file", "unpack it with gunzip"),
    (b"BZh", "a bzip2 file", "unpack it with bunzip2"),
    (b"\xfd7zXZ", "an xz file", "unpack it with unxz"),
    (b"\x04\x22\x4d\x18", "an lz4 file", "unpack it with unlz4"),
    (b"PK\x03\x04", "a zip archive", "unpack it with unzip"),
    (b"version https://git-lfs", "a pointer of Git LFS, not the file itself", "run git lfs pull"),
)
_MOST_NAMED = 5


_Key = tuple[str, str, str]


@dataclass(frozen=True)
class _Metadata:
    """What a metadata.yaml says. promised: messages of each (topic, canonical type)."""

    files: tuple[str, ...] = ()
    promised: Mapping[tuple[str, str], int] = field(default_factory=dict)
    compression: str = ""


class Recording:
    """A bag that is open for reading, by reading().

    topics: by name. storage: "mcap" or "sqlite3", its first file's.
    """

    def __init__(
        self,
        path: Path,
        files: Sequence[tuple[Path, StoredFile]],
        promised: Mapping[tuple[str, str], int],
        notes: Sequence[str],
    ) -> None:
        self.path = path
        self.storage = "sqlite3" if isinstance(files[0][1], SqliteFile) else "mcap"
        self._files = files
        self._notes = tuple(notes)
        topics = _merged_topics([file.topics for _, file in files], promised)
        self._topics = topics
        self.topics = tuple(topics[key] for key in sorted(topics))

    @property
    def damages(self) -> tuple[str, ...]:
        """What of its files cannot be read, in words; reading messages may add to it."""
        return tuple(
            f"{path.name}: {damage}" for path, file in self._files for damage in file.damages
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What is odd about it, in words, its damages included."""
        return (*self._notes, *(f"{damage}; what can be read is read" for damage in self.damages))

    def messages(self, topics: Iterable[BagTopic]) -> Iterator[tuple[BagTopic, int, bytes]]:
        """Yield those topics' messages by time over all files, each with its time in nanoseconds.

        Messages of one time come in the order of the files, and in each as they were written.
        Raises BagError where the bag cannot be read.
        """
        chosen_topics = set(topics)
        sources = []
        for _, file in self._files:
            numbers = {stored.number: self._topics[_key(stored)] for stored in file.topics}
            numbers = {n: topic for n, topic in numbers.items() if topic in chosen_topics}
            if numbers:
                sources.append((file.start_ns, partial(_entries, file, numbers)))
        try:
            for time, (topic, data) in merge_by_time(sources):
                yield topic, time, data
        except (BrokenFileError, OSError, zstd.ZstdError) as error:
            raise _broken(self.path, str(error)) from error

    def named(self, name: str) -> list[BagTopic]:
        """The topics of this name, which may lack the slash that it begins with."""
        exact = [topic for topic in self.topics if topic.name == name]
        return exact or [topic for topic in self.topics if topic.name == f"/{name}"]

    def first(self, topic: BagTopic) -> bytes | None:
        """Its first message; None without one."""
        return next((data for _, _, data in self.messages([topic])), None)


@contextmanager
def reading(bag: Path) -> Iterator[Recording]:
    """The bag, open: a rosbag2 folder, or one file of it. BagError where it cannot be read.

    The files decide, by how they begin; metadata.yaml only says which there are, and how many
    messages they ought to hold.
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
            raise _broken(bag, error.strerror or str(error)) from error
        if not files:
            raise _broken(bag, reasons[0])
        notes += [f"{reason}; it is left out" for reason in reasons]
        # By time, wherever metadata.yaml lists them.
        files.sort(key=lambda entry: entry[1].start_ns)
        yield Recording(bag, files, metadata.promised, notes)


def _key(stored: StoredTopic) -> _Key:
    return stored.name, canonical_type(stored.type), stored.encoding


def _merged_topics(
    files: Iterable[Iterable[StoredTopic]], promised: Mapping[tuple[str, str], int]
) -> dict[_Key, BagTopic]:
    """The topics of all files together, and those that metadata.yaml alone names."""
    topics: dict[_Key, BagTopic] = {}
    for stored in (stored for file in files for stored in file):
        name, kind, encoding = key = _key(stored)
        topic = topics.get(key) or BagTopic(
            name, kind, stored.type, encoding, stored.definition, 0, promised.get((name, kind))
        )
        topics[key] = replace(topic, count=topic.count + stored.count)
    stored_topics = {(name, kind) for name, kind, _ in topics}
    for (name, kind), count in promised.items():
        if (name, kind) not in stored_topics:
            topics[name, kind, "cdr"] = BagTopic(name, kind, kind, "cdr", "", 0, count)
    return topics


def _entries(
    file: StoredFile, topics: Mapping[int, BagTopic]
) -> Iterator[tuple[int, tuple[BagTopic, bytes]]]:
    for time, number, data in file.messages(topics.keys()):
        # rosbag2 may compress each message by itself. No message in CDR begins as zstd does.
        yield time, (topics[number], zstd.decompress(data) if data[:4] == _ZSTD else data)


def _find_files(bag: Path, notes: list[str]) -> tuple[list[Path], _Metadata]:
    """The files of a bag, at least one, and its metadata; BagError where there are none."""
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
    named = any(suffix in (".mcap", ".db3") for suffix in path.suffixes)
    return start.startswith((mcap.MAGIC, sqlite.MAGIC)) or (
        named and path.suffix in (".mcap", ".db3", ".zst", ".zstd")
    )


def _is_copy(path: Path, files: Iterable[Path]) -> bool:
    """Whether it is one of the files, unpacked or packed, as rosbag2 leaves it after playing."""
    return any(path.stem == other.name or other.stem == path.name for other in files)


def _is_split(paths: Sequence[Path]) -> bool:
    """Whether the files are parts of one bag by their names: my_bag_0.mcap, my_bag_1.mcap."""
    names = {re.sub(r"_\d+(?=\.)", "", path.name) for path in paths}
    return len(names) == 1


def _listed_file(bag: Path, name: str) -> Path:
    """Where a listed file is: its name counts, as folders and even systems may have changed."""
    path = bag / PureWindowsPath(name).name
    if path.is_file():
        return path
    others = [path.with_name(path.name + suffix) for suffix in (".zstd", ".zst")]
    if path.suffix in (".zstd", ".zst"):
        others.append(path.with_suffix(""))
    return next((other for other in others if other.is_file()), path)


def _no_bag(bag: Path, files: Sequence[Path]) -> BagError:
    """Says what a folder is that is no bag."""
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
    return _broken(bag, "the folder holds no .mcap or .db3 file")


def is_bag_folder(folder: Path) -> bool:
    """Whether a folder is a bag by what lies in it."""
    if (folder / "metadata.yaml").is_file():
        return True
    return any(path.is_file() and _is_bag_file(path) for path in folder.iterdir())


def _enumerate(names: Iterable[str]) -> str:
    """A sentence's "a, b or c", with no more names than can be read."""
    *first, last = names
    if len(first) >= _MOST_NAMED:
        return f"{', '.join(first[:_MOST_NAMED])} or {len(first) + 1 - _MOST_NAMED} more"
    return f"{', '.join(first)} or {last}" if first else last


def _read_metadata(path: Path, notes: list[str]) -> _Metadata:
    """All versions alike: few keys are read, and none is needed."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8", errors="replace"))
        info = document["rosbag2_bagfile_information"]
        names = info.get("relative_file_paths") or ()
        promised: Counter[tuple[str, str]] = Counter()
        for entry in info.get("topics_with_message_count") or ():
            topic = entry["topic_metadata"]
            key = str(topic["name"]), canonical_type(str(topic["type"]))
            promised[key] += int(entry["message_count"])
        compression = str(info.get("compression_format") or "")
        return _Metadata(tuple(str(name) for name in names), promised, compression)
    except (yaml.YAMLError, LookupError, TypeError, ValueError, AttributeError):
        notes.append("metadata.yaml is damaged: all files of the folder are read")
        return _Metadata()


def _open_file(path: Path, stack: ExitStack, compression: str) -> StoredFile:
    """One file of a bag, whatever it is called; BrokenFileError where it is none."""
    _refuse_other_files(path)
    start = _start(path)
    if start.startswith(_ZSTD):
        path = _decompressed(path, Path(stack.enter_context(_temporary_folder())))
        start = _start(path)
    if start.startswith(mcap.MAGIC):
        return McapFile(path)
    if start.startswith(sqlite.MAGIC):
        sidecars = [path.with_name(path.name + suffix) for suffix in sqlite.SIDECARS]
        sidecars = [file for file in sidecars if file.is_file() and file.stat().st_size]
        if not sidecars:
            return SqliteFile(path)
        # SQLite would finish the work that they hold in the bag itself: let it, in a copy.
        folder = Path(stack.enter_context(_temporary_folder()))
        for file in (path, *sidecars):
            shutil.copyfile(file, folder / file.name)
        return SqliteFile(folder / path.name, immutable=False)
    if not start:
        raise BrokenFileError("it is empty")
    if compression and compression != "zstd":
        raise BrokenFileError(f"it is compressed with {compression!a}, and only zstd is known")
    raise BrokenFileError("it begins neither as MCAP nor as SQLite")


def _temporary_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="siglip_perception_bag_")


def _decompressed(path: Path, folder: Path) -> Path:
    """A zstd file unpacked into the folder, as far as it goes."""
    target = folder / path.stem
    with path.open("rb") as packed, target.open("wb") as out:
        decompressor = zstd.ZstdDecompressor()
        while block := packed.read(2**20):
            while block:
                try:
                    out.write(decompressor.decompress(block))
                except zstd.ZstdError as error:
                    raise BrokenFileError(f"its compression is damaged ({error})") from error
                block = b""
                if decompressor.eof:
                    block = decompressor.unused_data
                    decompressor = zstd.ZstdDecompressor()
    return target


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(32)


def _refuse_other_files(path: Path) -> None:
    """Raise BagError for a ROS 1 bag, an archive and the like, with what to do."""
    start = _start(path)
    if start.startswith(_ROS1):
        raise _ros1(path)
    for magic, kind, remedy in _OTHERS:
        if start.startswith(magic):
            raise BagError(f"{path} is {kind}: {remedy}, and give the bag.")


def _ros1(path: Path) -> BagError:
    target = path.with_suffix("")
    if target == path or target.exists():
        target = path.with_name(f"{path.stem}_ros2")
    command = shlex.join(["rosbags-convert", "--src", str(path), "--dst", str(target)])
    return BagError(f"{path} is a bag of ROS 1: convert it with `{command}`, and give {target}.")


def _broken(bag: Path, reason: str) -> BagError:
    what = reason.strip().splitlines()
    return BagError(
        f"The bag {bag} cannot be read ({what[0].rstrip('.') if what else 'it is damaged'}): give"
        " a whole rosbag2 bag, or mend it with `ros2 bag reindex`, `mcap recover` or `sqlite3 FILE"
        " .recover`."
    )


@contextmanager
def writing(out: Path, storage: str) -> Iterator[Writer]:
    """A bag that appears under its name when it is whole, and not at all after an error."""
    if storage not in _PLUGINS:
        raise BagError(f"There is no bag storage {storage!r}: use {' or '.join(_PLUGINS)}.")
    if out.exists():
        raise BagError(f"{out} exists already: name a new folder for the bag.")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise BagError(f"Cannot write to {out.parent} ({error.strerror}).") from error
    try:
        # In a folder of its own: the bag's file and metadata carry the bag folder's name.
        unfinished = temporary / out.name
        try:
            with Writer(
                unfinished, version=_BAG_VERSION, storage_plugin=_PLUGINS[storage]
            ) as writer:
                yield writer
            unfinished.rename(out)
        except OSError as error:
            raise BagError(f"The bag {out} cannot be written ({error.strerror}).") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
