"""From counts to statuses: what is wrong, how badly, and the numbers behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from siglip_perception.node.frame_processor import ModelState
from siglip_perception.node.qos import Mismatch
from siglip_perception.stream.accounting import Level
from siglip_perception.stream.camera_stream import CameraView
from siglip_perception.stream.instruction import InstructionState

# A dropped frame colors its camera's status for so long, in seconds.
RECENT = 2.0
JUMP_RECENT = 5.0
TROUBLE_RECENT = 10.0
# A camera is silent when its next frame is so late, in seconds.
LATE = 0.2
UNKNOWN_PERIOD = 1.0
LONGEST_PERIOD = 2.0
SUSTAINED = 5

Values = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Status:
    """One DiagnosticStatus. reasons: names of what is wrong; a change of them is told at once."""

    name: str
    level: Level
    reasons: tuple[str, ...]
    message: str
    values: Values


@dataclass(frozen=True)
class NodeView:
    """The node itself. error: why the last configure failed, one sentence; empty: it did not."""

    state: str
    error: str
    model: ModelState
    fatal: str = ""


def camera_status(
    view: CameraView, now: float, expected_rate: float, mismatch: Mismatch | None
) -> Status:
    """The status of one camera. now: monotonic seconds. expected_rate in Hz, 0: learned."""
    found: list[tuple[Level, str, str]] = []
    active = view.active_since is not None
    silence = _silence(view, now, expected_rate)
    if mismatch is not None:
        level = Level.WARN if silence is None else Level.ERROR
        found.append((level, "qos_mismatch", str(mismatch)))
    if silence is not None:
        found.append((Level.ERROR, "stale", silence))
    for reason, drop in sorted(view.counts.drops.items()):
        level = drop.level
        if reason == "corrupt" and view.counts.streak.get(reason, 0) >= SUSTAINED:
            level = Level.ERROR
        if level > Level.OK and now - drop.at <= RECENT and reason != "time_jump":
            found.append((level, reason, drop.text))
    if view.jumped_at is not None and now - view.jumped_at <= JUMP_RECENT:
        found.append((Level.WARN, "time_jump", "time jumped back; what waited was dropped"))
    depth = view.depth
    if depth is not None and depth.failed_at is not None and now - depth.failed_at <= RECENT:
        found.append((Level.WARN, f"depth_{depth.reason}", depth.text))
    return _status(
        f"camera {view.name}" if view.name else "camera",
        found,
        "receiving" if active else "inactive",
        [("topic", view.topic), ("image", view.picture), *_count_values(view)],
    )


def _silence(view: CameraView, now: float, expected_rate: float) -> str | None:
    """One sentence about a camera that should have sent a frame by now."""
    if view.active_since is None:
        return None
    learned = min(view.counts.period or UNKNOWN_PERIOD, LONGEST_PERIOD)
    period = 1.0 / expected_rate if expected_rate > 0 else learned
    last = view.counts.last_arrival
    never = last is None or last < view.active_since
    silent = now - (view.active_since if last is None else max(last, view.active_since))
    if silent <= period + LATE:
        return None
    if never:
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
    if view.depth is not None:
        values += [(f"depth.{name}", str(n)) for name, n in sorted(view.depth.counts.items())]
    return values


def node_status(view: NodeView, now: float) -> Status:
    """The status of the node and its model."""
    found: list[tuple[Level, str, str]] = []
    if view.fatal:
        found.append((Level.ERROR, "fatal", view.fatal))
    if view.error:
        found.append((Level.ERROR, "configure_failed", view.error))
    if view.state == "configuring":
        found.append((Level.WARN, "loading", "the model is being loaded"))
    if view.model.trouble and now - view.model.trouble_at <= TROUBLE_RECENT:
        found.append((Level.ERROR, "model", view.model.trouble))
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
    status = _status("node", found, view.state, values)
    if view.state == "finalized" and status.level == Level.OK:
        return Status(status.name, Level.STALE, ("finalized",), view.state, values)
    return status


def instruction_status(state: InstructionState, superseded: int) -> Status:
    """The status of the instruction; its text is the sanitized one, never what was received."""
    values = [
        ("state", state.state),
        ("instruction_id", str(state.instruction_id)),
        ("instruction", state.text),
        ("phrases", "; ".join(state.phrases)),
        ("superseded", str(superseded)),
    ]
    found = [(state.level, state.state, state.detail)] if state.level > Level.OK else []
    status = _status("instruction", found, state.state, values)
    # A new instruction is told at once, even if it is as well as the one before.
    return replace(status, reasons=(*status.reasons, str(state.instruction_id)))


def topics_status(mismatches: Sequence[Mismatch]) -> Status:
    """The status of all topics but the cameras': peers that do not fit."""
    found = [(Level.ERROR, f"qos_mismatch {item.topic}", str(item)) for item in mismatches]
    return _status("topics", found, "no incompatible peer", [])


def _status(name: str, found: list[tuple[Level, str, str]], well: str, values: Values) -> Status:
    """The worst first; `well` where nothing was found."""
    if not found:
        return Status(name, Level.OK, (well,), well, values)
    ordered = sorted(found, key=lambda item: -item[0])
    message = "; ".join(f"{reason.split()[0]}: {text}" for _, reason, text in ordered)
    reasons = tuple(f"{level.name} {reason}" for level, reason, _ in ordered)
    return Status(name, ordered[0][0], reasons, message, values)


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1000:.2f}"
