"""Diagnostic statuses from counts: each problem, its level and the numbers behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from siglip_perception.node.frame_processor import ModelState
from siglip_perception.node.qos import Mismatch
from siglip_perception.stream.accounting import Level
from siglip_perception.stream.camera_stream import CameraView
from siglip_perception.stream.instruction import InstructionState

# How long a status reports a dropped frame, a jump in time and a model's failure, in seconds.
DROP_SECONDS = 2.0
JUMP_SECONDS = 5.0
TROUBLE_SECONDS = 10.0
# A camera is silent once its next frame is this late, in seconds.
LATE_SECONDS = 0.2
# Periods, in seconds: assumed before two frames have come, and the longest that is learned.
DEFAULT_PERIOD = 1.0
MAX_PERIOD = 2.0
# Corrupt frames in a row that make an error out of a warning.
MAX_CORRUPT = 5

UPSIDE_DOWN = (
    "the surface in view recedes towards the bottom of the picture, as if the camera were upside"
    " down: turn picture, depth and camera info by 180 degrees, or their rows over (a camera that"
    " looks up at a ceiling is told, too)"
)

Values = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Status:
    """One DiagnosticStatus. reasons: names of the problems; a change is published at once."""

    name: str
    level: Level
    reasons: tuple[str, ...]
    message: str
    values: Values


@dataclass(frozen=True)
class NodeView:
    """State of the node itself.

    error: why the last transition failed, one sentence, or empty. namesakes: number of other nodes
        of the same name and namespace.
    """

    state: str
    error: str
    model: ModelState
    fatal: str = ""
    namesakes: int = 0


def camera_status(
    view: CameraView, now: float, expected_rate: float, mismatch: Mismatch | None
) -> Status:
    """Return a camera's status. now: monotonic seconds. expected_rate: Hz; 0: learn it."""
    problems: list[tuple[Level, str, str]] = []
    active = view.active_since is not None
    silence = _silence(view, now, expected_rate)
    if mismatch is not None:
        level = Level.WARN if silence is None else Level.ERROR
        problems.append((level, "qos_mismatch", str(mismatch)))
    if silence is not None:
        problems.append((Level.ERROR, "stale", silence))
    for reason, drop in sorted(view.counts.drops.items()):
        level = drop.level
        if reason == "corrupt" and view.counts.streak.get(reason, 0) >= MAX_CORRUPT:
            level = Level.ERROR
        if level > Level.OK and now - drop.at <= DROP_SECONDS and reason != "time_jump":
            problems.append((level, reason, drop.text))
    if view.jumped_at is not None and now - view.jumped_at <= JUMP_SECONDS:
        problems.append((Level.WARN, "time_jump", "time jumped back; what waited was dropped"))
    depth = view.depth
    if depth is not None and depth.failed_at is not None and now - depth.failed_at <= DROP_SECONDS:
        problems.append((Level.WARN, f"depth_{depth.reason}", depth.text))
    if depth is not None and depth.uprightness == "upside down":
        problems.append((Level.WARN, "upside_down", UPSIDE_DOWN))
    problems += [
        (Level.WARN, f"pixels_{alarm.kind}", alarm.text) for alarm in view.pixel_alarms or ()
    ]
    return _status(
        f"camera {view.name}" if view.name else "camera",
        problems,
        "receiving" if active else "inactive",
        [("topic", view.topic), ("image", view.picture), *_count_values(view)],
    )


def _silence(view: CameraView, now: float, expected_rate: float) -> str | None:
    """Return one sentence about a camera whose next frame is overdue; None if it is on time."""
    if view.active_since is None:
        return None
    usual_period = min(view.counts.period or DEFAULT_PERIOD, MAX_PERIOD)
    period = 1.0 / expected_rate if expected_rate > 0 else usual_period
    last = view.counts.last_arrival
    is_first = last is None or last < view.active_since
    silent = now - (view.active_since if last is None else max(last, view.active_since))
    if silent <= period + LATE_SECONDS:
        return None
    if is_first:
        return f"no frame on {view.topic} in the {silent:.1f} s since the node became active"
    return f"no frame on {view.topic} for {silent:.1f} s, one every {period:.3f} s is expected"


def _count_values(view: CameraView) -> Values:
    counts = view.counts
    values = [
        ("received", str(counts.received)),
        ("published", str(counts.published)),
        ("dropped", str(sum(counts.dropped.values()))),
        ("in_flight", str(counts.in_flight)),
        *((f"dropped.{reason}", str(n)) for reason, n in sorted(counts.dropped.items())),
        *((fault, str(n)) for fault, n in sorted(counts.repaired.items())),
        ("lost_by_middleware", str(counts.lost)),
        ("received_rate_hz", f"{counts.received_rate:.2f}"),
        ("published_rate_hz", f"{counts.published_rate:.2f}"),
        ("frame_age_ms", _milliseconds(view.age)),
        ("latency_p50_ms", _milliseconds(counts.latency_p50)),
        ("latency_p99_ms", _milliseconds(counts.latency_p99)),
    ]
    values += [
        (f"last.{reason}", drop.text) for reason, drop in sorted(counts.drops.items()) if drop.text
    ]
    if view.pixel_alarms is not None:
        texts = "; ".join(alarm.text for alarm in view.pixel_alarms)
        values.append(("pixels", texts or "as in the training set"))
    if view.depth is not None:
        values += [(f"depth.{name}", str(n)) for name, n in sorted(view.depth.counts.items())]
        values.append(("picture_is", view.depth.uprightness))
    return values


def node_status(view: NodeView, now: float) -> Status:
    """Return the status of the node and its model."""
    problems: list[tuple[Level, str, str]] = []
    if view.fatal:
        problems.append((Level.ERROR, "fatal", view.fatal))
    if view.error:
        problems.append((Level.ERROR, "configure_failed", view.error))
    if view.namesakes:
        text = (
            f"{view.namesakes} more node(s) of this name: services reach any of them, and outputs"
            " of all mix; start each with a name or namespace of its own"
        )
        problems.append((Level.WARN, "name_taken", text))
    if view.state == "configuring":
        problems.append((Level.WARN, "loading", "the model is being loaded"))
    if view.model.trouble and now - view.model.trouble_at <= TROUBLE_SECONDS:
        problems.append((Level.ERROR, "model", view.model.trouble))
    problems += [(Level.WARN, name, text) for name, text in sorted(view.model.warnings.items())]
    values = [
        ("state", view.state),
        ("backend", view.model.backend),
        ("contract", view.model.contract),
        ("grounding", view.model.grounding),
        ("fingerprint", view.model.fingerprint),
        *(
            (f"{part}_ms", _milliseconds(seconds))
            for part, seconds in (view.model.timings or {}).items()
        ),
    ]
    status = _status("node", problems, view.state, values)
    if view.state == "finalized" and status.level == Level.OK:
        return Status(status.name, Level.STALE, ("finalized",), view.state, values)
    return status


def instruction_status(state: InstructionState, superseded: int) -> Status:
    """Return the status of the instruction, with its sanitized text, never the text received."""
    values = [
        ("state", state.state),
        ("instruction_id", str(state.instruction_id)),
        ("instruction", state.text),
        ("phrases", "; ".join(state.phrases)),
        ("superseded", str(superseded)),
    ]
    problems = [(state.level, state.state, state.detail)] if state.level > Level.OK else []
    status = _status("instruction", problems, state.state, values)
    # The number makes each new instruction a change, which is published at once.
    return replace(status, reasons=(*status.reasons, str(state.instruction_id)))


def topics_status(mismatches: Sequence[Mismatch]) -> Status:
    """Return the status of all topics but the cameras': incompatible peers."""
    problems = [(Level.ERROR, f"qos_mismatch {item.topic}", str(item)) for item in mismatches]
    return _status("topics", problems, "no incompatible peer", [])


def _status(
    name: str, problems: list[tuple[Level, str, str]], healthy: str, values: Values
) -> Status:
    """Return a status with the worst problem first, or with the message `healthy`."""
    if not problems:
        return Status(name, Level.OK, (healthy,), healthy, values)
    worst_first = sorted(problems, key=lambda item: -item[0])
    message = "; ".join(f"{reason.split()[0]}: {text}" for _, reason, text in worst_first)
    reasons = tuple(f"{level.name} {reason}" for level, reason, _ in worst_first)
    return Status(name, worst_first[0][0], reasons, message, values)


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1000:.2f}"
