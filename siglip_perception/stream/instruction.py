"""The instruction that holds: its text, its number, its query, and what became of the newest.

Numbers grow by one with each accepted instruction, from 1. A repetition of the instruction that
holds keeps its number. After another one, an empty or a refused one, the same text is a new
instruction: the goal was taken back and given again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from siglip_perception.errors import InstructionError, PerceptionError
from siglip_perception.language.instruction import Instruction, from_phrases, parse
from siglip_perception.stream.accounting import Clock, Level
from siglip_perception.util.oom import free_memory, is_out_of_memory

if TYPE_CHECKING:
    # It imports PyTorch, which takes seconds.
    from siglip_perception.pipeline import Query

# An instruction that could not be encoded is tried again after so long, in seconds.
RETRY_S = 2.0

Encode = Callable[[Instruction, int], "Query"]


@dataclass(frozen=True)
class InstructionState:
    """What became of the newest instruction, as /diagnostics tells it.

    detail: what is wrong with it, in words. explanation: how it was read, where that is in doubt.
    """

    state: str = "no_instruction"
    level: Level = Level.OK
    detail: str = ""
    instruction_id: int = 0
    text: str = ""
    phrases: tuple[str, ...] = ()
    explanation: str = ""


class CurrentInstruction:
    """Numbers and encodes the newest instruction; `state` on any thread, all else on one.

    query: what the newest instruction asks to look for; None where it asks for nothing, or cannot
    be answered. report: logs the exception that is being handled, after this heading, and the
    instruction is tried again later; None: the exception is raised. clock: monotonic seconds.
    """

    def __init__(
        self, report: Callable[[str], None] | None = None, clock: Clock = time.monotonic
    ) -> None:
        self._report = report
        self._clock = clock
        self._encode: Encode | None = None
        self._spoken: str | None = None
        self._first = ""
        self._fixed: tuple[str, ...] = ()
        self._taken: str | tuple[str, ...] | None = None
        self._retry_at: float | None = None
        self._number = 0
        self._numbered = ""
        self._lock = threading.Lock()
        self._state = InstructionState()
        self.query: Query | None = None

    @property
    def state(self) -> InstructionState:
        with self._lock:
            return self._state

    def start(self, encode: Encode, first: str, phrases: Sequence[str] = ()) -> None:
        """Encode with this model from now on: the phrases, if any, else what was said last, else
        the text `first`."""
        self._encode = encode
        self._first = first
        self._fixed = tuple(filter(None, phrases))
        self._taken = None
        self._take(self._newest())

    def stop(self) -> None:
        """The model is gone; the instruction is kept."""
        self._encode = self.query = self._retry_at = None

    def hear(self, text: str) -> None:
        """Take an instruction; encode it if it differs from the one before."""
        self._spoken = text
        self._take(self._newest())

    def fix(self, phrases: Sequence[str]) -> None:
        """Look for these phrases from now on; for none, what the instruction says."""
        fixed = tuple(filter(None, phrases))
        if fixed != self._fixed:
            self._fixed = fixed
            self._take(self._newest())

    def _newest(self) -> str | tuple[str, ...]:
        return self._fixed or (self._first if self._spoken is None else self._spoken)

    def retry(self) -> None:
        """Try an instruction again that could not be encoded, once its time has come."""
        due = self._retry_at is not None and self._clock() >= self._retry_at
        if due and self._taken is not None:
            self._take(self._taken)

    def _take(self, words: str | tuple[str, ...]) -> None:
        encode = self._encode
        if encode is None or (words == self._taken and self._retry_at is None):
            return
        self._taken = words
        # Nothing of the instruction before may be answered while this one is being looked at.
        self.query = self._retry_at = None
        try:
            state = self._understand(encode, words)
        except Exception as error:
            if self._report is None:
                raise
            # Whatever a text leads to, tokens go on.
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

    def _understand(self, encode: Encode, words: str | tuple[str, ...]) -> InstructionState:
        try:
            instruction = parse(words) if isinstance(words, str) else from_phrases(words)
        except InstructionError as error:
            self._numbered = ""
            return InstructionState("instruction_rejected", Level.WARN, str(error))
        number = self._accept(instruction.text)
        if not instruction.text:
            return _empty(instruction)
        state = InstructionState(
            "instruction",
            instruction_id=number,
            text=instruction.text,
            phrases=instruction.phrases,
            explanation=instruction.explanation,
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

    def _accept(self, text: str) -> int:
        """The number of this instruction, from now on the one that holds; 0 for an empty one."""
        if text and text != self._numbered:
            self._number += 1
        self._numbered = text
        return self._number if text else 0


def _empty(instruction: Instruction) -> InstructionState:
    if not instruction.changed:
        return InstructionState()
    return InstructionState(
        level=Level.WARN,
        detail="nothing was left after control, bidi and special-token text was taken out",
    )
