"""The numbers of instructions: one rule for the node and for a replay."""

from __future__ import annotations


class Numbering:
    """A number that grows by one with each accepted instruction, from 1.

    A repetition of the instruction that holds keeps its number. After another one, an empty or a
    refused one, the same text is a new instruction: the goal was taken back and given again.
    """

    def __init__(self) -> None:
        self._number = 0
        self._text = ""

    def accept(self, text: str) -> int:
        """The number of this instruction, from now on the one that holds; 0 for an empty one.

        text: the sanitised one.
        """
        if text and text != self._text:
            self._number += 1
        self._text = text
        return self._number if text else 0

    def withdraw(self) -> None:
        """From now on no instruction holds: the newest one was refused."""
        self._text = ""
