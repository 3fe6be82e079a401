"""Run over a corpus in processes that are killed one after the other; then once undisturbed.

    python killing.py SOURCE MODEL WHOLE KILLED KILLS

Children are forked from one process, which has loaded the model: to load it for each takes longer
than all the work. It runs one thread, as PyTorch's threads do not survive a fork.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from siglip_perception.config import ModelSelection
from siglip_perception.features.request import Request
from siglip_perception.features.run import Run, look
from siglip_perception.pipeline import Pipeline

WAIT = 240.0


def main(source: str, model: str, whole: str, killed: str, kills: str) -> None:
    torch.set_num_threads(1)

    def wish(folder: str) -> Request:
        return Request(
            (source,),
            Path(folder),
            ModelSelection(model, "tabletop", "torch", "cpu", "fp32"),
            ("tokens", "pooled"),
            "bf16",
            batch=2,
            shard_frames=2,
        )

    pipeline = Pipeline.load(wish(whole).selection)

    def start(folder: str) -> int:
        child = os.fork()
        if child:
            return child
        code = 1
        try:
            Run(wish(folder), *look(wish(folder)), pipeline).encode(lambda *step: None)
            code = 0
        finally:
            os._exit(code)

    def end(child: int) -> None:
        assert os.waitpid(child, 0)[1] == 0

    def shards() -> int:
        return len(list(Path(killed, "rows").glob("part-*.parquet")))

    end(start(whole))
    moments = random.Random(int(kills))
    for _ in range(int(kills)):
        count = shards()
        child = start(killed)
        deadline = time.monotonic() + WAIT
        while shards() == count:
            assert time.monotonic() < deadline
            assert os.waitpid(child, os.WNOHANG) == (0, 0), "it ended before it was killed"
            time.sleep(0.0005)
        # Anywhere in the next shard, which is being decoded, computed or written.
        time.sleep(moments.uniform(0, 0.02))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        print(shards(), flush=True)
    end(start(killed))


if __name__ == "__main__":
    main(*sys.argv[1:])
