"""Text files of data sets: which encoding they are in, and where they are not in it."""

from __future__ import annotations

import codecs

# UTF-32's mark begins with UTF-16's: the longer ones first.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_LOOKED_AT = 4096


def decode_text(data: bytes, errors: str = "strict") -> str:
    """The text of UTF-8, or of UTF-16 or -32 by their mark or their NULs, without the mark.

    errors: as of bytes.decode(). Raises UnicodeDecodeError in strict mode.
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, errors)
    head = data[:_LOOKED_AT]
    nuls = [sum(byte == 0 for byte in head[start::2]) for start in (0, 1)]
    # In UTF-16 of mostly ASCII every other byte is NUL; no UTF-8 text has many.
    if sum(nuls) * 4 > len(head) and (nuls[0] == 0 or nuls[1] == 0):
        return data.decode("utf-16-le" if nuls[1] else "utf-16-be", errors)
    return data.decode("utf-8", errors)
