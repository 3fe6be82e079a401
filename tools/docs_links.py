"""Hook of mkdocs: name what a document links to outside of docs/, which the site does not have."""

from __future__ import annotations

import posixpath
import re
from typing import Any

_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]+)(#[^)]*)?\)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Return the page's text with such links replaced by the file's name."""
    folder = posixpath.join("docs", posixpath.dirname(page.file.src_uri))

    def named(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(folder, match[3]))
        if "://" in match[3] or path.startswith("docs/"):
            return match[0]
        text = match[2].strip("`")
        return f"`{path}`" if text == path else f"{match[2]} (`{path}` in the repository)"

    return _LINK.sub(named, markdown)
