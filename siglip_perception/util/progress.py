"""Progress of long work: a bar on a terminal, plain lines in a log."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TextIO


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


def progress(stream: TextIO, unit: str = "image") -> Callable[[int, int], None]:
    """Make a progress bar on a terminal, a plain line at every tenth elsewhere."""
    if not stream.isatty():

        def plain(count: int, total: int) -> None:
            if count % max(1, total // 10) == 0 or count == total:
                print(f"{count} of {total} {unit}s", file=stream, flush=True)

        return plain

    from tqdm import tqdm

    bar = tqdm(unit=unit, file=stream)

    def draw(count: int, total: int) -> None:
        bar.total = total
        bar.update(count - bar.n)
        if count == total:
            bar.close()

    return draw
