"""transformers, imported with the network switched off.

It takes seconds to import: what needs it imports this where a model is loaded, and no sooner.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Before the import: the Hub's library reads the variable then, and only then.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import transformers

__all__ = ["quiet", "transformers"]


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' progress bars and load reports; our errors say what matters."""
    logs: Any = transformers.utils.logging
    verbosity = logs.get_verbosity()
    bars = logs.is_progress_bar_enabled()
    logs.set_verbosity_error()
    logs.disable_progress_bar()
    try:
        yield
    finally:
        logs.set_verbosity(verbosity)
        if bars:
            logs.enable_progress_bar()
