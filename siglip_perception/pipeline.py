"""The whole story: a frame and a query in, fused tokens and grounded objects out, one pass."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from siglip_perception import checkpoints, contracts
from siglip_perception.contracts import Contract
from siglip_perception.encoders import Encoders, TextEncoder
from siglip_perception.errors import BackendError, CheckpointError, ContractError
from siglip_perception.grounding import (
    Grounder,
    GroundingSettings,
    label_mask,
    select_objects,
)
from siglip_perception.instruction import Instruction
from siglip_perception.preprocess import Preprocessor
from siglip_perception.selection import assign, with_roles
from siglip_perception.types import Frame, Grounding, Mention, Role, TokenDtype, TokenGrid

# As many as a mask image has values for; `max_objects` counts those that are meant.
_MOST_OBJECTS = 255
_PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class PipelineOptions:
    """What a pipeline is loaded with; the names and ranges are those of the node's parameters."""

    model: str = "tabletop"
    contract: str = ""
    backend: str = "auto"
    device: str = "auto"
    precision: str = "auto"
    threshold: float = 0.5
    max_objects: int = 20
    tokens_dtype: TokenDtype = "float32"


@dataclass(frozen=True)
class Query:
    """Phrases, encoded: embeddings float32 [P, D], unit length; truncated: cut to the context."""

    instruction: str
    instruction_id: int
    phrases: tuple[str, ...]
    roles: tuple[Role, ...]
    embeddings: Tensor
    truncated: tuple[bool, ...]
    mentions: tuple[Mention, ...] = ()


@dataclass(frozen=True)
class Result:
    """Both products of one frame; timings in seconds: "preprocess", "encode", "ground"."""

    tokens: TokenGrid | None
    grounding: Grounding | None
    timings: Mapping[str, float]


class Pipeline:
    """One model, loaded; used from one thread. `threshold` and `max_objects` may be changed."""

    def __init__(
        self,
        models: checkpoints.Models,
        contract: Contract,
        options: PipelineOptions,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.contract = contract
        self.fingerprint = checkpoints.fingerprint(models.digest, contract)
        self.backend = f"torch {torch.__version__} on {device}, {_name(dtype)}"
        self.threshold = options.threshold
        self.max_objects = options.max_objects
        self._tokens_dtype: TokenDtype = options.tokens_dtype
        self._preprocess = Preprocessor(contract)
        self._encoders = Encoders(models, contract, device, dtype)
        self._text = TextEncoder(models, device)
        self._grounder = Grounder(
            models.siglip.to(device), contract, GroundingSettings.from_mapping(models.grounding)
        )

    @classmethod
    def load(cls, options: PipelineOptions) -> Pipeline:
        """Load a model folder and make it ready for the first frame.

        Raises CheckpointError, ContractError or BackendError, each with one clear sentence.
        """
        if options.backend not in ("auto", "torch"):
            raise BackendError(
                f"The backend {options.backend!r} is not part of this version: use auto or torch."
            )
        device = _device(options.device)
        dtype = _dtype(options.precision, device)
        folder = checkpoints.resolve(options.model)
        models = checkpoints.load(folder)
        contract = _contract(options.contract, models)
        try:
            pipeline = cls(models, contract, options, device, dtype)
            pipeline._warm_up()
        except torch.OutOfMemoryError as error:
            raise BackendError(
                f"The memory of {device} does not hold {options.model}: use a smaller model or"
                " another device."
            ) from error
        except (RuntimeError, ValueError, FloatingPointError) as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise CheckpointError(
                f"The model in {folder} does not run ({reason}):"
                " its config.json and its weights have to be those that belong together."
            ) from error
        return pipeline

    def _warm_up(self) -> None:
        size = self.contract.image_size
        query = self.query(Instruction("", ("warm up",), (Role.UNKNOWN,)))
        self.process(Frame(np.zeros((size, size, 3), dtype=np.uint8)), query)

    def query(self, instruction: Instruction, instruction_id: int = 0) -> Query:
        """Run the text tower over the instruction's phrases, of which there is at least one."""
        embeddings, truncated = self._text(instruction.phrases)
        return Query(
            instruction.text,
            instruction_id,
            instruction.phrases,
            instruction.roles,
            embeddings,
            truncated,
            instruction.mentions,
        )

    def process(
        self,
        frame: Frame,
        query: Query | None,
        *,
        with_tokens: bool = True,
        with_mask: bool = False,
    ) -> Result:
        """One pass over the frame. Without a query there is no grounding and no last block.

        Raises FloatingPointError where the encoders gave NaN or infinity: nothing is returned.
        """
        began = time.perf_counter()
        inputs = self._preprocess.normalise(self._preprocess(frame.image))
        preprocessed = time.perf_counter()
        features = self._encoders(
            inputs, with_tokens=with_tokens, with_grounding=query is not None
        )
        tokens = self._token_grid(features.tokens) if features.tokens is not None else None
        encoded = time.perf_counter()
        grounding = None
        if query is not None and features.siglip is not None and features.dinov2 is not None:
            grounding = self._ground(frame, query, features.siglip, features.dinov2, with_mask)
        timings = {
            "preprocess": preprocessed - began,
            "encode": encoded - preprocessed,
            "ground": time.perf_counter() - encoded,
        }
        return Result(tokens, grounding, timings)

    def _token_grid(self, tokens: Tensor) -> TokenGrid:
        tokens = tokens.to(getattr(torch, self._tokens_dtype))
        if not bool(tokens.isfinite().all()):  # after the cast: float16 ends at 65504
            raise FloatingPointError("The tokens hold NaN or infinity and are withheld.")
        if self._tokens_dtype == "bfloat16":  # numpy has no such type
            data = tokens.view(torch.int16).cpu().numpy().view(np.uint16)
        else:
            data = tokens.cpu().numpy()
        return TokenGrid(
            data,
            self._tokens_dtype,
            self.contract.rows,
            self.contract.cols,
            self.contract.name,
            self.fingerprint,
        )

    def _ground(
        self, frame: Frame, query: Query, siglip: Tensor, dinov2: Tensor, with_mask: bool
    ) -> Grounding:
        if not bool(siglip.isfinite().all() & dinov2.isfinite().all()):
            raise FloatingPointError("The features hold NaN or infinity; objects are withheld.")
        scores = self._grounder.score(siglip, dinov2, query.embeddings)
        objects, masks = select_objects(
            scores,
            query.phrases,
            query.roles,
            frame.width,
            frame.height,
            self.threshold,
            _MOST_OBJECTS,
        )
        meant = assign(objects, query.phrases, query.mentions, frame.width, frame.height)
        objects = with_roles(objects, meant)[: self.max_objects]
        masks = [masks[index] for index in sorted(meant)][: self.max_objects]
        return Grounding(
            query.instruction,
            query.instruction_id,
            query.phrases,
            tuple(float(p) for p in scores.presence()),
            tuple(objects),
            self.contract.name,
            label_mask(masks, frame.width, frame.height) if with_mask else None,
        )


def _name(dtype: torch.dtype) -> str:
    return next(name for name, value in _PRECISIONS.items() if value == dtype)


def _device(name: str) -> torch.device:
    available = torch.cuda.is_available()
    if name == "auto":
        return torch.device("cuda" if available else "cpu")
    if name == "cuda" and not available:
        raise BackendError(
            "The device 'cuda' was asked for and PyTorch sees no CUDA GPU: check nvidia-smi and"
            " that torch.version.cuda is set, or use device: cpu."
        )
    if name not in ("cpu", "cuda"):
        raise BackendError(f"There is no device {name!r}: use auto, cpu or cuda.")
    return torch.device(name)


def _dtype(precision: str, device: torch.device) -> torch.dtype:
    if precision == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if precision not in _PRECISIONS:
        raise BackendError(f"There is no precision {precision!r}: use auto, fp32, bf16 or fp16.")
    if precision == "fp16" and device.type == "cpu":
        raise BackendError("A CPU has no fast fp16: use precision auto, fp32 or bf16.")
    return _PRECISIONS[precision]


def _contract(name: str, models: checkpoints.Models) -> Contract:
    """The named contract, or the first known one that the checkpoint keeps."""
    if name:
        contract = contracts.get(name)
        contracts.check(contract, models.siglip.config, models.dinov2.config)
        return contract
    for known in contracts.names():
        try:
            contracts.check(contracts.get(known), models.siglip.config, models.dinov2.config)
        except ContractError:
            continue
        return contracts.get(known)
    raise ContractError(
        "The checkpoint keeps none of the known contracts"
        f" ({', '.join(contracts.names())}): name one with the parameter contract to see"
        " which field differs."
    )
