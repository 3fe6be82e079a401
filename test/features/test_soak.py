"""A large corpus through the real command: `pytest -m soak -s test/features/test_soak.py`.

With -o faulthandler_timeout=0 pytest prints no stacks meanwhile.

SOAK_FRAMES: frames drawn over the four kinds of sources, all distinct (20000). SOAK_KILLS: how
often each run is killed (20), SOAK_SEED: when. SOAK_DIR: where the corpus and the features stay to
be looked at and searched (out/soak); the corpus is drawn once. The bf16 tokens of 20,000 frames
take 5 GB, twice that while two runs are compared.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

import corpora
import numpy as np
import pyarrow.parquet as pq
import pytest

from siglip_perception.scenes.scenes import Scene, render, sample_scene
from siglip_perception.scenes.vocabulary import sample_caption

FRAMES = int(os.environ.get("SOAK_FRAMES", "20000"))
KILLS = int(os.environ.get("SOAK_KILLS", "20"))
SEED = int(os.environ.get("SOAK_SEED", "0"))
FOLDER = Path(os.environ.get("SOAK_DIR", "out/soak")).absolute()
ROOT = Path(__file__).parents[2]
EPISODE = 50
SIZE, MARGIN = (320, 240), (80, 60)
RUNS = {
    "vectors": ("--outputs", "tokens,pooled", "--shard-frames", "200"),
    "objects": (
        *("--outputs", "tokens,pooled,objects", "--phrases", "red cup", "접시"),
        *("--dtype", "int8", "--every", "5", "--shard-frames", "100"),
    ),
}


@dataclass(frozen=True)
class Episode(Sequence[corpora.Image]):
    """A camera that moves over one drawn scene: EPISODE frames, each of another place in it.

    Drawn when it is read, so that no corpus has to fit into memory.
    """

    number: int

    @property
    def scene(self) -> Scene:
        rng = np.random.default_rng((21, self.number))
        return sample_scene(rng, int(rng.integers(1, 5)))

    @property
    def caption(self) -> str:
        things = [(item.color, item.kind) for item in self.scene.objects]
        rng = np.random.default_rng((22, self.number))
        return sample_caption(things, "ko" if self.number % 4 == 3 else "en", rng)

    def __len__(self) -> int:
        return EPISODE

    @overload
    def __getitem__(self, index: int) -> corpora.Image: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[corpora.Image]: ...
    def __getitem__(self, index: int | slice) -> corpora.Image | Sequence[corpora.Image]:
        return list(self)[index]

    def __iter__(self) -> Iterator[corpora.Image]:
        width, height = SIZE
        picture = render(self.scene, width + MARGIN[0], height + MARGIN[1]).image
        for number in range(EPISODE):
            x = number * MARGIN[0] // EPISODE
            y = round(MARGIN[1] / 2 * (1 + np.sin(number / 8)))
            yield np.ascontiguousarray(picture[y : y + height, x : x + width])


@dataclass
class Corpus:
    """sources: of the command. faults: names of what cannot be read, and what was done to it."""

    sources: list[str]
    faults: dict[str, str]


def write_corpus(folder: Path) -> Corpus:
    """Draw a quarter of the frames for each kind of source, then add what cannot be read.

    A folder that is there is taken as it is.
    """
    bags, lerobot, pictures, shards, broken = (
        folder / name for name in ("bags", "lerobot", "pictures", "shards", "broken")
    )
    facts = folder / "faults.json"
    sources = [str(path) for path in (bags, lerobot, pictures, shards, broken)]
    if not facts.is_file():
        shutil.rmtree(folder, ignore_errors=True)
        count = max(1, FRAMES // (4 * EPISODE))
        numbers = iter(range(4 * count))

        def episodes(size: int) -> list[Episode]:
            return [Episode(next(numbers)) for _ in range(size)]

        bags.mkdir(parents=True)
        shards.mkdir()
        for group in range(0, count, 5):
            part = episodes(min(5, count - group))
            captions = [(place * EPISODE, item.caption) for place, item in enumerate(part)]
            storage = ("mcap", "sqlite3")[group // 5 % 2]
            frames = (frame for item in part for frame in item)
            corpora.write_bag(bags / f"bag_{group:04d}", frames, storage, captions)
        part = episodes(count)
        corpora.write_lerobot(lerobot, part, "v3.0", tasks=[item.caption for item in part])
        for number in range(count):
            (item,) = episodes(1)
            if number % 5 == 4:
                corpora.write_video(pictures / f"video_{number:04d}.mp4", item)
            else:
                captions_of = [item.caption] * EPISODE
                corpora.write_folder(pictures / f"episode_{number:04d}", item, captions_of)
        for group in range(0, count, 10):
            part = episodes(min(10, count - group))
            texts = [item.caption for item in part for _ in item]
            frames = (frame for item in part for frame in item)
            corpora.write_tar(shards / f"shard-{group:04d}.tar", frames, texts)
        facts.write_text(json.dumps(_write_broken(broken), indent=2))
    return Corpus(sources, json.loads(facts.read_text()))


def _write_broken(folder: Path) -> dict[str, str]:
    """Write sources that break; return what is left out of each, by the name in the report."""
    frames = list(Episode(10**6))[:20]
    pictures = corpora.write_folder(folder / "pictures", frames)
    cut = pictures / "frame_000005.jpg"
    cut.write_bytes(cut.read_bytes()[:100])
    (folder / "unreadable.mp4").write_bytes(b"no video" * 100)
    for storage, ending in (("mcap", ".mcap"), ("sqlite3", ".db3")):
        bag = corpora.write_bag(folder / f"cut_{storage}", frames, storage)
        (file,) = bag.glob(f"*{ending}")
        file.write_bytes(file.read_bytes()[: file.stat().st_size * 6 // 10])
    corpora.write_tar(folder / "shard.tar", frames)
    data = (folder / "shard.tar").read_bytes()
    picture = corpora.jpeg(frames[5])
    (folder / "shard.tar").write_bytes(data.replace(picture, b"\0" * len(picture)))
    lerobot = corpora.write_lerobot(folder / "lerobot", [frames[:10], frames[10:]], "v3.0")
    (video,) = lerobot.rglob("*.mp4")
    video.write_bytes(video.read_bytes()[:2000])
    return {
        "frame_000005.jpg": "a JPEG of 100 bytes",
        "unreadable.mp4": "no video",
        "cut_mcap": "an MCAP bag cut off at 60 %",
        "cut_sqlite3": "an sqlite3 bag cut off at 60 %",
        "shard.tar": "a picture of zeros in a shard",
        "lerobot": "a LeRobot dataset whose video is cut off",
    }


@dataclass
class Use:
    """Use of a running process. memory: its own, MiB, by shards written; first: seconds to one."""

    seconds: float = 0.0
    first: float = 0.0
    memory: list[tuple[int, float]] = field(default_factory=list)


def start(corpus: Corpus, options: Sequence[str], place: Path) -> subprocess.Popen[bytes]:
    """Begin the command in `place`, into place/features: its command line is part of the rows."""
    command = [sys.executable, "-m", "siglip_perception.commands.main", "features"]
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    with (place / "log.txt").open("ab") as log:
        return subprocess.Popen(
            [*command, *corpus.sources, "-o", "features", "--yes", *options],
            cwd=place,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            stdout=log,
            stderr=log,
        )


def shards(place: Path) -> int:
    return len(list((place / "features" / "rows").glob("part-*.parquet")))


def run_whole(corpus: Corpus, options: Sequence[str], place: Path) -> Use:
    """Run to the end, and look at the process each second."""
    use, begin = Use(), time.monotonic()
    process = start(corpus, options, place)
    while True:
        try:
            code = process.wait(timeout=1)
            break
        except subprocess.TimeoutExpired:
            count = shards(place)
            use.memory.append((count, anonymous_memory(process.pid)))
            if count and not use.first:
                use.first = time.monotonic() - begin
    use.seconds = time.monotonic() - begin
    assert code == 1, (place / "log.txt").read_text()[-2000:]  # 1: something was left out
    return use


def anonymous_memory(pid: int) -> float:
    """MiB that a process has for itself: without the pages of files, which the system can drop."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


def run_killed(corpus: Corpus, options: Sequence[str], place: Path, use: Use) -> list[int]:
    """Kill the run KILLS times, then let it end; return the shards that were there at each kill.

    Each kill waits for a number of shards by chance, so that it meets the run anywhere on any
    machine, then strikes within a shard's time; where they are there from before, from the start
    of the process on.
    """
    moments = random.Random(SEED)
    total = max(1, use.memory[-1][0])
    targets = sorted(moments.randrange(max(1, total * 4 // 5)) for _ in range(KILLS))
    counts = []
    for number, target in enumerate(targets):
        process = start(corpus, options, place)
        delay = use.first if shards(place) >= target else (use.seconds - use.first) / total
        while shards(place) < target and process.poll() is None:
            time.sleep(0.02)
        try:
            process.wait(timeout=moments.uniform(0, delay))
            pytest.fail(f"the run ended after {number} of {KILLS} kills: draw more frames")
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
        counts.append(shards(place))
    assert start(corpus, options, place).wait() == 1
    return counts


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of rows and tokens."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.glob("*/*"))
    }


def check_report(corpus: Corpus, folder: Path) -> dict[str, Any]:
    """Check that what is left out is what was broken, and that each fault is named."""
    report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    assert report["finished"] is True
    frames = report["frames"]
    assert frames["planned"] - frames["written"] == frames["left_out"]
    names = [item["name"] for entry in report["left_out"].values() for item in entry["items"]]
    broken = corpus.sources[-1]
    assert all(name.startswith(broken) for name in names), "only what was broken is left out"
    for fault in corpus.faults:
        assert any(fault in name for name in names), fault
    for reason, entry in report["left_out"].items():
        print(f"left out: {reason}: {entry['count']}, as {entry['items'][0]}")
    return report


@pytest.mark.soak
@pytest.mark.parametrize("name", RUNS)
def test_a_large_corpus_ends_as_undisturbed_after_many_kills(name: str) -> None:
    begin = time.monotonic()
    corpus = write_corpus(FOLDER / f"corpus-{FRAMES}")
    print(f"\ncorpus: {FRAMES} frames and {len(corpus.faults)} faults,", end=" ")
    print(f"{time.monotonic() - begin:.0f} s")
    whole, killed = (FOLDER / f"{name}-{kind}" for kind in ("whole", "killed"))
    for place in (whole, killed):
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
    use = run_whole(corpus, RUNS[name], whole)
    report = check_report(corpus, whole / "features")
    print(f"{name}: {report['frames']}, {report['bytes'] / 1e9:.2f} GB, {use.seconds:.0f} s in")
    print(f"all, of which {use.first:.0f} s to the first shard; {report['this_run']}")
    memory = np.array(use.memory)
    last = memory[-1, 0]
    early, late = (
        float(np.median(memory[(memory[:, 0] >= low * last) & (memory[:, 0] <= high * last), 1]))
        for low, high in ((0.1, 0.4), (0.7, 1.0))
    )
    print(f"memory: {early:.0f} MiB at 10 to 40 % of the frames, {late:.0f} MiB at 70 to 100 %")
    assert late <= 1.1 * early
    counts = run_killed(corpus, RUNS[name], killed, use)
    print(f"shards at each kill: {counts}; at the end {shards(killed)}")
    check_report(corpus, killed / "features")
    expected = digests(whole / "features")
    assert digests(killed / "features") == expected
    together = hashlib.sha256(json.dumps(expected).encode()).hexdigest()
    print(f"{len(expected)} files are equal, byte for byte; SHA-256 of their digests {together}")
    table = pq.read_table(whole / "features" / "rows", columns=["pooled"])
    vectors = table["pooled"].combine_chunks().flatten().to_numpy().reshape(len(table), -1)
    distinct = len({row.tobytes() for row in vectors})
    print(f"{len(table)} rows, {distinct} distinct pooled vectors")
    shutil.rmtree(killed)
