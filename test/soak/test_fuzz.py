"""Fuzzing in shards that go on where they stopped: `pytest -m soak test/soak/test_fuzz.py`.

SOAK_SECONDS: how long each target runs (10). SOAK_SHARD: "0/2" is the first of two processes.
SOAK_DIR: where counts and failing inputs are kept (out/soak). Case number n of a target is always
the same input, so a failure is reproduced by its number.
"""

from __future__ import annotations

import json
import os
import time
import traceback
from pathlib import Path
from random import Random

import pytest
from fuzz_targets import TARGETS, Target, mutate

BLOCK = 500
SLOW_SECONDS = 2.0
MAX_FAILURES = 20
FOLDER = Path(os.environ.get("SOAK_DIR", "out/soak"))
SECONDS = float(os.environ.get("SOAK_SECONDS", "10"))
SHARD, SHARDS = map(int, os.environ.get("SOAK_SHARD", "0/1").split("/"))


def case(target: Target, name: str, number: int) -> bytes:
    random = Random(f"{name} {number}")
    seed = random.choice(target.seeds)
    return mutate(seed, random, target.seeds, is_text=target.is_text)


def trouble_of(target: Target, data: bytes) -> str:
    """Read an input; return a traceback if it raises what it must not, or is slow."""
    start = time.process_time()
    try:
        target.read(data)
    except target.errors:
        pass
    except BaseException:  # noqa: BLE001 - what fuzzing looks for
        return traceback.format_exc()
    seconds = time.process_time() - start
    return f"it took {seconds:.1f} s" if seconds > SLOW_SECONDS else ""


@pytest.mark.soak
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TARGETS)
def test_no_input_does_more_than_raise_its_error(name: str) -> None:
    target = TARGETS[name]()
    FOLDER.mkdir(parents=True, exist_ok=True)
    count_file = FOLDER / f"{name.replace(' ', '_')}.{SHARD}of{SHARDS}.json"
    block = json.loads(count_file.read_text())["blocks"] if count_file.exists() else 0
    failures = []
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        first = (block * SHARDS + SHARD) * BLOCK
        for number in range(first, first + BLOCK):
            data = case(target, name, number)
            if trouble := trouble_of(target, data):
                failures.append(f"case {number}: {trouble}")
                if len(failures) > MAX_FAILURES:
                    pytest.fail("\n".join(failures))
                (FOLDER / f"{name.replace(' ', '_')}.{number}.bin").write_bytes(data)
        block += 1
        count_file.write_text(json.dumps({"blocks": block, "cases": block * BLOCK}))
    assert not failures, "\n".join(failures[:5])
