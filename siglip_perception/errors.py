"""Errors that a user can cause. Each message says in one sentence what is wrong and what to do."""


class PerceptionError(Exception):
    """Base of all errors that a user can cause and fix; the text can be shown as it is."""


class CheckpointError(PerceptionError):
    """A folder of weights is missing, incomplete, corrupt or unsupported."""


class ContractError(PerceptionError):
    """A token contract is unknown or invalid, or the checkpoint cannot keep it."""


class BackendError(PerceptionError):
    """The requested backend, device or precision cannot run here."""


class CacheError(BackendError):
    """The cache of engines cannot be used: it cannot be written, or others may write to it."""


class InstructionError(PerceptionError):
    """An instruction is longer than 1 KiB, before or after normalization."""


class BagError(PerceptionError):
    """A bag cannot be read or written."""


class DatasetError(PerceptionError):
    """A data set or, in strict mode, one of its items cannot be used."""


class LossError(PerceptionError):
    """Embeddings, labels or processes do not fit together in a loss."""


class ImageError(PerceptionError):
    """An image is refused before it is processed.

    reason: name under which the frame is counted as dropped: `malformed` (step, size or
        data length), `encoding`, `corrupt` or `too_large`.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def first_line(reason: BaseException | str) -> str:
    """Return the first line that is not blank, to be quoted in a sentence.

    It comes without its full stop and with at most 160 characters; of an exception without a text,
    the name of its class.
    """
    lines = str(reason).strip().splitlines()
    if not lines:
        return type(reason).__name__ if isinstance(reason, BaseException) else "no reason given"
    return lines[0].strip().rstrip(".:;")[:160]
