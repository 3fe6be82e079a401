"""The current instruction: its text, number and query, and the state of the newest one.

Accepted instructions are numbered from 1. Repeating the current instruction keeps its number.
After a different, an empty or a rejected instruction the same text is a new instruction: the goal
was withdrawn and set again.
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
    # Imports PyTorch, which takes seconds.
    from siglip_perception.pipeline import Query

# Time before another attempt to encode an instruction that failed, in seconds.
RETRY_S = 2.0

Encode = Callable[[Instruction, int], "Query"]


@dataclass(frozen=True)
class InstructionState:
    """State of the newest instruction, for /diagnostics.

    detail: describes the problem. explanation: how a doubtful instruction was read.
    """

    state: str = "no_instruction"
    level: Level = Level.OK
    detail: str = ""
    instruction_id: int = 0
    text: str = ""
    phrases: tuple[str, ...] = ()
    explanation: str = ""


class CurrentInstruction:
    """Numbers and encodes the newest instruction. Only `state` is thread-safe.

    query: the newest instruction's phrases, encoded; None if there are none, or no way to ground
        them.
    report: logs the exception being handled under a heading; the instruction is then tried again
        later. None: the exception is raised instead.
    clock: monotonic seconds.
    """

    def __init__(
        self, report: Callable[[str], None] | None = None, clock: Clock = time.monotonic
    ) -> None:
        self._report = report
        self._clock = clock
        self._encode: Encode | None = None
        self._topic_text: str | None = None
        self._initial_text = ""
        self._fixed_phrases: tuple[str, ...] = ()
        self._current: str | tuple[str, ...] | None = None
        self._retry_at: float | None = None
        self._number = 0
        self._numbered_text = ""
        self._lock = threading.Lock()
        self._state = InstructionState()
        self.query: Query | None = None

    @property
    def state(self) -> InstructionState:
        with self._lock:
            return self._state

    def start(self, encode: Encode, initial_text: str, phrases: Sequence[str] = ()) -> None:
        """Encode with this model from now on.

        The instruction is the phrases, if any, else the last text of hear(), else `initial_text`.
        """
        self._encode = encode
        self._initial_text = initial_text
        self._fixed_phrases = tuple(filter(None, phrases))
        self._current = None
        self._set_current(self._source())

    def stop(self) -> None:
        """Stop encoding, because the model is unloaded; keep the instruction."""
        self._encode = self.query = self._retry_at = None

    def hear(self, text: str) -> None:
        """Set the instruction's text; encode it if it differs from the last one."""
        self._topic_text = text
        self._set_current(self._source())

    def fix(self, phrases: Sequence[str]) -> None:
        """Look for these phrases from now on; if empty, for those of the text."""
        fixed_phrases = tuple(filter(None, phrases))
        if fixed_phrases != self._fixed_phrases:
            self._fixed_phrases = fixed_phrases
            self._set_current(self._source())

    def _source(self) -> str | tuple[str, ...]:
        return self._fixed_phrases or (
            self._initial_text if self._topic_text is None else self._topic_text
        )

    def retry(self) -> None:
        """Encode again an instruction that failed, once RETRY_S have passed."""
        due = self._retry_at is not None and self._clock() >= self._retry_at
        if due and self._current is not None:
            self._set_current(self._current)

    def _set_current(self, words: str | tuple[str, ...]) -> None:
        encode = self._encode
        if encode is None or (words == self._current and self._retry_at is None):
            return
        self._current = words
        # No frame may be grounded with the last instruction's query while this one is encoded.
        self.query = self._retry_at = None
        try:
            state = self._encode_words(encode, words)
        except Exception as error:
            if self._report is None:
                raise
            # No text may stop the tokens.
            self.query = None
            self._retry_at = self._clock() + RETRY_S
            out_of_memory = is_out_of_memory(error)
            if out_of_memory:
                free_memory()
            self._report("the instruction could not be encoded")
            cause = "there is not enough memory" if out_of_memory else type(error).__name__
            detail = f"it could not be encoded ({cause}); tokens go on without objects meanwhile"
            state = InstructionState("instruction_failed", Level.ERROR, detail)
        with self._lock:
            self._state = state

    def _encode_words(self, encode: Encode, words: str | tuple[str, ...]) -> InstructionState:
        try:
            instruction = parse(words) if isinstance(words, str) else from_phrases(words)
        except InstructionError as error:
            self._numbered_text = ""
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
        except PerceptionError as error:  # This model cannot ground, so no retry will help.
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
        """Make this the current instruction; return its number, 0 for an empty one."""
        if text and text != self._numbered_text:
            self._number += 1
        self._numbered_text = text
        return self._number if text else 0


def _empty(instruction: Instruction) -> InstructionState:
    if not instruction.changed:
        return InstructionState()
    return InstructionState(
        level=Level.WARN,
        detail="nothing was left after control, bidi and special-token text was taken out",
    )
