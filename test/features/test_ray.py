"""A run on a Ray cluster of several processes: what is killed on the way is begun again."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import corpora
import pyarrow.parquet as pq
import pytest

from siglip_perception.commands.main import main
from siglip_perception.config import ModelSelection
from siglip_perception.features.request import Request
from siglip_perception.features.run import Run, look
from siglip_perception.pipeline import Pipeline
from siglip_perception.util import requirements

WAIT = 600.0


def rows(folder: Path) -> list[Any]:
    return [pq.read_table(path).to_pydict() for path in sorted((folder / "rows").glob("*"))]


def tokens(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted((folder / "tokens").glob("*"))]


def test_without_ray_the_command_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    present: Callable[[str], bool] = requirements.is_there
    monkeypatch.setattr(requirements, "is_there", lambda name: name != "ray" and present(name))
    source = corpora.write_folder(tmp_path / "pictures", corpora.images(1))
    assert main(["features", str(source), "-o", str(tmp_path / "out"), "--ray", "local"]) == 2
    error = capsys.readouterr().err
    assert "--ray needs ray, not installed here: pip install" in error
    assert error.count("\n") == 1


@pytest.mark.slow
def test_a_worker_and_a_node_that_are_killed_lose_nothing(
    tmp_path: Path, pipeline: Pipeline, model: Path
) -> None:
    """The extra `ray` brings Ray."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install '.[ray]'")
    from ray.cluster_utils import Cluster

    def wish(folder: Path) -> Request:
        return Request(
            (str(source),),
            folder,
            ModelSelection(str(model), "tabletop", "torch", "cpu", "fp32"),
            ("tokens", "pooled"),
            "bf16",
            batch=2,
            shard_frames=2,
        )

    source = corpora.write_folder(tmp_path / "pictures", corpora.images(20))
    Run(wish(tmp_path / "whole"), *look(wish(tmp_path / "whole")), pipeline).encode(
        lambda *step: None
    )
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        steps: list[int] = []
        failures: list[BaseException] = []

        def encode() -> None:
            try:
                request = wish(tmp_path / "killed")
                run = Run(request, *look(request), pipeline)
                run.encode(lambda count, total, lost: steps.append(count), cluster.address)
            except BaseException as error:  # noqa: BLE001 - the test reports it
                failures.append(error)

        thread = threading.Thread(target=encode)
        thread.start()

        def wait_for(count: int) -> None:
            deadline = time.monotonic() + WAIT
            done = tmp_path / "killed" / "rows"
            while len(list(done.glob("part-*"))) < count and thread.is_alive():
                assert time.monotonic() < deadline
                time.sleep(0.01)

        wait_for(1)
        victim = workers()[0]
        os.kill(victim, signal.SIGKILL)
        wait_for(3)
        cluster.remove_node(nodes[1], allow_graceful=False)
        cluster.add_node(num_cpus=1)
        thread.join(WAIT)
        assert not thread.is_alive()
        assert not failures, failures
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert rows(tmp_path / "killed") == rows(tmp_path / "whole")
    assert tokens(tmp_path / "killed") == tokens(tmp_path / "whole")
    assert steps[-1] == 20


def workers() -> list[int]:
    """Processes that hold a model for Ray, of those that this test has started."""
    return [pid for pid in descendants(os.getpid()) if b"MapWorker" in _read(pid, "cmdline")]


def descendants(parent: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        # After the name in brackets: state, then the parent.
        fields = _read(int(folder.name), "stat").rpartition(b")")[2].split()
        if len(fields) > 1:
            children.setdefault(int(fields[1]), []).append(int(folder.name))
    found: list[int] = []
    waiting = [parent]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:  # it has ended
        return b""
