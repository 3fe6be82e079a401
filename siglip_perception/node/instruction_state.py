"""The instruction that holds: its text, its number, its query, and what became of the newest."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from siglip_perception.errors import InstructionError, PerceptionError
from siglip_perception.language.instruction import Instruction, from_phrases, parse
from siglip_perception.language.instruction_ids import Numbering
from siglip_perception.node.accounting import Clock, Level
from siglip_perception.node.oom import free_memory, is_out_of_memory

# An instruction that could not be encoded is tried again after so long, in seconds.
RETRY_S = 2.0

Encode = Callable[[Instruction, int], Any]


@dataclass(frozen=True)
class InstructionState:
    """What /diagnostics says of the instruction."""

    state: str = "no_instruction"
    level: Level = Level.OK
    detail: str = ""
    instruction_id: int = 0
    text: str = ""
    phrases: tuple[str, ...] = ()


class Listener:
    """Encodes the newest instruction. But for `state`, call it on the worker's thread.

    report: logs the exception that is being handled, after this heading.
    """

    def __init__(self, report: Callable[[str], None], clock: Clock) -> None:
        self._report = report
        self._clock = clock
        self._encode: Encode | None = None
        self._heard: str | None = None
        self._first = ""
        self._fixed: tuple[str, ...] = ()
        self._taken: str | tuple[str, ...] | None = None
        self._retry_at: float | None = None
        self._numbering = Numbering()
        self._lock = threading.Lock()
        self._state = InstructionState()
        self.query: Any = None

    @property
    def state(self) -> InstructionState:
        with self._lock:
            return self._state

    def start(self, encode: Encode, first: str, phrases: Sequence[str] = ()) -> None:
        """Encodes with this model from now on: the phrases, if any, else what was heard last, else
        the text `first`."""
        self._encode = encode
        self._first = first
        self._fixed = tuple(filter(None, phrases))
        self._taken = None
        self._take(self._wanted())

    def stop(self) -> None:
        """The model is gone; the instruction is kept."""
        self._encode = self.query = self._retry_at = None

    def hear(self, text: str) -> None:
        """Takes an instruction; encodes it if it differs from the one before."""
        self._heard = text
        self._take(self._wanted())

    def fix(self, phrases: Sequence[str]) -> None:
        """Looks for these phrases from now on; for none, what the instruction says."""
        fixed = tuple(filter(None, phrases))
        if fixed != self._fixed:
            self._fixed = fixed
            self._take(self._wanted())

    def _wanted(self) -> str | tuple[str, ...]:
        return self._fixed or (self._first if self._heard is None else self._heard)

    def retry(self) -> None:
        """Tries an instruction again that could not be encoded, once its time has come."""
        due = self._retry_at is not None and self._clock() >= self._retry_at
        if due and self._taken is not None:
            self._take(self._taken)

    def _take(self, wanted: str | tuple[str, ...]) -> None:
        encode = self._encode
        if encode is None or (wanted == self._taken and self._retry_at is None):
            return
        self._taken = wanted
        # Nothing of the instruction before may be answered while this one is being looked at.
        self.query = self._retry_at = None
        try:
            state = self._understand(encode, wanted)
        except Exception as error:  # noqa: BLE001 - whatever a text leads to, tokens go on
            self.query = None
            self._retry_at = self._clock() + RETRY_S
            out_of_memory = is_out_of_memory(error)
            if out_of_memory:
                free_memory()
            self._report("the instruction could not be encoded")
            what = "there is not enough memory" if out_of_memory else type(error).__name__
            detail = f"it could not be encoded ({what}); tokens go on without objects meanwhile"
            state = InstructionState("instruction_failed", Level.ERROR, detail)
        with self._lock:
            self._state = state

    def _understand(self, encode: Encode, wanted: str | tuple[str, ...]) -> InstructionState:
        try:
            instruction = parse(wanted) if isinstance(wanted, str) else from_phrases(wanted)
        except InstructionError as error:
            self._numbering.withdraw()
            return InstructionState("instruction_rejected", Level.WARN, str(error))
        number = self._numbering.accept(instruction.text)
        if not instruction.text:
            return _empty(instruction)
        state = InstructionState(
            "instruction",
            instruction_id=number,
            text=instruction.text,
            phrases=instruction.phrases,
        )
        if not instruction.phrases:
            return replace(
                state,
                state="no_phrase",
                level=Level.WARN,
                detail=f"{instruction.explanation} Tokens go on without objects.",
            )
        try:
            self.query = query = encode(instruction, number)
        except PerceptionError as error:  # this model cannot ground, and will not later
            return replace(state, state="no_grounding", level=Level.WARN, detail=str(error))
        warnings = [instruction.explanation] if instruction.explanation else []
        if instruction.changed:
            warnings.append("control, bidi or special-token text was taken out, or it was cut")
        if any(query.truncated):
            cut = [p for p, t in zip(query.phrases, query.truncated, strict=True) if t]
            warnings.append(f"longer than the text context and cut: {', '.join(cut)}")
        if warnings:
            state = replace(state, level=Level.WARN, detail="; ".join(warnings))
        return state


def _empty(instruction: Instruction) -> InstructionState:
    if not instruction.changed:
        return InstructionState()
    return InstructionState(
        level=Level.WARN,
        detail="nothing was left after control, bidi and special-token text was taken out",
    )
