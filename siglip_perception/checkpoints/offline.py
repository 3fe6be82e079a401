"""transformers, imported with the network switched off.

It takes seconds to import: what needs it imports this where a model is loaded, and no sooner.
"""

from __future__ import annotations

import os

# Before the import: the Hub's library reads the variable then, and only then.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import transformers

__all__ = ["transformers"]
