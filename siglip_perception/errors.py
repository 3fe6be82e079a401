"""Errors that a user can cause: each message says in one sentence what is wrong and what to do."""


class PerceptionError(Exception):
    """Base of every error that a user can cause and mend; its text is fit to be shown as it is."""


class CheckpointError(PerceptionError):
    """A folder of weights is missing, incomplete, corrupt or of a kind that is not supported."""


class ContractError(PerceptionError):
    """A token contract is unknown, or the checkpoint cannot keep it."""


class BackendError(PerceptionError):
    """The backend, device or precision that was asked for cannot run here."""


class InstructionError(PerceptionError):
    """An instruction that is refused: longer than 1 KiB before or after normalization."""


class BagError(PerceptionError):
    """A bag that cannot be read or written."""


class DatasetError(PerceptionError):
    """A data set that cannot be used at all or, in strict mode, an item of it that cannot."""


class LossError(PerceptionError):
    """Embeddings, answers or processes that do not fit together in a loss."""


class ImageError(PerceptionError):
    """An image that is refused before any work is done on it.

    `reason` is the name under which the frame is counted as dropped:
    `malformed` (step, size or data length), `encoding`, `corrupt` or `too_large`.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
