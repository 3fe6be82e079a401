"""Coverage-guided fuzzing of one target of fuzz_targets.py, with atheris (pip install atheris).

    PYTHONPATH=.:test python test/soak/guided.py contracts -max_total_time=3600 corpus/

The options are libFuzzer's; the folder keeps what was found, so that the next run goes on from it.
"""

from __future__ import annotations

import importlib
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

# Not a dependency of the project: its wheels exist for few versions of Python.
atheris: Any = importlib.import_module("atheris")


def main() -> None:
    """Fuzz the target that the first argument names; pass the others to libFuzzer."""
    name, *options = sys.argv[1:]
    with atheris.instrument_imports(include=["siglip_perception", "yaml", "fuzz_targets"]):
        target = importlib.import_module("fuzz_targets").TARGETS[name]()
    for corpus in (Path(option) for option in options if not option.startswith("-")):
        corpus.mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(target.seeds[:500]):
            (corpus / f"seed{number}").write_bytes(seed)

    def read(data: bytes) -> None:
        with suppress(*target.errors):
            target.read(data)

    atheris.Setup([sys.argv[0], *options], read)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
