"""Past one machine: Ray Data hands the shards out to actors that hold the model.

A shard's code is that of one machine, and a finished shard in the folder is the checkpoint: what
dies with a worker or a node is begun again elsewhere, and every shard appears whole or not at all.
The folder and the sources have to be on storage that all nodes mount under the same path.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from typing import Any

from siglip_perception.bags.replay import deterministic
from siglip_perception.errors import DatasetError, PerceptionError
from siglip_perception.features.encode import Encoder
from siglip_perception.features.job import Job
from siglip_perception.features.plan import ShardPlan
from siglip_perception.features.request import Request
from siglip_perception.features.shards import shard_facts
from siglip_perception.features.sources.open import Corpus
from siglip_perception.util import requirements

USE = "--ray"
# Shards that wait at an actor: one, so that it never idles between two.
_IN_FLIGHT = 2
_MOST_ACTORS = 10_000


def encode_on_ray(
    request: Request,
    corpus: Corpus,
    job: Job,
    shards: Sequence[ShardPlan],
    step: Callable[[int, int], None],
    address: str,
) -> None:
    """Encode the shards on a cluster; see Run.encode().

    address: of the cluster; "local" starts one of this machine's cores, which ends with the run.
    Actors come and go with the cluster's GPUs, or with its cores where it has no GPU.
    """
    # Before Ray is imported: it reports usage to its makers unless it is told not to.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray = requirements.load(USE, "ray")
    ray_data = requirements.load(USE, "ray.data")
    is_local = address == "local"
    was_connected = ray.is_initialized()
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    if not was_connected:
        try:
            ray.init(
                address="local" if is_local else address,
                include_dashboard=False if is_local else None,
                log_to_driver=False,
                logging_level="ERROR",
            )
        except (ConnectionError, ValueError, RuntimeError, OSError) as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise PerceptionError(
                f"There is no Ray cluster at {address} ({reason}): start one with `ray start`, or"
                " give --ray local."
            ) from error
    try:
        context = ray_data.DataContext.get_current()
        context.enable_progress_bars = False
        has_gpus = ray.cluster_resources().get("GPU", 0) > 0
        numbers = ray_data.from_items(
            [{"place": place} for place in range(len(shards))], override_num_blocks=len(shards)
        )
        results = numbers.map_batches(
            ShardActor,
            fn_constructor_args=(request, corpus, job, list(shards)),
            batch_size=1,
            compute=ray_data.ActorPoolStrategy(
                min_size=1,
                max_size=min(len(shards), _MOST_ACTORS),
                max_tasks_in_flight_per_actor=_IN_FLIGHT,
            ),
            **({"num_gpus": 1} if has_gpus else {"num_cpus": 1}),
        )
        for row in results.iter_rows():
            if row["error"]:
                raise DatasetError(row["error"])
            step(int(row["frames"]), int(row["left_out"]))
    finally:
        if not was_connected:
            ray.shutdown()


class ShardActor:
    """Holds a loaded model on a worker; encodes the shards whose places it is called with."""

    def __init__(
        self, request: Request, corpus: Corpus, job: Job, shards: Sequence[ShardPlan]
    ) -> None:
        self._job, self._shards, self._folder = job, shards, request.folder
        self._error = ""
        from siglip_perception.pipeline import Pipeline

        try:
            pipeline = Pipeline.load(request.selection)
            arithmetic = pipeline.backend.partition(" (")[0]
            if (pipeline.fingerprint, arithmetic) != (job.fingerprint, job.arithmetic):
                raise DatasetError(
                    f"A worker runs {arithmetic}, and the run was begun on {job.arithmetic}: give"
                    " --device, --backend and --precision that all nodes have, and the same model."
                )
            self._encoder = Encoder(pipeline, corpus, job, request.folder)
        except PerceptionError as error:
            self._error = str(error)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Encode shards; columns frames and left_out of each, and error, "" without one."""
        results: dict[str, list[Any]] = {"frames": [], "left_out": [], "error": []}
        for place in batch["place"]:
            shard = self._shards[int(place)]
            error = self._error
            # A retry of what another worker has finished just before it died costs nothing.
            facts = shard_facts(self._folder, shard.number, self._job)
            if not error and facts is None:
                try:
                    with deterministic():
                        self._encoder.run([shard], lambda frames, left_out: None)
                    facts = shard_facts(self._folder, shard.number, self._job)
                except PerceptionError as problem:
                    error = str(problem)
            lost = facts.planned - facts.rows if facts else 0
            results["frames"].append(shard.frames)
            results["left_out"].append(lost)
            results["error"].append(error)
        return results
