"""Cost of each contract's pixel steps for a camera frame, on this CPU.

    python bench/pixels.py [--size 640x480] [--repeats 30] [CONTRACT ...]

Prints for each contract the least time of a frame by the clock and the processor's time, in
milliseconds, its crops and each encoder's padding included: on a busy machine the second is what
the steps need. The goal is 5 ms on two cores; a contract that takes longer by the clock is marked,
and the load is printed.
"""

from __future__ import annotations

import argparse
import os
import time

import torch

from siglip_perception import contracts
from siglip_perception.images.crops import CropPlan
from siglip_perception.images.preprocess import EncoderInput, Preprocessor
from siglip_perception.images.squares import to_square
from siglip_perception.parity.golden_pictures import pictures

_WARM_UP = 3
_GOAL_MS = 5.0


def main() -> None:
    """Measure and print one line for each contract."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("contracts", nargs="*", metavar="CONTRACT", help="default: all")
    parser.add_argument("--size", default="640x480", help="of the frame (default: 640x480)")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--threads", type=int, default=2, help="PyTorch's (default: 2)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    width, height = (int(side) for side in args.size.split("x"))
    source = pictures()["hd"]
    frame = source[:height, :width]
    if frame.shape[:2] != (height, width):
        parser.error(f"--size is at most {source.shape[1]}x{source.shape[0]}")
    print(
        f"{width}x{height}, {args.threads} threads, least of {args.repeats};"
        f" {os.cpu_count()} cores, {os.getloadavg()[0]:.1f} processes want to run"
    )
    for name in args.contracts or contracts.names():
        contract = contracts.get(name)
        inputs = tuple(EncoderInput.of(contract, spec) for spec in contract.encoders)
        preprocess = Preprocessor(inputs, torch.device("cpu"))
        plan = CropPlan.of(contract)
        squares = dict.fromkeys(encoder_input.square for encoder_input in inputs)
        steps, whole = [], []
        for repeat in range(_WARM_UP + args.repeats):
            start, busy = time.perf_counter(), time.process_time()
            views = [frame] if plan is None else plan.views(frame)
            for spec in squares:
                for view in views:
                    to_square(view, spec)
            middle, middle_busy = time.perf_counter(), time.process_time()
            preprocess([frame] if plan is None else plan.views(frame))
            if repeat >= _WARM_UP:
                steps.append((middle - start, middle_busy - busy))
                whole.append((time.perf_counter() - middle, time.process_time() - middle_busy))
        columns = [
            min(column) * 1000 for pairs in (steps, whole) for column in zip(*pairs, strict=True)
        ]
        print(
            f"{name:<24} steps {columns[0]:6.2f} ms ({columns[1]:6.2f} of processor),"
            f" with normalization {columns[2]:6.2f} ({columns[3]:6.2f})"
            + (", over the goal" if columns[0] > _GOAL_MS else "")
        )


if __name__ == "__main__":
    main()
