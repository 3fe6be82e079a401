"""Text files of data sets: which encoding they are in."""

from __future__ import annotations

import codecs

# UTF-32's mark begins with UTF-16's: the longer ones first.
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_LOOKED_AT = 4096


def text_encoding(head: bytes) -> str:
    """The encoding of a text by its first bytes: UTF-16 or -32 by their mark or NULs, or UTF-8."""
    for mark, encoding in _MARKS.items():
        if head.startswith(mark):
            return encoding
    head = head[:_LOOKED_AT]
    even, odd = (sum(byte == 0 for byte in head[start::2]) for start in (0, 1))
    # In UTF-16 of mostly ASCII every other byte is NUL; no UTF-8 text has many.
    if (even + odd) * 4 > len(head) and 0 in (even, odd):
        return "utf-16-le" if odd else "utf-16-be"
    return "utf-8"


def decode_text(data: bytes) -> str:
    """The text of UTF-8, -16 or -32, without its mark; UnicodeDecodeError for anything else."""
    return data.decode(text_encoding(data))
