"""The whole story: frames and a query in, fused tokens and grounded objects out, one pass."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from siglip_perception import backends
from siglip_perception.backends import Choice, Source
from siglip_perception.contracts import Contract
from siglip_perception.encoders.encoders import Encoders, Features, TextEncoder
from siglip_perception.encoders.plan import Plan
from siglip_perception.errors import BackendError, CheckpointError
from siglip_perception.grounding.depth import locate
from siglip_perception.grounding.grounder import (
    Grounder,
    Scores,
    cosines,
    label_mask,
    select_objects,
)
from siglip_perception.grounding.relations import assign, with_roles
from siglip_perception.images.preprocess import Preprocessor
from siglip_perception.language.instruction import Instruction
from siglip_perception.types import (
    Frame,
    GroundedObject,
    Grounding,
    Mention,
    Role,
    Task,
    TokenDtype,
    TokenGrid,
    UInt8Array,
)
from siglip_perception.util.device import to_host

# As many as a mask image has values for; `max_objects` counts those that are meant.
_MOST_OBJECTS = 255


@dataclass(frozen=True)
class PipelineOptions:
    """What a pipeline is loaded with; the names and ranges are those of the node's parameters.

    taps: encoder -> block that its tokens are taken from, in place of the contract's; -1: the
        last.
    background: whether PyTorch may serve while engines are built, as in a node; else they are
        waited for, so that all results come from the same backend.
    """

    model: str = "tabletop"
    contract: str = ""
    backend: str = "auto"
    device: str = "auto"
    precision: str = "auto"
    threshold: float = 0.5
    max_objects: int = 20
    tokens_dtype: TokenDtype = "float32"
    grounding_model: str = ""
    grounding_contract: str = ""
    taps: Mapping[str, int] = field(default_factory=dict)
    background: bool = False


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
    confidence: float = 1.0


@dataclass(frozen=True)
class Result:
    """Both products of one frame; timings in seconds: "preprocess", "encode", "ground"."""

    tokens: TokenGrid | None
    grounding: Grounding | None
    timings: Mapping[str, float]


class Pipeline:
    """One model, loaded; used from one thread. `threshold` and `max_objects` may be changed.

    grounding: how objects are found, in words. can_ground: whether they can be at all. sight,
    grounder: what finds them, where they can be found.
    """

    def __init__(self, plan: Plan, options: PipelineOptions, choice: Choice) -> None:
        self.contract: Contract = plan.contract
        self.fingerprint = plan.fingerprint
        self.grounding = plan.says
        self.can_ground = plan.sight is not None
        self.threshold = options.threshold
        self.max_objects = options.max_objects
        self._tokens_dtype: TokenDtype = options.tokens_dtype
        encoders = Encoders(plan.contract, plan.towers, plan.tokens, plan.grounding)
        device = choice.device
        self._preprocess = Preprocessor(encoders.inputs, device)
        source = None
        if options.background:
            source = Source(
                options.model,
                options.contract,
                options.grounding_model,
                options.grounding_contract,
            )
        encoders.finish = self._leaving
        # Not kept beside it: engines let the encoders' own weights go.
        self._encoders = backends.start(encoders, choice, source)
        self.sight = plan.sight
        if plan.sight is not None:
            sight = plan.sight
            self._text = TextEncoder(sight.siglip, sight.tokenizer, device)
            self.grounder = Grounder(
                sight.siglip.to(device), (sight.grid, sight.grid), sight.settings, choice.dtype
            )

    @classmethod
    def load(cls, options: PipelineOptions) -> Pipeline:
        """Load a model folder and make it ready for the first frame.

        Raises CheckpointError, ContractError or BackendError, each with one clear sentence.
        """
        choice = backends.choose(options.backend, options.device, options.precision)
        plan = Plan.make(
            options.model,
            options.contract,
            options.grounding_model,
            options.grounding_contract,
            options.taps,
        )
        try:
            pipeline = cls(plan, options, choice)
            pipeline._warm_up()
        except torch.OutOfMemoryError as error:
            raise BackendError(
                f"The memory of {choice.device} does not hold {options.model}: use a smaller model"
                " or another device."
            ) from error
        except (RuntimeError, ValueError, FloatingPointError) as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise CheckpointError(
                f"The model in {plan.folder} does not run ({reason}):"
                " its config.json and its weights have to be those that belong together."
            ) from error
        return pipeline

    @property
    def backend(self) -> str:
        """What runs the encoders now, in words; it may change from one frame to the next."""
        return self._encoders.says

    def _warm_up(self) -> None:
        query = None
        if self.can_ground:
            query = self.query(Instruction("", ("warm up",), (Role.UNKNOWN,)))
        size = self.contract.encoders[0].image_size
        self.process(Frame(np.zeros((size, size, 3), dtype=np.uint8)), query)

    def query(self, instruction: Instruction, instruction_id: int = 0) -> Query:
        """Run the text tower over the instruction's phrases, of which there is at least one.

        Raises BackendError where this model cannot ground.
        """
        if not self.can_ground:
            raise BackendError(self.grounding)
        embeddings, truncated = self._text(instruction.phrases)
        return Query(
            instruction.text,
            instruction_id,
            instruction.phrases,
            instruction.roles,
            embeddings,
            truncated,
            instruction.mentions,
            instruction.confidence,
        )

    def process(
        self,
        frame: Frame,
        query: Query | None,
        *,
        with_tokens: bool = True,
        with_mask: bool = False,
    ) -> Result:
        """process_batch of one frame; its FloatingPointError is raised."""
        result = self.process_batch([Task(frame, query, with_mask)], with_tokens=with_tokens)[0]
        if isinstance(result, FloatingPointError):
            raise result
        return result

    def process_batch(
        self, tasks: Sequence[Task], *, with_tokens: bool = True
    ) -> list[Result | FloatingPointError]:
        """One pass over all frames; the last blocks only over those with a query, if any.

        A frame for which the encoders gave NaN or infinity gets the error and no results. The
        timings are the whole batch's.
        """
        began = time.perf_counter()
        inputs = self._preprocess([task.frame.image for task in tasks])
        preprocessed = time.perf_counter()
        grounded = [number for number, task in enumerate(tasks) if task.query is not None]
        features = self._encoders(inputs, with_tokens=with_tokens, grounded=grounded)
        # All that the host needs leaves a GPU together: each time that it is waited for, it idles.
        arrived = iter(to_host(*features.leaving))
        grids: dict[int, TokenGrid | FloatingPointError] = {}
        if features.tokens is not None:
            grids = dict(enumerate(self._token_grids(next(arrived), next(arrived))))
        encoded = time.perf_counter()
        found: dict[int, Grounding | FloatingPointError] = {}
        if features.siglip is not None:
            asked = [tasks[number] for number in grounded]
            answers = self._ground(asked, features.siglip, next(arrived), next(arrived))
            found = dict(zip(grounded, answers, strict=True))
        timings = {
            "preprocess": preprocessed - began,
            "encode": encoded - preprocessed,
            "ground": time.perf_counter() - encoded,
        }
        results: list[Result | FloatingPointError] = []
        for number in range(len(tasks)):
            tokens, grounding = grids.get(number), found.get(number)
            if isinstance(tokens, FloatingPointError):
                results.append(tokens)
            elif isinstance(grounding, FloatingPointError):
                results.append(grounding)
            else:
                results.append(Result(tokens, grounding, timings))
        return results

    def _leaving(self, features: Features) -> tuple[Tensor, ...]:
        """Of a pass what the host needs, in this order, as far as it was asked for.

        Tokens as they are published, and of which frames [B] they are finite; cosines of DINOv2's
        patches [G, N, N], and of which frames [G] the features are finite.
        """
        leaving: list[Tensor] = []
        if features.tokens is not None:
            narrow = features.tokens.to(getattr(torch, self._tokens_dtype))
            # After the cast: float16 ends at 65504.
            finite = _finite(narrow)
            if self._tokens_dtype == "bfloat16":  # numpy has no such type
                narrow = narrow.view(torch.int16)
            leaving += [narrow, finite]
        if features.siglip is not None and features.dino is not None:
            each = torch.stack([cosines(one) for one in features.dino])
            leaving += [each, _finite(features.siglip, features.dino)]
        return tuple(leaving)

    def _token_grids(self, narrow: Tensor, finite: Tensor) -> list[TokenGrid | FloatingPointError]:
        data = narrow.numpy()
        if self._tokens_dtype == "bfloat16":
            data = data.view(np.uint16)
        return [
            TokenGrid(
                data[number],
                self._tokens_dtype,
                self.contract.rows,
                self.contract.cols,
                self.contract.name,
                self.fingerprint,
            )
            if right
            else FloatingPointError("The tokens hold NaN or infinity and are withheld.")
            for number, right in enumerate(finite.tolist())
        ]

    def features(self, images: Sequence[UInt8Array]) -> tuple[Tensor, Tensor]:
        """What the grounding reads of images: SigLIP's and DINO's last patches, [B, N, D] each."""
        inputs = self._preprocess(images)
        found = self._encoders(inputs, with_tokens=False, grounded=list(range(len(images))))
        assert found.siglip is not None
        assert found.dino is not None
        return found.siglip.clone(), found.dino.clone()  # a CUDA graph writes over its own

    def _ground(
        self, tasks: Sequence[Task], siglip: Tensor, cosine: Tensor, finite: Tensor
    ) -> list[Grounding | FloatingPointError]:
        """One for each task; cosine [G, N, N] and finite [G] on the host, see score_all()."""
        asked = []
        whole = [row for row, right in enumerate(finite.tolist()) if right]
        for row in whole:
            query = tasks[row].query
            assert isinstance(query, Query)
            asked.append((siglip[row], cosine[row], query.embeddings))
        scores = dict(zip(whole, self.grounder.score_all(asked), strict=True))
        withheld = FloatingPointError("The features hold NaN or infinity; objects are withheld.")
        return [
            self.answer(task, scores[row]) if row in scores else withheld
            for row, task in enumerate(tasks)
        ]

    def answer(self, task: Task, scores: Scores) -> Grounding:
        """The objects that the task's query means, out of the scores of its frame's regions."""
        query, frame = task.query, task.frame
        assert isinstance(query, Query)
        objects, masks = self.meant(frame, query, scores)
        return Grounding(
            query.instruction,
            query.instruction_id,
            query.phrases,
            tuple(float(p) for p in scores.presence()),
            tuple(objects),
            self.contract.name,
            label_mask(masks, frame.width, frame.height) if task.with_mask else None,
            query.mentions,
            query.confidence,
        )

    def meant(
        self, frame: Frame, query: Query, scores: Scores
    ) -> tuple[list[GroundedObject], list[UInt8Array]]:
        """The objects that are meant, each with its mask uint8 [height, width] of 0 and 1."""
        sight = self.sight
        related = any(mention.relations for mention in query.mentions)
        assert sight is not None
        objects, masks = select_objects(
            scores,
            query.phrases,
            query.roles,
            sight.square.geometry(frame.width, frame.height),
            sight.patch,
            self.threshold,
            _MOST_OBJECTS if related else self.max_objects,
            frame.image,
        )
        depth = frame.depth() if frame.depth is not None and objects else None
        if depth is not None:
            objects = locate(objects, masks, depth)
        meant = assign(objects, query.phrases, query.mentions, frame.width, frame.height)
        objects = with_roles(objects, meant)[: self.max_objects]
        masks = [masks[index] for index in sorted(meant)][: self.max_objects]
        return objects, masks


def _finite(*values: Tensor) -> Tensor:
    """Of tensors [B, ...], for which of B all that they hold is finite: bool [B]."""
    found = [one.isfinite().flatten(1).all(dim=1) for one in values]
    return torch.stack(found).all(dim=0)
