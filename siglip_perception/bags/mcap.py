"""Reader of MCAP files of any profile and schema, with or without summary, whole or cut off.

rosbags reads only whole MCAP files of the ros2 profile, and no schema that is not text.
The format is at https://mcap.dev/spec.
"""

from __future__ import annotations

import struct
import sys
from binascii import crc32
from collections import Counter
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass
from pathlib import Path

import lz4.frame

from siglip_perception.bags.storage import (
    EVER,
    MAX_UNPACKED_BYTES,
    BrokenFileError,
    StoredTopic,
    merge_by_time,
    unpack_zstd,
)
from siglip_perception.util.files import open_regular

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MAGIC = b"\x89MCAP0\r\n"
_FOOTER, _SCHEMA, _CHANNEL, _MESSAGE, _CHUNK = 0x02, 0x03, 0x04, 0x05, 0x06
_CHUNK_INDEX, _STATISTICS = 0x08, 0x0B
_HEAD = struct.Struct("<BQ")  # of a record: its kind and the length of its content
_MESSAGE_HEAD = struct.Struct("<HIQQ")  # channel, sequence, log time, publish time
_CHUNK_HEAD = struct.Struct("<QQQI")  # first and last time, uncompressed size, CRC
_FOOTER_SIZE = _HEAD.size + 20
_CUT_OFF = "it ends early, as after a crash while recording"


@dataclass(frozen=True)
class _Chunk:
    """A chunk record. offset, length: of its content. channels: None if unknown."""

    start_ns: int
    end_ns: int
    offset: int
    length: int
    channels: frozenset[int] | None


class McapFile:
    """A storage.StoredFile. Raises BrokenFileError if the file is not MCAP."""

    def __init__(self, path: Path) -> None:
        self.damages: list[str] = []
        self._schemas: dict[int, tuple[str, str]] = {}
        self._channels: dict[int, tuple[int, str, str]] = {}
        self._chunks: list[_Chunk] = []
        self._counts: Counter[int] = Counter()
        self._starts: list[int] = []
        self._has_unchunked = False
        self._file = open_regular(path)
        try:
            self._size = self._file.seek(0, 2)
            if self._read_at(0, len(MAGIC)) != MAGIC:
                raise BrokenFileError("it does not begin as an MCAP file")
            if not self._read_summary():
                self._scan()
        except BaseException:
            self._file.close()
            raise
        self.start_ns = min(self._starts, default=0)
        self.topics = tuple(
            StoredTopic(
                number,
                topic,
                self._schemas.get(schema, ("", ""))[0],
                encoding,
                self._schemas.get(schema, ("", ""))[1],
                self._counts[number],
            )
            for number, (schema, topic, encoding) in sorted(self._channels.items())
        )

    def messages(
        self, numbers: Set[int], start_ns: int = EVER
    ) -> Iterator[tuple[int, int, bytes]]:
        def open_chunk(chunk: _Chunk) -> Callable[[], Iterator[tuple[int, tuple[int, bytes]]]]:
            return lambda: self._chunk_messages(chunk, numbers)

        sources = [
            (chunk.start_ns, open_chunk(chunk))
            for chunk in self._chunks
            if (chunk.channels is None or chunk.channels & numbers) and chunk.end_ns >= start_ns
        ]
        if self._has_unchunked:
            sources.append((self.start_ns, lambda: self._unchunked_messages(numbers)))
        for time, (number, data) in merge_by_time(sources):
            if time >= start_ns:
                yield time, number, data

    def close(self) -> None:
        self._file.close()

    def _read_at(self, offset: int, length: int) -> bytes:
        """Read at most `length` bytes from an offset."""
        self._file.seek(offset)
        return self._file.read(length)

    def _read_summary(self) -> bool:
        """Read the summary at the file's end; return False if there is no usable one."""
        try:
            return self._parse_summary()
        except (struct.error, UnicodeDecodeError):
            return False

    def _parse_summary(self) -> bool:
        end = self._size - len(MAGIC) - _FOOTER_SIZE
        tail = self._read_at(max(end, 0), _FOOTER_SIZE + len(MAGIC))
        if end < 0 or tail[-len(MAGIC) :] != MAGIC or tail[:9] != _HEAD.pack(_FOOTER, 20):
            return False
        (start,) = struct.unpack_from("<Q", tail, _HEAD.size)
        if not 0 < start < end:
            return False
        statistics: tuple[int, ...] | None = None
        chunks, counts = [], Counter[int]()
        for kind, _, content in _records(self._read_at(start, end - start)):
            if kind == _CHUNK_INDEX:
                chunks.append(_parse_chunk_index(content))
            elif kind == _STATISTICS:
                statistics = struct.unpack_from("<QHIIIIQQ", content)
                counts.update(dict(struct.iter_unpack("<HQ", content[46:])))
            else:
                self._define(kind, content)
        if statistics is None:
            return False
        messages, channels, chunk_count = statistics[0], statistics[2], statistics[5]
        complete = len(chunks) == chunk_count and len(self._channels) == channels
        in_bounds = all(0 < chunk.length <= start - chunk.offset for chunk in chunks)
        if not complete or not in_bounds or sum(counts.values()) != messages:
            return False
        self._chunks, self._counts = chunks, counts
        self._starts = [chunk.start_ns for chunk in chunks] or [statistics[6]]
        self._has_unchunked = not chunks and messages > 0
        return True

    def _scan(self) -> None:
        """Read the whole file instead of its summary, as far as possible."""
        try:
            self._scan_records()
        except (struct.error, UnicodeDecodeError):
            self.damages.append("a record of it is damaged, and all that comes after it is lost")

    def _scan_records(self) -> None:
        for kind, offset, length in self._walk():
            available = min(length, self._size - offset)
            if kind == _CHUNK:
                self._scan_chunk(offset, length, cut_off=available < length)
            elif available < length:
                pass
            elif kind == _MESSAGE:
                number, _, time, _ = _MESSAGE_HEAD.unpack(
                    self._read_at(offset, _MESSAGE_HEAD.size)
                )
                self._has_unchunked = True
                self._counts[number] += 1
                self._starts.append(time)
            elif kind in (_SCHEMA, _CHANNEL):
                self._define(kind, memoryview(self._read_at(offset, length)))
            if available < length:
                self.damages.append(_CUT_OFF)
                return

    def _walk(self) -> Iterator[tuple[int, int, int]]:
        """Yield kind, offset and length of each record's content; the last may be cut off."""
        position = len(MAGIC)
        while True:
            head = self._read_at(position, _HEAD.size)
            if len(head) < _HEAD.size or head[0] == 0:
                self.damages.append(_CUT_OFF)
                return
            kind, length = _HEAD.unpack(head)
            if kind == _FOOTER:
                return
            yield kind, position + _HEAD.size, length
            position += _HEAD.size + length
            if position > self._size:
                return

    def _scan_chunk(self, offset: int, length: int, *, cut_off: bool) -> None:
        times: list[int] = []
        channels: set[int] = set()
        for kind, _, content in _records(self._read_chunk(offset, length, cut_off=cut_off)):
            if kind == _MESSAGE:
                number, _, time, _ = _MESSAGE_HEAD.unpack_from(content)
                channels.add(number)
                times.append(time)
                self._counts[number] += 1
            else:
                self._define(kind, content)
        if times:
            self._starts.append(min(times))
            self._chunks.append(
                _Chunk(min(times), max(times), offset, length, frozenset(channels))
            )

    def _define(self, kind: int, content: memoryview) -> None:
        if kind == _SCHEMA:
            (number,) = struct.unpack_from("<H", content)
            name, position = _string(content, 2)
            encoding, position = _string(content, position)
            text = ""
            if encoding == "ros2msg":
                text, _ = _string(content, position)
            self._schemas[number] = name, text
        elif kind == _CHANNEL:
            number, schema = struct.unpack_from("<HH", content)
            topic, position = _string(content, 4)
            encoding, _ = _string(content, position)
            self._channels[number] = schema, topic, encoding

    def _read_chunk(self, offset: int, length: int, *, cut_off: bool = False) -> bytes:
        """Return a chunk's decompressed records; b"" and an entry in `damages` if damaged."""
        content = memoryview(self._read_at(offset, min(length, self._size - offset)))
        damage = f"the chunk at byte {offset} is damaged and left out"
        try:
            _, _, size, checksum = _CHUNK_HEAD.unpack_from(content)
            compression, position = _string(content, _CHUNK_HEAD.size)
            data = content[position + 8 :]
            if cut_off:
                return _decompress_start(compression, data)
            records = _decompress(compression, data)
        except (struct.error, UnicodeDecodeError, RuntimeError, zstd.ZstdError) as error:
            if cut_off:
                return b""
            if isinstance(error, _CompressionError):
                raise BrokenFileError(str(error)) from error
            self._note_damage(damage)
            return b""
        if len(records) != size or (checksum and crc32(records) != checksum):
            self._note_damage(damage)
            return b""
        return records

    def _note_damage(self, damage: str) -> None:
        if damage not in self.damages:
            self.damages.append(damage)

    def _chunk_messages(
        self, chunk: _Chunk, numbers: Set[int]
    ) -> Iterator[tuple[int, tuple[int, bytes]]]:
        cut_off = chunk.offset + chunk.length > self._size
        records = self._read_chunk(chunk.offset, chunk.length, cut_off=cut_off)
        heads = []
        for kind, position, content in _records(records):
            if kind == _MESSAGE and len(content) >= _MESSAGE_HEAD.size:
                number, _, time, _ = _MESSAGE_HEAD.unpack_from(content)
                if number in numbers:
                    heads.append((time, number, position, len(content)))
        for time, number, position, length in sorted(heads, key=lambda head: head[0]):
            yield time, (number, records[position + _MESSAGE_HEAD.size : position + length])

    def _unchunked_messages(self, numbers: Set[int]) -> Iterator[tuple[int, tuple[int, bytes]]]:
        heads = []
        for kind, offset, length in self._walk():
            if kind == _MESSAGE and _MESSAGE_HEAD.size <= length <= self._size - offset:
                number, _, time, _ = _MESSAGE_HEAD.unpack(
                    self._read_at(offset, _MESSAGE_HEAD.size)
                )
                if number in numbers:
                    heads.append((time, number, offset, length))
        for time, number, offset, length in sorted(heads, key=lambda head: head[0]):
            head_size = _MESSAGE_HEAD.size
            yield time, (number, self._read_at(offset + head_size, length - head_size))


class _CompressionError(RuntimeError):
    """A chunk's compression is not supported."""


def _records(buffer: bytes) -> Iterator[tuple[int, int, memoryview]]:
    """Yield kind, position and content of each record, up to one that is cut off."""
    view = memoryview(buffer)
    position = 0
    while position + _HEAD.size <= len(view):
        kind, length = _HEAD.unpack_from(view, position)
        position += _HEAD.size
        if position + length > len(view):
            return
        yield kind, position, view[position : position + length]
        position += length


def _string(content: memoryview, position: int) -> tuple[str, int]:
    """Return a length-prefixed string and the position after it."""
    (length,) = struct.unpack_from("<I", content, position)
    start = position + 4
    if start + length > len(content):
        raise struct.error("a string is cut off")
    return str(content[start : start + length], "utf-8"), start + length


def _parse_chunk_index(content: memoryview) -> _Chunk:
    start_ns, end_ns, offset, _, size = struct.unpack_from("<QQQQI", content)
    channels = frozenset(
        number for number, _ in struct.iter_unpack("<HQ", content[36 : 36 + size])
    )
    # The index gives the record's own offset and length. Without message indexes, which a writer
    # may leave out, it names no channels.
    length = struct.unpack_from("<Q", content, 24)[0] - _HEAD.size
    return _Chunk(start_ns, end_ns, offset + _HEAD.size, length, channels or None)


def _decompress(compression: str, data: memoryview) -> bytes:
    if compression == "":
        return bytes(data)
    if compression == "zstd":
        return unpack_zstd(data)
    if compression == "lz4":
        decompressor = lz4.frame.LZ4FrameDecompressor()
        records = bytes(decompressor.decompress(data, MAX_UNPACKED_BYTES))
        if not decompressor.eof:
            raise RuntimeError("the chunk is cut off, or unpacks to too much")
        return records
    raise _CompressionError(f"its chunks are compressed with {compression!a}, not lz4 or zstd")


def _decompress_start(compression: str, data: memoryview) -> bytes:
    """Decompress the beginning of a chunk that is cut off, as far as possible."""
    if compression == "zstd":
        return zstd.ZstdDecompressor().decompress(data, MAX_UNPACKED_BYTES)
    if compression == "lz4":
        return bytes(lz4.frame.LZ4FrameDecompressor().decompress(data, MAX_UNPACKED_BYTES))
    return _decompress(compression, data)
