"""Progress of long work: a bar on a terminal, plain lines in a log."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Protocol, TextIO


@contextlib.contextmanager
def build_progress(stream: TextIO | None = None) -> Iterator[Callable[[str, float], None]]:
    """Yield a function that takes the current step and the share that is done, in [0, 1].

    stream: None for stderr. Shows nothing before the first call.
    """
    stream = stream or sys.stderr
    if not stream.isatty():
        last_line = ""

        def plain(what: str, share: float) -> None:
            nonlocal last_line
            line = f"building engines: {int(share * 10) * 10} %, {what}"
            if line != last_line:
                last_line = line
                print(line, file=stream, flush=True)

        yield plain
        return

    from tqdm import tqdm

    bar = None

    def draw(what: str, share: float) -> None:
        nonlocal bar
        if bar is None:
            bar = tqdm(
                total=100,
                file=stream,
                bar_format="{l_bar}{bar}| {elapsed}",
                desc="building engines",
            )
        bar.set_description(f"building engines: {what}", refresh=False)
        bar.n = round(share * 100)
        bar.refresh()

    try:
        yield draw
    finally:
        if bar is not None:
            bar.close()


class Progress(Protocol):
    """Shows how far work is: called with how many are done, of how many, and what else to say."""

    def __call__(self, count: int, total: int, note: str = "") -> None: ...


def progress(stream: TextIO, unit: str = "image", done: int = 0) -> Progress:
    """Make a progress bar on a terminal, a plain line at every tenth elsewhere.

    done: how many were done before; they do not count for the rate.
    """
    if not stream.isatty():
        last_tenth = 0

        def plain(count: int, total: int, note: str = "") -> None:
            nonlocal last_tenth
            tenth = count // max(1, total // 10)
            if tenth != last_tenth or count == total:
                last_tenth = tenth
                more = f", {note}" if note else ""
                print(f"{count} of {total} {unit}s{more}", file=stream, flush=True)

        return plain

    from tqdm import tqdm

    bar = tqdm(unit=unit, file=stream, initial=done)

    def draw(count: int, total: int, note: str = "") -> None:
        bar.total = total
        if note:
            bar.set_postfix_str(note, refresh=False)
        bar.update(count - bar.n)
        if count == total:
            bar.close()

    return draw
