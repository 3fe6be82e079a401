"""The pipeline: frames and a query in, fused tokens and grounded objects out, in one pass."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from siglip_perception import backends
from siglip_perception.backends import BackendChoice
from siglip_perception.checkpoints.grounding_settings import DEFAULT_THRESHOLD, MeasuredOn
from siglip_perception.config import ModelSelection, Settings
from siglip_perception.contracts import Contract
from siglip_perception.contracts.steps import token_grid
from siglip_perception.encoders.dead_weights import are_alike
from siglip_perception.encoders.encoders import Encoders, Features, TextEncoder
from siglip_perception.encoders.null_bank import bank_key, load_bank
from siglip_perception.encoders.plan import GroundingModel, ModelPlan
from siglip_perception.errors import BackendError, CheckpointError
from siglip_perception.grounding.depth import locate
from siglip_perception.grounding.grounder import Grounder
from siglip_perception.grounding.head_choice import choose_head
from siglip_perception.grounding.objects import label_mask, select_objects
from siglip_perception.grounding.regions import cosines
from siglip_perception.grounding.relations import assign, with_roles
from siglip_perception.grounding.scores import Scores
from siglip_perception.grounding.standing import PhraseSet, language_line, lines_of
from siglip_perception.grounding.training_domain import read_domain
from siglip_perception.grounding.windows import (
    WindowScores,
    merge_candidates,
    penalized,
    place_candidates,
    presence_of,
    window_boxes,
)
from siglip_perception.images.crops import CropPlan
from siglip_perception.images.fingerprint import pixel_fingerprint
from siglip_perception.images.preprocess import EncoderInput, Preprocessor
from siglip_perception.images.squares import SquareSpec
from siglip_perception.language.instruction import Instruction
from siglip_perception.language.null_phrases import (
    BANK_LANGUAGES,
    bank_places,
    language_of,
    recolored,
)
from siglip_perception.scenes.scenes import render, sample_scene
from siglip_perception.types import (
    Box,
    FloatArray,
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

_LOGGER = logging.getLogger(__name__)
_HEAD_TEST_SEED, _HEAD_TEST_OBJECTS = 20_260_101, 5
# Most objects that a mask image has values for. Relations choose among all of these before
# `max_objects` limits what is left.
_MAX_MASK_OBJECTS = 255


# Instructions whose phrases stay encoded; one takes some ten kilobytes for each phrase.
_KEPT_PHRASE_SETS = 16


@dataclass(frozen=True)
class PipelineOptions:
    """A pipeline's options besides its model; ranges are those of the node's parameters.

    threshold: None: each language's own, see Pipeline.thresholds.
    windows: overlapping windows along each side in which objects are looked for, too; 1: none.
    taps: encoder -> block that its tokens are taken from, in place of the contract's; -1: the
        last.
    background: PyTorch may serve while engines are built, as in a node; else loading waits for
        them, so that all results come from one backend.
    """

    threshold: float | None = None
    max_objects: int = Settings.max_objects
    windows: int = Settings.windows
    tokens_dtype: TokenDtype = Settings.tokens_dtype
    taps: Mapping[str, int] = field(default_factory=dict)
    background: bool = False


@dataclass(frozen=True)
class Query:
    """Encoded phrases.

    encoded: the phrases, and what they are compared with.
    truncated: for each phrase, True if it was cut to the text tower's context.
    """

    instruction: str
    instruction_id: int
    phrases: tuple[str, ...]
    roles: tuple[Role, ...]
    encoded: PhraseSet
    truncated: tuple[bool, ...]
    mentions: tuple[Mention, ...] = ()
    confidence: float = 1.0

    @property
    def embeddings(self) -> Tensor:
        """Float32 [P, D], unit length."""
        return self.encoded.embeddings


@dataclass(frozen=True)
class PatchFeatures:
    """Last patches of one frame, [N, D] each, as the grounding reads them."""

    siglip: Tensor
    dino: Tensor


@dataclass(frozen=True)
class Result:
    """Outputs of one frame; timings in seconds: "preprocess", "encode", "ground".

    pooled: SigLIP's embedding of the whole image, float32 [D] of unit length; None unless
        requested.
    features: None unless requested, and without a query.
    """

    tokens: TokenGrid | None
    grounding: Grounding | None
    timings: Mapping[str, float]
    pooled: FloatArray | None = None
    features: PatchFeatures | None = None


class Pipeline:
    """One loaded model; used from one thread. threshold, max_objects and windows may be changed.

    threshold: least score of an object; None: each language's own, see `thresholds`.

    can_ground: True if objects can be found at all.
    grounding_status: how objects are found, or why they cannot be.
    grounding_model, grounder: what finds them; the grounder exists only if `can_ground`.
    siglip_digest: of that SigLIP's vision weights, 64 hex digits; "" without one.
    pooled_dim: channels of its embedding of an image; 0 without one.
    """

    def __init__(
        self,
        plan: ModelPlan,
        selection: ModelSelection,
        options: PipelineOptions,
        choice: BackendChoice,
    ) -> None:
        self.contract: Contract = plan.contract
        self.fingerprint = plan.fingerprint
        self.grounding_status = plan.grounding_status
        self.can_ground = plan.grounding_model is not None
        self.threshold = options.threshold
        self.max_objects = options.max_objects
        self.windows = options.windows
        self._tokens_dtype: TokenDtype = options.tokens_dtype
        encoders = Encoders(plan.contract, plan.towers, plan.token_towers, plan.grounding_towers)
        device = choice.device
        self._preprocess = Preprocessor(encoders.inputs, device)
        self._encoded: OrderedDict[
            tuple[tuple[str, ...], int], tuple[PhraseSet, tuple[bool, ...]]
        ] = OrderedDict()
        self._crops = CropPlan.of(plan.contract)
        encoders.finish = self._host_outputs
        # Not kept as an attribute: engines release the encoders' own weights.
        self._encoders = backends.start(
            encoders, choice, selection if options.background else None
        )
        self.grounding_model: GroundingModel | None = None
        siglip_key = plan.grounding_towers.get("siglip")
        self.siglip_digest = plan.towers[siglip_key].digest if siglip_key else ""
        self.pooled_dim = plan.towers[siglip_key].dim if siglip_key else 0
        if plan.grounding_model is not None:
            model = plan.grounding_model
            self._text = TextEncoder(model.siglip, model.tokenizer, device)
            bank = load_bank(self._text, model.settings.templates, model.folder, model.text_digest)
            self.grounding_model = replace(model, bank=bank)
            self.grounder = Grounder(
                model.siglip.to(device),
                (model.grid, model.grid),
                model.settings,
                bank,
                choice.dtype,
            )
            domain = read_domain(model.folder, self.grounder.head.width)
            self.grounder.domain = None if domain is None else domain.to(device)
            self._add_calibrated_domain(model.settings.measured_on)

    @classmethod
    def load(
        cls, selection: ModelSelection, options: PipelineOptions = PipelineOptions()
    ) -> Pipeline:
        """Load a model and make it ready for the first frame.

        Raises CheckpointError, ContractError or BackendError, each with one clear sentence.
        """
        choice = backends.choose(selection.backend, selection.device, selection.precision)
        plan = ModelPlan.load(selection, options.taps)
        try:
            pipeline = cls(plan, selection, options, choice)
            pipeline._warm_up()
        except torch.OutOfMemoryError as error:
            raise BackendError(
                f"{selection.model} does not fit into the memory of {choice.device}: use a smaller"
                " model or another device."
            ) from error
        except (RuntimeError, ValueError, FloatingPointError) as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise CheckpointError(
                f"The model in {plan.folder} does not run ({reason}):"
                " check that its config.json belongs to its weights."
            ) from error
        return pipeline

    def _add_calibrated_domain(self, measured_on: MeasuredOn | None) -> None:
        """Let what the user calibrated on count as inside of the training."""
        domain = self.grounder.domain
        if domain is None or measured_on is None:
            return
        phrases = domain.phrases[:0]
        if measured_on.phrases:
            phrases = self._encode(measured_on.phrases)[0].embeddings
        self.grounder.domain = domain.widened(measured_on.picture_range, phrases)

    @property
    def thresholds(self) -> dict[str, float]:
        """Least score of an object by the language of its phrase.

        `threshold` for all where it is set; else those that the user's calibration measured, and
        0.5 where it measured none. Of pictures and phrases outside of the training it is 0.5, too.
        """
        calibration = self.grounder.settings.calibration if self.can_ground else {}
        return {
            language: language_line(language, calibration).threshold
            if self.threshold is None
            else self.threshold
            for language in BANK_LANGUAGES
        }

    @property
    def common_threshold(self) -> float | Mapping[str, float]:
        """The threshold of all languages, or `thresholds` where they differ."""
        thresholds = self.thresholds
        values = set(thresholds.values())
        return values.pop() if len(values) == 1 else thresholds

    @property
    def backend(self) -> str:
        """Description of what runs the encoders now; it may change from one frame to the next."""
        return self._encoders.description

    @property
    def backend_warnings(self) -> Mapping[str, str]:
        """Problems that do not keep the backend from serving, by name, with a sentence each."""
        return dict(self._encoders.warnings)

    def _warm_up(self) -> None:
        size = self.contract.encoders[0].image_size
        model = self.grounding_model
        if model is None:
            self.process(Frame(np.zeros((size, size, 3), dtype=np.uint8)), None)
            return
        scene = sample_scene(np.random.default_rng(_HEAD_TEST_SEED), _HEAD_TEST_OBJECTS)
        image = render(scene).image
        query = self.query(Instruction("", ("warm up",), (Role.UNKNOWN,)))
        features = self.process(Frame(image), query, with_features=True).features
        assert features is not None
        self._refuse_dead_weights(features, model.folder)
        self._test_head(model, image)

    @torch.inference_mode()
    def _refuse_dead_weights(self, features: PatchFeatures, folder: Path) -> None:
        """Raise CheckpointError if the vision weights tell nothing in a test picture apart."""
        halves = torch.eye(2, device=features.siglip.device).repeat_interleave(
            features.siglip.shape[0] // 2, dim=1
        )
        pooled = self.grounder.head(features.siglip[: halves.shape[1]], halves)
        for part, vectors in (
            ("SigLIP's vision tower", features.siglip),
            ("SigLIP's pooling head", pooled),
            ("the DINO encoder", features.dino),
        ):
            if are_alike(vectors):
                raise CheckpointError(
                    f"All of a test picture looks the same to {part} of the model in {folder}:"
                    " its weights are empty or broken, get a fresh copy."
                )

    def _test_head(self, model: GroundingModel, image: UInt8Array) -> None:
        """Choose how regions are pooled, where neither the model nor a calibration says it."""
        if model.settings.head_mlp is None:
            with_mlp = choose_head(self.grounder, image, self.features)
            self.grounder.head.with_mlp = with_mlp
            settings = replace(model.settings, head_mlp=with_mlp)
            self.grounder.settings = settings
            self.grounding_model = replace(model, settings=settings)
            _LOGGER.info(
                "Regions are pooled %s the MLP of SigLIP's head, as crops of a test picture say.",
                "with" if with_mlp else "without",
            )
        if self.threshold is None and len({*self.thresholds.values(), DEFAULT_THRESHOLD}) > 1:
            _LOGGER.info(
                "Objects are published from the calibration's own threshold on: %s; a threshold"
                " that you set goes before it.",
                ", ".join(f"{x} {value:.2f}" for x, value in self.thresholds.items()),
            )
        if not model.settings.is_calibrated:
            _LOGGER.warning(
                "The scores of %s are uncalibrated: they tell which object fits best, by the null"
                " bank, but are no probabilities; siglip-perception calibrate --coco measures them"
                " on 20 pictures of yours.",
                model.folder,
            )

    def mean_color_tokens(self) -> TokenGrid:
        """Compute the tokens of an image of the first encoder's mean color, int(255 * mean)."""
        spec = self.contract.encoders[0]
        image = np.empty((spec.image_size, spec.image_size, 3), dtype=np.uint8)
        image[:] = [int(255 * value) for value in spec.mean]
        tokens = self.process(Frame(image), None).tokens
        assert tokens is not None
        return tokens

    def query(self, instruction: Instruction, instruction_id: int = 0) -> Query:
        """Run the text tower over the phrases of an instruction, at least one.

        Raises BackendError if this model cannot ground.
        """
        if not self.can_ground:
            raise BackendError(self.grounding_status)
        encoded, truncated = self._encode_once(instruction.phrases)
        return Query(
            instruction.text,
            instruction_id,
            instruction.phrases,
            instruction.roles,
            encoded,
            truncated,
            instruction.mentions,
            instruction.confidence,
        )

    def _encode_once(self, phrases: tuple[str, ...]) -> tuple[PhraseSet, tuple[bool, ...]]:
        """Embed phrases as _encode does, and keep the newest: instructions come back.

        All phrases of one instruction are one entry, as a phrase's last bits depend on those that
        the text tower runs over with it.
        """
        key = phrases, id(self.grounder.domain)
        result = self._encoded.pop(key, None) or self._encode(phrases)
        self._encoded[key] = result
        while len(self._encoded) > _KEPT_PHRASE_SETS:
            self._encoded.popitem(last=False)
        return result

    def _encode(self, phrases: tuple[str, ...]) -> tuple[PhraseSet, tuple[bool, ...]]:
        """Embed phrases in their language's templates, with their negatives."""
        assert self.grounding_model is not None
        languages = tuple(language_of(phrase) for phrase in phrases)
        owners = [place for place, phrase in enumerate(phrases) for _ in recolored(phrase)]
        negatives = [text for phrase in phrases for text in recolored(phrase)]
        texts = [*zip(phrases, languages, strict=True)]
        texts += [(text, languages[o]) for text, o in zip(negatives, owners, strict=True)]
        rows: dict[int, Tensor] = {}
        truncated: dict[int, bool] = {}
        for language in dict.fromkeys(languages):
            places = [place for place, (_, x) in enumerate(texts) if x == language]
            embeddings, cut = self._text(
                tuple(texts[place][0] for place in places),
                self.grounding_model.settings.templates[language],
            )
            rows |= dict(zip(places, embeddings, strict=True))
            truncated |= dict(zip(places, cut, strict=True))
        count = len(phrases)
        everything = torch.stack([rows[place] for place in range(len(texts))])
        domain = self.grounder.domain
        unfamiliar = () if domain is None else domain.unfamiliar(everything[:count])
        encoded = PhraseSet(
            everything[:count],
            languages,
            everything[count:],
            tuple(owners),
            unfamiliar,
            tuple(bank_places(phrase) for phrase in phrases),
        )
        return encoded, tuple(truncated[place] for place in range(count))

    @property
    def bank_key(self) -> str:
        """Key of the null bank's embeddings, see write_bank()."""
        model = self.grounding_model
        assert model is not None
        return bank_key(model.text_digest, model.settings.templates)

    def embed(self, phrases: tuple[str, ...]) -> tuple[Tensor, tuple[bool, ...]]:
        """Embed phrases as they are: unit vectors float32 [P, D], and which were truncated.

        Raises BackendError if this model cannot ground.
        """
        if not self.can_ground:
            raise BackendError(self.grounding_status)
        return self._text(phrases)

    def process(
        self,
        frame: Frame,
        query: Query | None,
        *,
        with_tokens: bool = True,
        with_mask: bool = False,
        with_features: bool = False,
    ) -> Result:
        """Process one frame as process_batch does, but raise its FloatingPointError."""
        result = self.process_batch(
            [Task(frame, query, with_mask)], with_tokens=with_tokens, with_features=with_features
        )[0]
        if isinstance(result, FloatingPointError):
            raise result
        return result

    def preprocess(self, images: Sequence[UInt8Array]) -> Mapping[EncoderInput, Tensor]:
        """Turn images into the encoders' inputs, for process_batch(); any thread may do it.

        Each image's crops follow it, if the contract has some.
        """
        plan = self._crops
        if plan is not None:
            images = [view for image in images for view in plan.views(image)]
        return self._preprocess(images)

    def process_batch(
        self,
        tasks: Sequence[Task],
        *,
        with_tokens: bool = True,
        with_pooled: bool = False,
        with_features: bool = False,
        with_fingerprints: bool = True,
        inputs: Mapping[EncoderInput, Tensor] | None = None,
    ) -> list[Result | FloatingPointError]:
        """Process all frames in one pass; the last blocks run only over frames with a query.

        with_pooled: embed every image as a whole, too, which runs SigLIP's last blocks over all
            frames, and DINO's if any has a query; only if `can_ground`.
        with_features: keep the last patches of frames with a query.
        with_fingerprints: give the tokens their frame's pixel fingerprint.
        inputs: preprocess() of the frames' images, if that is done already.
        A frame for which the encoders gave NaN or infinity gets an error in place of its result.
        Timings are those of the whole batch.
        """
        if self.contract.has_free_grid and len(tasks) > 1:  # images of one batch have one size
            return [
                self.process_batch(
                    [task],
                    with_tokens=with_tokens,
                    with_pooled=with_pooled,
                    with_features=with_features,
                    with_fingerprints=with_fingerprints,
                )[0]
                for task in tasks
            ]
        start = time.perf_counter()
        if inputs is None:
            inputs = self.preprocess([task.frame.image for task in tasks])
        preprocess_end = time.perf_counter()
        grounding_tasks = [
            index for index, task in enumerate(tasks) if with_pooled or task.query is not None
        ]
        # Rows of the batch, in which each whole image is followed by its crops.
        starts = self._starts([task.frame.image for task in tasks])
        grounding_rows = [starts[index] for index in grounding_tasks]
        features = self._encoders(
            inputs,
            with_tokens=with_tokens,
            grounding_rows=grounding_rows,
            with_dino=any(task.query is not None for task in tasks),
        )
        # While a GPU works.
        fingerprints: list[tuple[float, ...]] = [()] * len(tasks)
        if with_tokens and with_fingerprints:
            fingerprints = [tuple(pixel_fingerprint(task.frame.image).tolist()) for task in tasks]
        # One transfer for everything that the host needs: a GPU idles each time it is waited for.
        host_tensors = iter(to_host(*features.host_outputs))
        grids: dict[int, TokenGrid | FloatingPointError] = {}
        if features.tokens is not None:
            grids = dict(
                enumerate(
                    self._token_grids(
                        next(host_tensors), next(host_tensors), tasks, starts, fingerprints
                    )
                )
            )
        encode_end = time.perf_counter()
        groundings: dict[int, Grounding | FloatingPointError | None] = {}
        pooled: FloatArray | None = None
        if features.siglip is not None:
            if features.dino is not None and self.windows > 1:
                # The windows' pass would overwrite these in a CUDA graph's memory.
                features = replace(
                    features, siglip=features.siglip.clone(), dino=features.dino.clone()
                )
            assert features.siglip is not None
            finite = next(host_tensors)
            row_groundings = self._ground(
                [tasks[index] for index in grounding_tasks],
                features.siglip,
                None if features.dino is None else next(host_tensors),
                finite,
            )
            groundings = dict(zip(grounding_tasks, row_groundings, strict=True))
            if with_pooled:
                pooled = to_host(self.grounder.pool(features.siglip))[0].numpy()
        timings = {
            "preprocess": preprocess_end - start,
            "encode": encode_end - preprocess_end,
            "ground": time.perf_counter() - encode_end,
        }
        results: list[Result | FloatingPointError] = []
        for index in range(len(tasks)):
            tokens, grounding = grids.get(index), groundings.get(index)
            if isinstance(tokens, FloatingPointError):
                results.append(tokens)
            elif isinstance(grounding, FloatingPointError):
                results.append(grounding)
            else:
                image_pooled = None if pooled is None else pooled[index]
                row = grounding_tasks.index(index) if grounding is not None else None
                patches = _row_features(features, row) if with_features else None
                results.append(Result(tokens, grounding, timings, image_pooled, patches))
        return results

    def _starts(self, images: Sequence[UInt8Array]) -> list[int]:
        """Return the row of each whole image in a batch, and the number of all rows."""
        if self._crops is None:
            return list(range(len(images) + 1))
        starts = [0]
        for image in images:
            starts.append(starts[-1] + self._crops.count(image))
        return starts

    def _host_outputs(self, features: Features) -> tuple[Tensor, ...]:
        """Collect what the host needs of a pass, in this order, as far as it was computed.

        Tokens as they are published, and flags [B] of frames whose tokens are finite; flags [G] of
        frames whose features are finite, and cosines of DINOv2's patches [G, N, N].
        """
        tensors: list[Tensor] = []
        if features.tokens is not None:
            cast_tokens = features.tokens.to(getattr(torch, self._tokens_dtype))
            # After the cast: values above 65504 overflow float16.
            finite = _finite(cast_tokens)
            if self._tokens_dtype == "bfloat16":  # numpy has no such type
                cast_tokens = cast_tokens.view(torch.int16)
            tensors += [cast_tokens, finite]
        parts = [part for part in (features.siglip, features.dino) if part is not None]
        if parts:
            tensors.append(_finite(*parts))
        if features.dino is not None:
            tensors.append(torch.stack([cosines(patches) for patches in features.dino]))
        return tuple(tensors)

    def _token_grids(
        self,
        cast_tokens: Tensor,
        finite: Tensor,
        tasks: Sequence[Task],
        starts: Sequence[int],
        fingerprints: Sequence[tuple[float, ...]],
    ) -> list[TokenGrid | FloatingPointError]:
        """Return each frame's tokens, its crops' behind those of the whole image.

        starts: as from _starts().
        """
        data, dim = cast_tokens.numpy(), cast_tokens.shape[-1]
        if self._tokens_dtype == "bfloat16":
            data = data.view(np.uint16)
        grids = [self._grid(task.frame) for task in tasks]
        return [
            TokenGrid(
                data[start:end].reshape(-1, dim),
                self._tokens_dtype,
                (end - start) * rows,
                cols,
                self.contract.name,
                self.fingerprint,
                fingerprint,
            )
            if bool(finite[start:end].all())
            else FloatingPointError("The tokens hold NaN or infinity and are withheld.")
            for start, end, fingerprint, (rows, cols) in zip(
                starts[:-1], starts[1:], fingerprints, grids, strict=True
            )
        ]

    def _grid(self, frame: Frame) -> tuple[int, int]:
        """Return the rows and columns of an image's tokens."""
        if not self.contract.has_free_grid:
            return self.contract.rows, self.contract.cols
        spec = self.contract.encoders[0]
        square = SquareSpec.of(self.contract, spec)
        width, height = square.result_size(frame.width, frame.height)
        steps = self.contract.tokens
        return token_grid(steps, height // spec.patch), token_grid(steps, width // spec.patch)

    def features(self, images: Sequence[UInt8Array]) -> tuple[Tensor, Tensor]:
        """Return SigLIP's and DINO's last patches, [B, N, D] each, as grounding reads them."""
        inputs = self._preprocess(images)
        features = self._encoders(
            inputs, with_tokens=False, grounding_rows=list(range(len(images)))
        )
        assert features.siglip is not None
        assert features.dino is not None
        return features.siglip.clone(), features.dino.clone()  # a CUDA graph reuses its memory

    def _ground(
        self, tasks: Sequence[Task], siglip: Tensor, cosine: Tensor | None, finite: Tensor
    ) -> list[Grounding | FloatingPointError | None]:
        """Ground each task with a query; None for one without, an error where it is not finite.

        cosine [G, N, N] and finite [G] are on the host, see score_all(); None without a query.
        """
        inputs = {}
        finite_rows = {row for row, is_finite in enumerate(finite.tolist()) if is_finite}
        for row, task in enumerate(tasks):
            if row in finite_rows and isinstance(task.query, Query) and cosine is not None:
                inputs[row] = (siglip[row], cosine[row], task.query.encoded)
        scores = dict(zip(inputs, self.grounder.score_all(list(inputs.values())), strict=True))
        error = FloatingPointError("The features hold NaN or infinity; objects are withheld.")
        return [
            error
            if row not in finite_rows
            else self._answer_with_windows(task, scores[row])
            if row in scores
            else None
            for row, task in enumerate(tasks)
        ]

    def _answer_with_windows(self, task: Task, scores: Scores) -> Grounding | FloatingPointError:
        assert isinstance(task.query, Query)
        try:
            windows = self.window_scores(task.frame.image, task.query)
        except FloatingPointError as error:
            return error
        return self.answer(task, scores, windows)

    def window_scores(self, image: UInt8Array, query: Query) -> list[WindowScores]:
        """Score the regions of the image's windows, each through the encoders; none for one.

        Raises FloatingPointError where the encoders give NaN or infinity.
        """
        boxes = window_boxes(image.shape[1], image.shape[0], self.windows)
        if not boxes:
            return []
        siglip, dino = self.features([np.ascontiguousarray(_cut(image, box)) for box in boxes])
        cosine, finite = to_host(
            torch.stack([cosines(patches) for patches in dino]), _finite(siglip, dino)
        )
        if not bool(finite.all()):
            raise FloatingPointError("A window's features hold NaN or infinity.")
        frames = [(siglip[row], cosine[row], query.encoded) for row in range(len(boxes))]
        scores = self.grounder.score_all(frames)
        return [
            WindowScores(box, penalized(entry)) for box, entry in zip(boxes, scores, strict=True)
        ]

    def answer(
        self, task: Task, scores: Scores, windows: Sequence[WindowScores] = ()
    ) -> Grounding:
        """Ground one task from the scores of the regions of its frame, and of its windows."""
        query, frame = task.query, task.frame
        assert isinstance(query, Query)
        objects, masks = self.choose_objects(frame, query, scores, windows)
        return Grounding(
            query.instruction,
            query.instruction_id,
            query.phrases,
            tuple(float(p) for p in presence_of(scores, windows)),
            tuple(objects),
            self.contract.name,
            label_mask(masks, frame.width, frame.height) if task.with_mask else None,
            query.mentions,
            query.confidence,
            uncalibrated=not self.grounder.settings.is_calibrated,
            outside_training=scores.outside_training,
            unfamiliar=scores.unfamiliar,
        )

    def _select(
        self, image: UInt8Array, query: Query, scores: Scores, most: int
    ) -> tuple[list[GroundedObject], list[UInt8Array]]:
        """Select at most so many objects of one image or window, with their masks."""
        model = self.grounding_model
        assert model is not None
        return select_objects(
            scores,
            query.phrases,
            query.roles,
            model.resize.geometry(image.shape[1], image.shape[0]),
            model.patch,
            self._thresholds_of(query, scores),
            most,
            image,
        )

    def _merge(
        self,
        frame: Frame,
        query: Query,
        whole: tuple[list[GroundedObject], list[UInt8Array]],
        windows: Sequence[WindowScores],
    ) -> tuple[list[GroundedObject], list[UInt8Array]]:
        """Join the objects of the whole image with those of its windows, phrase after phrase."""
        size = frame.width, frame.height
        candidates = place_candidates(*whole, Box(0, 0, *size), *size)
        for window in windows:
            image = np.ascontiguousarray(_cut(frame.image, window.box))
            part = self._select(image, query, window.scores, _MAX_MASK_OBJECTS)
            candidates += place_candidates(*part, window.box, *size)
        merged = [
            candidate
            for phrase in query.phrases
            for candidate in merge_candidates([c for c in candidates if c.item.phrase == phrase])
        ][:_MAX_MASK_OBJECTS]
        return [candidate.item for candidate in merged], [c.mask for c in merged]

    def _thresholds_of(self, query: Query, scores: Scores) -> list[float]:
        """Least score of an object of each phrase."""
        if self.threshold is not None:
            return [self.threshold] * len(query.phrases)
        calibration = self.grounder.settings.calibration
        lines = lines_of(query.encoded, calibration, is_outside=scores.outside_training)
        return [line.threshold for line in lines]

    def choose_objects(
        self,
        frame: Frame,
        query: Query,
        scores: Scores,
        windows: Sequence[WindowScores] = (),
    ) -> tuple[list[GroundedObject], list[UInt8Array]]:
        """Select the query's objects, each with its mask, uint8 [height, width] of 0 and 1."""
        has_relations = any(mention.relations for mention in query.mentions)
        most = _MAX_MASK_OBJECTS if has_relations or windows else self.max_objects
        objects, masks = self._select(frame.image, query, scores, most)
        if windows:
            objects, masks = self._merge(frame, query, (objects, masks), windows)
        depth = frame.depth() if frame.depth is not None and objects else None
        if depth is not None:
            objects = locate(objects, masks, depth)
        roles = assign(objects, query.phrases, query.mentions, frame.width, frame.height)
        objects = with_roles(objects, roles)[: self.max_objects]
        masks = [masks[index] for index in sorted(roles)][: self.max_objects]
        return objects, masks


def _cut(image: UInt8Array, box: Box) -> UInt8Array:
    """Cut a box out of an image [height, width, 3]; a view."""
    return image[box.y : box.y + box.height, box.x : box.x + box.width]


def _row_features(features: Features, row: int | None) -> PatchFeatures | None:
    """Copy one frame's features out of a pass: a CUDA graph reuses its memory."""
    if row is None or features.siglip is None or features.dino is None:
        return None
    return PatchFeatures(features.siglip[row].clone(), features.dino[row].clone())


def _finite(*tensors: Tensor) -> Tensor:
    """Flag the items of tensors [B, ...] that are finite in all of them: bool [B]."""
    # NaN is its own largest value. On a CPU isfinite() takes five times as long.
    flags = [tensor.flatten(1).abs().amax(dim=1) < torch.inf for tensor in tensors]
    return torch.stack(flags).all(dim=0)
