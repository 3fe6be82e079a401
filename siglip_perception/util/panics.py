"""Panics of libraries in Rust, as exceptions that `except Exception` catches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class PanicError(RuntimeError):
    """A library in Rust panicked; the text is its own."""


@contextmanager
def panics_as_errors() -> Iterator[None]:
    """Raise PanicError for a panic.

    PyO3's PanicException is a BaseException: it would end the thread in which a hostile or broken
    tokenizer.json makes the tokenizers library panic.
    """
    try:
        yield
    except BaseException as error:
        if type(error).__name__ == "PanicException":
            raise PanicError(str(error)) from error
        raise
