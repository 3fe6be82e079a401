"""The engine of the page: one thread that reads a source and runs the pipeline over it."""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from siglip_perception.errors import ImageError, PerceptionError
from siglip_perception.grounding.tracking import Tracker, TrackingOptions
from siglip_perception.images.fingerprint import pixel_fingerprint
from siglip_perception.images.overlay import outlines
from siglip_perception.images.pixel_reference import Alarm, PixelReference, StreamCheck
from siglip_perception.language.instruction import Instruction
from siglip_perception.stream.accounting import Counts, Ledger, Level
from siglip_perception.stream.instruction import CurrentInstruction
from siglip_perception.types import Frame, Grounding, Role, UInt8Array
from siglip_perception.view.playing import frame_to_show
from siglip_perception.view.requests import (
    Choose,
    Follow,
    Instruct,
    Pin,
    Play,
    Request,
    Seek,
    SetThreshold,
    Step,
    Unpin,
)
from siglip_perception.view.source import (
    LiveSource,
    NodeAnswer,
    RecordedSource,
    SourceError,
    SourceFrame,
    Status,
)
from siglip_perception.view.updates import Seen, State, Update, frame_update, state_update

if TYPE_CHECKING:
    # They import PyTorch, which takes seconds: the first picture is on the page before that.
    from siglip_perception.contracts import Contract
    from siglip_perception.pipeline import PatchFeatures, Pipeline, Query
    from siglip_perception.view.analysis import TokenPictures

# How long the engine waits for something to do before it looks at the source again, in seconds.
IDLE_S = 0.2
STATE_PERIOD_S = 1.0
# Token colors and maps are made at most so often, in seconds: an eye follows no more.
PANEL_PERIOD_S = 0.1
# Beside a live node, which needs the machine, the page's own model runs at most so often.
BESIDE_NODE_PERIOD_S = 1.0
# Phrases of one pass of the text tower.
_TEXT_BATCH = 64


@dataclass(frozen=True)
class EngineOptions:
    """instruction: the first one; "" for nothing. phrases: what a clicked thing is compared with.
    play: whether a recording plays from the start. tracking: give objects an id from frame to
    frame; None: they have none. pixel_reference: a training set's pixels, which the source's are
    compared with; None: they are not."""

    instruction: str = ""
    phrases: Sequence[str] = ()
    play: bool = True
    tracking: TrackingOptions | None = None
    pixel_reference: PixelReference | None = None


@dataclass(frozen=True)
class _Probed:
    """Embeddings of the phrases that a clicked thing is compared with."""

    phrases: tuple[str, ...]
    embeddings: Any


class Engine:
    """Reads frames, looks at them, and publishes what was seen; in a thread of its own.

    load: makes the pipeline, which takes seconds; beside a live node it is called only once a
    panel needs a model. publish: takes every update, from the engine's thread.
    """

    def __init__(
        self,
        source: RecordedSource | LiveSource,
        load: Callable[[], Pipeline],
        options: EngineOptions,
        publish: Callable[[Update], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._recording = source if isinstance(source, RecordedSource) else None
        self._live = source if isinstance(source, LiveSource) else None
        self._load = load
        self._options = options
        self._publish = publish
        self._clock = clock
        self._condition = threading.Condition()
        self._requests: deque[Request] = deque()
        self._panels: frozenset[str] | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="view engine", daemon=True)

        self._pipeline: Pipeline | None = None
        self._model, self._model_text = "loading", "the model is being loaded"
        self._threshold: float | None = None
        self._instruction = CurrentInstruction(self._log)
        self._following = True
        self._spoken = options.instruction
        self._ledger = Ledger()
        self._tracker = Tracker()
        reference = options.pixel_reference
        self._pixel_check = None if reference is None else StreamCheck(reference)
        self._camera = source.cameras[0]
        self._index = 0
        self._number = 0
        self._playing = options.play and self._recording is not None and self._recording.count > 1
        self._anchor: tuple[float, float] | None = None
        self._unseen = True
        self._trouble = ""
        self._pin: tuple[float, float] | None = None
        self._colors: TokenPictures | None = None
        self._probed: _Probed | None = None
        self._node_query: Query | None = None
        self._panel_at = -PANEL_PERIOD_S
        self._model_at = -BESIDE_NODE_PERIOD_S
        self._kept_blobs: Mapping[str, tuple[Mapping[str, Any], bytes]] = {}
        self._told: Update | None = None
        self._told_at = -STATE_PERIOD_S
        self._seen: Seen | None = None

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread and close the source."""
        with self._condition:
            self._closing = True
            self._condition.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout=5.0)

    def ask(self, request: Request) -> None:
        """Take a page's request; any thread."""
        with self._condition:
            self._requests.append(request)
            self._condition.notify_all()

    def audience(self, panels: frozenset[str] | None) -> None:
        """Take what all open pages show together; None: no page is open. Any thread."""
        with self._condition:
            self._panels = panels
            self._condition.notify_all()

    @property
    def seen(self) -> Seen | None:
        """The frame on view; any thread."""
        with self._condition:
            return self._seen

    def _run(self) -> None:
        try:
            self._first_picture()
            self._tell()
            if not self._answers_itself:
                self._load_model()
            while not self._closing:
                self._turn()
        except Exception as error:  # noqa: BLE001 - a page that stands still has to say why
            self._log("the engine failed")
            self._trouble = f"The view has failed ({type(error).__name__}): start it again."
            self._tell()
        finally:
            self._source.close()

    def _turn(self) -> None:
        self._take_requests()
        if self._panels is None:
            self._rest()
        elif self._recording is not None:
            self._recording_turn(self._recording)
        elif self._live is not None:
            self._live_turn(self._live)
        if self._clock() - self._told_at >= STATE_PERIOD_S:
            self._tell()

    def _rest(self) -> None:
        """Nobody looks: cost nothing, and hold a recording where it is."""
        if self._live is not None:
            self._live.watch(None)
        self._anchor = None
        self._wait(None)

    def _wait(self, timeout_s: float | None) -> None:
        """Wait for a request, another audience or the end."""
        with self._condition:
            before = self._panels
            self._condition.wait_for(
                lambda: self._closing or self._requests or self._panels != before, timeout_s
            )

    @property
    def _answers_itself(self) -> bool:
        """Tell whether the source is a node, which finds the objects."""
        return self._source.kind == "node"

    def _first_picture(self) -> None:
        """Show something before the model is there."""
        if self._recording is None:
            return
        try:
            self._show(self._recording.read(0), with_model=False)
        except SourceError as error:
            self._trouble = str(error)
        self._unseen = True

    def _load_model(self) -> None:
        self._model, self._model_text = "loading", "the model is being loaded"
        self._tell()
        try:
            pipeline = self._load()
        except PerceptionError as error:
            self._model, self._model_text = "failed", str(error)
            self._tell()
            return
        self._pipeline = pipeline
        self._model, self._model_text = "ready", pipeline.backend
        self._threshold = pipeline.threshold
        if not self._answers_itself:
            self._instruction.start(pipeline.query, self._options.instruction)
        self._unseen = True
        self._tell()

    def _take_requests(self) -> None:
        with self._condition:
            requests = list(self._requests)
            self._requests.clear()
        for request in requests:
            self._obey(request)
        if requests:
            self._tell()

    def _obey(self, request: Request) -> None:
        if isinstance(request, Instruct):
            self._following = False
            self._hear(request.text)
        elif isinstance(request, Follow):
            self._following = True
        elif isinstance(request, SetThreshold) and self._pipeline is not None:
            self._threshold = self._pipeline.threshold = request.value
        elif isinstance(request, Pin):
            self._pin = request.x, request.y
            self._panel_at = -PANEL_PERIOD_S
        elif isinstance(request, Unpin):
            self._pin = None
        elif isinstance(request, Play):
            self._play(request.on)
        elif isinstance(request, Choose) and request.camera in self._source.cameras:
            self._camera = request.camera
            self._source.choose(request.camera)
            self._index, self._anchor, self._kept_blobs = 0, None, {}
        elif isinstance(request, (Step, Seek)) and self._recording is not None:
            index = request.index if isinstance(request, Seek) else self._index + request.by
            self._index = min(max(index, 0), self._recording.count - 1)
            self._anchor = None
            self._playing = self._playing and isinstance(request, Seek)
        self._unseen = True

    def _hear(self, text: str) -> None:
        self._spoken = text
        if self._live is not None and self._live.instruct(text):
            return
        self._instruction.hear(text)

    def _play(self, on: bool) -> None:
        self._playing = on
        self._anchor = None
        if on and self._recording is not None and self._index >= self._recording.count - 1:
            self._index = 0

    def _recording_turn(self, source: RecordedSource) -> None:
        if self._playing and not self._unseen:
            self._play_on(source)
        elif self._unseen:
            self._unseen = False
            self._look_at(source, self._index)
        else:
            self._wait(STATE_PERIOD_S)

    def _play_on(self, source: RecordedSource) -> None:
        """Go to the next frame once its time has come, or past those that are late."""
        now = self._clock()
        upcoming = self._index + 1
        try:
            if self._anchor is None:
                self._anchor = now, source.time_s(self._index)
            due = self._anchor[1] + now - self._anchor[0]
            if upcoming >= source.count:
                self._end()
                return
            ahead = source.time_s(upcoming) - due
            if ahead > 0:
                self._wait(min(ahead, IDLE_S))
                return
            upcoming = frame_to_show(source, upcoming, due)
        except SourceError as error:
            self._trouble = "" if upcoming >= source.count else str(error)
            self._end()
            return
        self._index = upcoming
        self._look_at(source, upcoming)

    def _end(self) -> None:
        self._playing = False
        self._tell()

    def _look_at(self, source: RecordedSource, index: int) -> None:
        try:
            frame = source.read(index)
        except SourceError as error:
            self._trouble = str(error)
            self._index = min(self._index, source.count - 1)
            self._playing = False
            self._tell()
            return
        self._show(frame)

    def _live_turn(self, source: LiveSource) -> None:
        needs_model = self._pin is not None or "heat" in (self._panels or ())
        source.watch("tokens" in (self._panels or ()))
        if self._answers_itself and needs_model and self._model == "loading":
            self._load_model()
        try:
            frame = source.next(IDLE_S)
        except SourceError as error:
            if self._trouble != str(error):
                self._trouble = str(error)
                self._tell()
            return
        if frame is not None:
            self._show(frame)

    def _show(self, frame: SourceFrame, with_model: bool = True) -> None:
        """Decode a frame, look at it, and publish what was seen."""
        ticket = self._ledger.receive()
        try:
            picture = frame.decode()
        except ImageError as error:
            ticket.drop(error.reason, str(error))
            self._complain(f"{frame.name}: {error}")
            return
        except PerceptionError as error:  # a file that has gone
            ticket.drop("corrupt", str(error))
            self._complain(str(error))
            return
        ticket.note_repairs(picture.repairs)
        if self._pixel_check is not None:
            pixels = np.array(pixel_fingerprint(picture.pixels), np.float32)
            self._pixel_check.add(round(frame.time_s * 1e9), pixels)
        notes = [f"mended: {', '.join(picture.repairs)}"] if picture.repairs else []
        try:
            if frame.answer is not None:
                seen = self._answered(frame, frame.answer, picture.pixels, notes)
            else:
                seen = self._look(frame, picture.pixels, notes, with_model=with_model)
        except FloatingPointError as error:
            ticket.drop("not_finite", str(error))
            self._complain(f"{frame.name}: {error}")
            return
        cleared, self._trouble = bool(self._trouble), ""
        with self._condition:
            self._seen = seen
        self._publish(frame_update(seen))
        ticket.publish()
        if cleared:
            self._tell()

    def _complain(self, sentence: str) -> None:
        if sentence != self._trouble:
            self._trouble = sentence
            self._tell()

    def _look(
        self, frame: SourceFrame, image: UInt8Array, notes: list[str], *, with_model: bool
    ) -> Seen:
        """Run the pipeline over a frame."""
        pipeline = self._pipeline
        if pipeline is None or not with_model:
            return self._make_seen(frame, image, None, notes)
        self._follow(frame)
        self._instruction.retry()
        query = self._instruction.query
        panels = self._panels or frozenset()
        due = self._panels_due()
        with_features = due and query is not None and ("heat" in panels or self._pin is not None)
        with_tokens = due and "tokens" in panels
        if query is None and not with_tokens:
            features = self._features(image) if due and self._pin is not None else None
            return self._make_seen(frame, image, None, notes, features=features)
        result = pipeline.process(
            Frame(image),
            query,
            with_tokens=with_tokens,
            with_mask=True,
            with_features=with_features,
        )
        grounding = result.grounding
        if grounding is not None and self._options.tracking is not None:
            size = image.shape[1], image.shape[0]
            grounding = self._tracker.update(
                grounding, round(frame.time_s * 1e9), size, self._options.tracking
            )
        features = result.features
        if features is None and due and self._pin is not None:
            features = self._features(image)
        return self._make_seen(
            frame,
            image,
            grounding,
            notes,
            timings=result.timings,
            features=features,
            tokens=result.tokens,
            query=query,
        )

    def _answered(
        self, frame: SourceFrame, answer: NodeAnswer, image: UInt8Array, notes: list[str]
    ) -> Seen:
        """Show what a node found; run the page's own model only where a panel asks for it."""
        features = query = None
        now = self._clock()
        needs_model = self._pin is not None or "heat" in (self._panels or ())
        pipeline = self._pipeline
        if pipeline is not None and needs_model:
            if now - self._model_at >= BESIDE_NODE_PERIOD_S:
                self._model_at, self._panel_at = now, -PANEL_PERIOD_S
                query = self._query_of(pipeline, answer.grounding)
                features = self._features(image)
            due = features is not None
        else:
            due = self._panels_due()
        return self._make_seen(
            frame,
            image,
            answer.grounding,
            notes,
            features=features,
            tokens=answer.tokens if due or features is not None else None,
            query=query,
            latency_s=answer.latency_s,
        )

    def _panels_due(self) -> bool:
        still = self._recording is not None and not self._playing
        return still or self._clock() - self._panel_at >= PANEL_PERIOD_S

    def _features(self, image: UInt8Array) -> PatchFeatures | None:
        from siglip_perception.pipeline import PatchFeatures

        if self._pipeline is None or not self._pipeline.can_ground:
            return None
        siglip, dino = self._pipeline.features([image])
        return PatchFeatures(siglip[0], dino[0])

    def _query_of(self, pipeline: Pipeline, grounding: Grounding | None) -> Query | None:
        """Encode the phrases that a node looks for, once for each instruction."""
        if grounding is None or not grounding.phrases or not pipeline.can_ground:
            return None
        if self._node_query is None or self._node_query.phrases != grounding.phrases:
            roles = (Role.UNKNOWN,) * len(grounding.phrases)
            self._node_query = pipeline.query(Instruction("", grounding.phrases, roles))
        return self._node_query

    def _follow(self, frame: SourceFrame) -> None:
        """Take the recording's own instruction, unless a person has given one."""
        if not self._following:
            return
        text = self._options.instruction if frame.instruction is None else frame.instruction
        if text != self._spoken or self._instruction.state.text != text:
            self._spoken = text
            self._instruction.hear(text)

    def _make_seen(
        self,
        frame: SourceFrame,
        image: UInt8Array,
        grounding: Grounding | None,
        notes: Sequence[str],
        *,
        timings: Mapping[str, float] | None = None,
        features: PatchFeatures | None = None,
        tokens: Any = None,
        query: Query | None = None,
        latency_s: float | None = None,
    ) -> Seen:
        self._number += 1
        shapes: Sequence[Sequence[Sequence[int]]] = ()
        if grounding is not None and grounding.mask is not None:
            shapes = outlines(grounding)
        if features is not None or tokens is not None:
            self._panel_at = self._clock()
            self._kept_blobs = self._panel_blobs(image, features, tokens, query)
        return Seen(
            self._number,
            frame.index,
            frame.time_s,
            frame.name,
            image,
            grounding,
            shapes,
            timings or {},
            latency_s,
            notes,
            self._current_blobs(),
        )

    def _current_blobs(self) -> Mapping[str, tuple[Mapping[str, Any], bytes]]:
        """The panels' newest pictures that the pages show; a page keeps what is not sent."""
        panels = self._panels or frozenset()
        wanted = {"heat": "heat" in panels, "tokens": "tokens" in panels, "pin": self._pin}
        blobs = {n: b for n, b in self._kept_blobs.items() if wanted[n.partition(":")[0]]}
        self._kept_blobs = {}
        return blobs

    def _panel_blobs(
        self,
        image: UInt8Array,
        features: PatchFeatures | None,
        tokens: Any,
        query: Query | None,
    ) -> Mapping[str, tuple[Mapping[str, Any], bytes]]:
        """Pictures of the panels, over the grid of patches: name -> (facts, bytes)."""
        from siglip_perception.contracts.steps import SQUASH
        from siglip_perception.images.geometry import Geometry
        from siglip_perception.view import analysis

        height, width = image.shape[:2]
        blobs: dict[str, tuple[Mapping[str, Any], bytes]] = {}
        if tokens is not None:
            contract = self._contract(tokens.contract)
            self._colors = self._colors or analysis.TokenPictures()
            steps, size = SQUASH, tokens.cols
            if contract is not None:
                steps, size = contract.pixels, contract.image_size
                tokens = analysis.newest_image(tokens, contract)
            geometry = Geometry.of(steps, size, width, height)
            place = asdict(analysis.GridPlace.of(geometry, tokens.rows, tokens.cols))
            for name, colors in self._colors(tokens, contract).items():
                blobs[f"tokens:{name}"] = place, colors.tobytes()
        pipeline = self._pipeline
        if features is None or pipeline is None or pipeline.grounding_model is None:
            return blobs
        model = pipeline.grounding_model
        placement = analysis.GridPlace.of(
            model.resize.geometry(width, height), model.grid, model.grid
        )
        if query is not None and "heat" in (self._panels or ()):
            maps = analysis.heat_maps(pipeline.grounder, features, query.embeddings)
            facts = {
                **asdict(placement),
                "phrases": list(query.phrases),
                "ranges": [[round(low, 4), round(high, 4)] for low, high in maps.ranges],
            }
            blobs["heat"] = facts, maps.levels.tobytes()
        if self._pin is not None and (patch := placement.patch(*self._pin)) is not None:
            probed = self._embedded(pipeline, query)
            probe = analysis.probe(
                pipeline.grounder,
                features,
                patch,
                model.grid,
                probed.phrases,
                probed.embeddings,
            )
            facts = {
                **asdict(placement),
                "patch": patch,
                "nearest": [[phrase, round(value, 4)] for phrase, value in probe.nearest],
            }
            blobs["pin"] = facts, probe.alike.tobytes() + probe.thing.tobytes()
        return blobs

    def _contract(self, name: str) -> Contract | None:
        from siglip_perception import contracts

        pipeline = self._pipeline
        if pipeline is not None and pipeline.contract.name == name:
            return pipeline.contract
        try:
            return contracts.get(name)
        except PerceptionError:  # a file of the node's own: its channels are not known here
            return None

    def _embedded(self, pipeline: Pipeline, query: Query | None) -> _Probed:
        """Embeddings of the options' phrases, made once, and of the instruction's."""
        import torch

        if self._probed is None:
            known = tuple(self._options.phrases)
            parts = [
                pipeline.query(Instruction("", part, (Role.UNKNOWN,) * len(part))).embeddings
                for part in (
                    known[start : start + _TEXT_BATCH]
                    for start in range(0, len(known), _TEXT_BATCH)
                )
            ]
            self._probed = _Probed(known, torch.cat(parts))
        if query is None:
            return self._probed
        fresh = [n for n, phrase in enumerate(query.phrases) if phrase not in self._probed.phrases]
        return _Probed(
            (*self._probed.phrases, *(query.phrases[n] for n in fresh)),
            torch.cat([self._probed.embeddings, query.embeddings[fresh]]),
        )

    def _tell(self) -> None:
        """Publish the state, if it is another than before."""
        self._told_at = self._clock()
        update = state_update(self._state())
        if update != self._told:
            self._told = update
            self._publish(update)

    def _state(self) -> State:
        source = self._source
        if self._camera not in source.cameras:  # a node tells its cameras once it is found
            self._camera = source.cameras[0]
        state = self._instruction.state
        instruction, detail, level = self._spoken, state.detail, int(state.level)
        statuses = [] if self._live is None else list(self._live.statuses())
        facts = self._facts()
        if self._answers_itself:
            seen = self._seen
            held = seen.grounding.instruction if seen is not None and seen.grounding else ""
            told = next((status for status in statuses if status.name == "instruction"), None)
            doubt = told is not None and told.level > 0
            detail, level = (told.message, told.level) if told is not None and doubt else ("", 0)
            instruction = held or self._spoken
            facts = _node_facts(statuses, self._pipeline)
        if not self._answers_itself:
            statuses.append(_frames_status(self._ledger.counts(), self._trouble))
            if self._pixel_check is not None:
                statuses.append(_pixel_status(self._pixel_check.alarms))
        model, text = self._model, self._model_text
        if self._answers_itself and model == "loading":
            model, text = "none", "the node's; a click or the similarity map loads one here, too"
        return State(
            title=source.title,
            kind=source.kind,
            cameras=list(source.cameras),
            camera=self._camera,
            count=None if self._recording is None else self._recording.count,
            playing=self._playing,
            following=self._following and source.kind == "bag",
            model=model,
            model_text=text,
            threshold=self._threshold,
            instruction=instruction,
            detail=detail,
            detail_level=level,
            trouble=self._trouble,
            pin=self._pin,
            notes=list(source.notes),
            facts=facts,
            statuses=statuses,
        )

    def _facts(self) -> list[tuple[str, str]]:
        pipeline = self._pipeline
        if pipeline is None:
            return []
        contract = pipeline.contract
        return [
            ("contract", contract.name),
            ("tokens", f"{contract.rows} x {contract.cols}, {contract.dim} channels"),
            ("fingerprint", pipeline.fingerprint),
            ("backend", pipeline.backend),
            ("objects", pipeline.grounding_status),
        ]

    def _log(self, heading: str) -> None:
        print(f"{heading}:\n{traceback.format_exc()}", file=sys.stderr, flush=True)


def _node_facts(statuses: Sequence[Status], pipeline: Pipeline | None) -> list[tuple[str, str]]:
    """The node's model as its diagnostics tell it, and whether the page's own is another."""
    values = dict(next((s.values for s in statuses if s.name == "node"), ()))
    names = ("contract", "fingerprint", "backend", "grounding")
    facts = [(name, values[name]) for name in names if values.get(name)]
    if pipeline is not None and values.get("fingerprint") not in (None, pipeline.fingerprint):
        facts.append(
            (
                "note",
                "the page's own model, behind a click and the similarity map, is another"
                f" (fingerprint {pipeline.fingerprint[:12]}): start the view with the node's"
                " --model and --contract",
            )
        )
    return facts


def _pixel_status(alarms: Sequence[Alarm]) -> Status:
    """List what differs from the training set's pixels."""
    if not alarms:
        return Status("pixels", int(Level.OK), "as in the training set")
    return Status("pixels", int(Level.WARN), "; ".join(alarm.text for alarm in alarms))


def _frames_status(counts: Counts, trouble: str) -> Status:
    """The engine's own account of its frames."""
    milliseconds = {
        name: "" if value is None else f"{value * 1000:.1f}"
        for name, value in (
            ("latency_p50_ms", counts.latency_p50),
            ("latency_p99_ms", counts.latency_p99),
        )
    }
    values = [
        ("received", str(counts.received)),
        ("shown", str(counts.published)),
        ("dropped", str(sum(counts.dropped.values()))),
        *((f"dropped.{reason}", str(n)) for reason, n in sorted(counts.dropped.items())),
        *((fault, str(n)) for fault, n in sorted(counts.repaired.items())),
        ("shown_rate_hz", f"{counts.published_rate:.1f}"),
        *milliseconds.items(),
    ]
    level = Level.WARN if trouble else Level.OK
    return Status("frames", int(level), trouble or "all well", tuple(values))
