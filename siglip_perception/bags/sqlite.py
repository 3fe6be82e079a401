"""Reader of .db3 files, rosbag2's sqlite3 storage, of every version since Crystal."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Set
from pathlib import Path

from siglip_perception.bags.storage import EVER, BrokenFileError, StoredTopic

MAGIC = b"SQLite format 3\0"
# Suffixes of files that SQLite leaves beside a database that was not closed.
SIDECARS = ("-wal", "-journal")


class SqliteFile:
    """A storage.StoredFile. Raises BrokenFileError if the file is not a bag's database.

    immutable: no other process has it open and it has no sidecar. Then SQLite writes nothing, not
        even locks, so the file may be on a read-only disk.
    """

    def __init__(self, path: Path, *, immutable: bool = True) -> None:
        self.damages: list[str] = []
        mode = "immutable=1" if immutable else "mode=rw"
        try:
            self._connection = sqlite3.connect(f"{path.absolute().as_uri()}?{mode}", uri=True)
        except sqlite3.Error as error:
            raise BrokenFileError(str(error)) from error
        try:
            self.topics = self._read_topics()
            first = self._connection.execute("SELECT MIN(timestamp) FROM messages").fetchone()[0]
        except sqlite3.Error as error:
            self._connection.close()
            raise BrokenFileError(str(error)) from error
        except BaseException:
            self._connection.close()
            raise
        self.start_ns = int(first or 0)

    def messages(
        self, numbers: Set[int], start_ns: int = EVER
    ) -> Iterator[tuple[int, int, bytes]]:
        placeholders = ",".join("?" * len(numbers))
        query = (
            "SELECT timestamp, topic_id, data FROM messages"
            f" WHERE topic_id IN ({placeholders}) AND timestamp >= ? ORDER BY timestamp, id"
        )
        try:
            for time, number, data in self._connection.execute(
                query, [*sorted(numbers), start_ns]
            ):
                yield time, number, bytes(data or b"")
        except sqlite3.Error as error:
            self.damages.append(f"the rest of its messages cannot be read ({error})")

    def close(self) -> None:
        self._connection.close()

    def _read_topics(self) -> tuple[StoredTopic, ...]:
        tables = {"topics", "messages", "message_definitions"}
        columns = {
            table: [row[1] for row in self._connection.execute(f"PRAGMA table_info({table})")]
            for table in tables
        }
        if not columns["topics"] or not columns["messages"]:
            raise BrokenFileError("it is a database without a bag's tables")
        encoding = (
            "serialization_format" if "serialization_format" in columns["topics"] else "'cdr'"
        )
        definitions = {}
        if columns["message_definitions"]:
            definitions = dict(
                self._connection.execute(
                    "SELECT topic_type, encoded_message_definition FROM message_definitions"
                    " WHERE encoding = 'ros2msg'"
                )
            )
        counts = dict(
            self._connection.execute("SELECT topic_id, COUNT(*) FROM messages GROUP BY topic_id")
        )
        query = f"SELECT id, name, type, {encoding} FROM topics ORDER BY id"
        return tuple(
            StoredTopic(number, name, kind, form, definitions.get(kind, ""), counts.get(number, 0))
            for number, name, kind, form in self._connection.execute(query)
        )
