"""Detect the encoding of a data set's text files."""

from __future__ import annotations

import codecs

# UTF-32's byte order mark begins with UTF-16's, so the longer ones come first.
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_LOOKED_AT = 4096


def text_encoding(head: bytes) -> str:
    """Detect UTF-16 or UTF-32 from a byte order mark or NULs in the first bytes, else UTF-8."""
    for mark, encoding in _MARKS.items():
        if head.startswith(mark):
            return encoding
    head = head[:_LOOKED_AT]
    even, odd = (sum(byte == 0 for byte in head[start::2]) for start in (0, 1))
    # Mostly ASCII text in UTF-16 has a NUL in every other byte; UTF-8 text has hardly any.
    if (even + odd) * 4 > len(head) and 0 in (even, odd):
        return "utf-16-le" if odd else "utf-16-be"
    return "utf-8"


def decode_text(data: bytes) -> str:
    """Decode UTF-8, -16 or -32 without the mark; raise UnicodeDecodeError for anything else."""
    return data.decode(text_encoding(data))
