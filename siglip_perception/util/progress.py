"""How far long work is: a bar on a terminal, plain lines in a log."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TextIO


@contextlib.contextmanager
def shown(stream: TextIO | None = None) -> Iterator[Callable[[str, float], None]]:
    """A function that takes what is being done and how much of the whole is, in [0, 1].

    stream: stderr where it is not given. Nothing is shown before the first call.
    """
    stream = stream or sys.stderr
    if not stream.isatty():
        told = ""

        def plain(what: str, share: float) -> None:
            nonlocal told
            line = f"building engines: {int(share * 10) * 10} %, {what}"
            if line != told:
                told = line
                print(line, file=stream, flush=True)

        yield plain
        return

    from tqdm import tqdm

    bar = None

    def drawn(what: str, share: float) -> None:
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
        yield drawn
    finally:
        if bar is not None:
            bar.close()


def progress(stream: TextIO, unit: str = "image") -> Callable[[int, int], None]:
    """A progress bar on a terminal, a plain line at every tenth of the way elsewhere."""
    if not stream.isatty():

        def plain(done: int, total: int) -> None:
            if done % max(1, total // 10) == 0 or done == total:
                print(f"{done} of {total} {unit}s", file=stream, flush=True)

        return plain

    from tqdm import tqdm

    bar = tqdm(unit=unit, file=stream)

    def drawn(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)
        if done == total:
            bar.close()

    return drawn
