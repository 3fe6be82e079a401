"""Join features with the items of LeRobot's own reader, in an environment that has lerobot.

    python test/features/lerobot_reader.py DATASET DIR [--count 200] [--backend pyav]

DIR: what `siglip-perception features DATASET -o DIR` has written of that one dataset. Items by
chance are looked up in DIR's rows by (episode_index, frame_index); timestamps and tasks are
compared. It needs lerobot and pyarrow alone: nothing of this project, and so another Python.
"""

from __future__ import annotations

import argparse
import importlib
import os
import random
import sys
from typing import Any

import pyarrow.dataset


def main() -> int:
    """Compare items of both; return 1 where one is not there, or differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset")
    parser.add_argument("folder")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--backend", default="pyav", help="LeRobot's reader of videos")
    args = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    # Not a dependency of the project: it asks for another Python and another PyTorch.
    lerobot: Any = importlib.import_module("lerobot")
    module: Any = importlib.import_module("lerobot.datasets.lerobot_dataset")
    items = module.LeRobotDataset("local/dataset", root=args.dataset, video_backend=args.backend)
    rows = pyarrow.dataset.dataset(f"{args.folder}/rows").to_table(
        columns=["episode_index", "frame_index", "timestamp", "text"]
    )
    by_key = {
        (row["episode_index"], row["frame_index"]): row for row in rows.to_pylist()
    }  # of several cameras the last: they share time and task
    chosen = random.Random(0).sample(range(len(items)), min(args.count, len(items)))
    wrong = 0
    for number in chosen:
        item = items[number]
        key = int(item["episode_index"]), int(item["frame_index"])
        row = by_key.get(key)
        # LeRobot stores seconds as float32.
        is_equal = (
            row is not None
            and abs(row["timestamp"] - float(item["timestamp"])) < 1e-4
            and row["text"] == item["task"]
        )
        if not is_equal:
            print(f"item {number} {key}: LeRobot {item['timestamp']}, {item['task']!r}; {row}")
            wrong += 1
    print(
        f"lerobot {lerobot.__version__}: {items.num_episodes} episodes, {len(items)} frames; rows"
        f" {len(rows)}; of {len(chosen)} items {len(chosen) - wrong} have the row of their key"
    )
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
