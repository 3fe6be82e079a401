"""The encoders over a batch: one pass, every tap that is needed, and no block more."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from siglip_perception.checkpoints.networks import Siglip, VisionNetwork
from siglip_perception.contracts import Contract, EncoderSpec
from siglip_perception.contracts.steps import Pool, Shuffle, TokenStep, block_side
from siglip_perception.encoders import onednn, triton_kernels
from siglip_perception.encoders.transformer import convert
from siglip_perception.errors import CheckpointError
from siglip_perception.images.preprocess import EncoderInput
from siglip_perception.util.panics import PanicError, panics_as_errors

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TEXT_BATCH = 64
Segment = Callable[[Tensor], Tensor]
Job = Callable[[], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Features:
    """Outputs of a batch of B images. N: patches of a grid, row-major from the top left.

    tokens: float32 [B, N, dim], fused in the contract's order; None if not requested.
    siglip: float32 [G, N, D_siglip] of the G images to ground: the last block after the post layer
        norm, which is what the pooling head reads; None if there are none.
    dino: float32 [G, N, D_dino] of the same images: the last block after the layer norm, without
        CLS and registers; None if not requested. `siglip` and `dino` come from the grounding's own
        encoders if it has some.
    host_outputs: tensors for the host that Encoders.finish made of the others.
    """

    tokens: Tensor | None
    siglip: Tensor | None
    dino: Tensor | None
    host_outputs: tuple[Tensor, ...] = ()


class Tower(nn.Module):
    """One encoder: embedding, blocks in order, final norm. Consumes the network that it is made
    from.

    input: the images that it takes.
    digest: of its weights; two towers with equal digests and inputs are the same tower.
    depth: number of blocks. splits: the tokens are tapped after so many of them, in the order of
        their channels.
    """

    mask: Tensor | None

    def __init__(
        self, network: VisionNetwork, spec: EncoderSpec, encoder_input: EncoderInput, digest: str
    ) -> None:
        super().__init__()
        self.input = encoder_input
        self.digest = digest
        self.prefix = spec.prefix
        self.patches = spec.grid**2
        self.patch = spec.patch
        self.free = encoder_input.square.is_free
        self.dim = spec.dim
        embed, blocks, norm = convert(network, spec, self.free)
        self.embed, self.norm = embed, norm
        self.blocks = nn.ModuleList(blocks)
        self.depth = len(blocks)
        self.splits = tuple(self.depth + tap + 1 for tap in spec.taps)
        self._normed = spec.norm
        self._segments: dict[tuple[int, int], Segment] = {}
        self.register_buffer("mask", None, persistent=False)

    def prepare(self, device: torch.device, dtype: torch.dtype) -> None:
        """Move to the device, lay weights out as is fastest there, products in `dtype`; once."""
        onednn.lay_out(self, device, dtype)
        if self.free:
            return
        if device.type == "cpu" and dtype == torch.bfloat16:
            self.pad(1, dtype)
        if (
            device.type == "cuda"
            and dtype != torch.float32
            and not triton_kernels.trouble(device, dtype)
        ):
            self.serve(
                {
                    (start, stop): triton_kernels.FusedBlocks(
                        None if start else self.embed, self.blocks[start:stop], self.mask
                    )
                    for start, stop in self.block_ranges(to_end=True)
                }
            )

    def pad(self, rows: int | None, dtype: torch.dtype = torch.float32) -> None:
        """Pad the sequence to whole tiles, T tokens; attention masks the padding.

        rows: of the mask [1, 1, rows, T]; None: T.
        """
        pad_count = self.embed.pad()
        count = self.prefix + self.patches + pad_count
        if pad_count:
            mask = torch.zeros(1, 1, rows or count, count, dtype=dtype)
            mask[..., -pad_count:] = -torch.inf
            self.mask = mask

    @property
    def tokens(self) -> int:
        """Length of the sequence, padding included."""
        return self.prefix + self.patches + len(self.embed.pad_tokens)

    def serve(self, segments: Mapping[tuple[int, int], Segment]) -> None:
        """Run these in place of PyTorch's own blocks; an empty mapping restores those.

        segments: (first, end) of a range of blocks -> what computes run_blocks() of it; one for
            each of block_ranges().
        """
        self._segments = dict(segments)

    def release(self) -> None:
        """Free PyTorch's own weights once segments serve."""
        self.embed.release()
        self.blocks = nn.ModuleList()

    def served_by(
        self, segments: Mapping[tuple[int, int], Segment], device: torch.device
    ) -> Tower:
        """Return another tower that these segments run, with no weights but its norm's.

        segments: see serve(). device: where they take and return their tensors.
        """
        tower = Tower.__new__(Tower)
        nn.Module.__init__(tower)
        names = ("input", "digest", "prefix", "patches", "patch", "free", "dim", "depth", "splits")
        for name in (*names, "_normed"):
            setattr(tower, name, getattr(self, name))
        tower.norm = copy.deepcopy(self.norm).to(device)
        tower.register_buffer("mask", None, persistent=False)
        tower._segments = dict(segments)
        return tower

    def block_ranges(self, to_end: bool) -> tuple[tuple[int, int], ...]:
        """Ranges of blocks to run: up to each tap and, if `to_end`, from there to the last."""
        stops = sorted({*self.splits, self.depth} if to_end else self.splits)
        return tuple(zip((0, *stops[:-1]), stops, strict=True))

    def run_blocks(self, values: Tensor, start: int, stop: int) -> Tensor:
        """Run blocks `start` to `stop` over the residual stream [B, T, D]; over pixels from 0."""
        segment = self._segments.get((start, stop))
        if segment is not None:
            return segment(values)
        hidden: Tensor = values if start else self.embed(values)
        for block in self.blocks[start:stop]:
            hidden = block(hidden, self.mask)
        return hidden

    def run(self, pixels: Tensor, with_tokens: bool, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return patches float32 [B, N, D] at the contract's taps, joined on the channels, and
        normed patches of the last block, [len(rows), N, D], for the images `rows` of the batch
        only.

        What is not requested is empty; no block runs on an image whose output nothing reads.
        """
        is_subset = 0 < len(rows) < len(pixels)
        if is_subset and not with_tokens:
            pixels, is_subset = _rows(pixels, rows), False
        last = pixels.new_empty(0)
        hidden = pixels
        taps: dict[int, Tensor] = {}
        for start, stop in self.block_ranges(bool(rows)):
            hidden = self.run_blocks(hidden, start, stop)
            if with_tokens and stop in self.splits:
                taps[stop] = self._patches(hidden)
                if is_subset and stop == max(self.splits):
                    hidden = _rows(hidden, rows)
        if rows:
            last = self.norm(self._patches(hidden))
        if not with_tokens:
            return pixels.new_empty(0), last
        if self._normed:
            has_last = bool(rows) and not is_subset
            taps = {
                stop: last if has_last and stop == self.depth else self.norm(tap)
                for stop, tap in taps.items()
            }
        tokens = [taps[stop] for stop in self.splits]
        return tokens[0] if len(tokens) == 1 else torch.cat(tokens, dim=-1), last

    def _patches(self, hidden: Tensor) -> Tensor:
        if self.free:
            return hidden[:, self.prefix :]
        return hidden[:, self.prefix : self.prefix + self.patches]


class Encoders:
    """The towers of a contract, and the grounding's own if it has some.

    Call prepare() to run them with PyTorch, or give each tower engines with Tower.serve().
    """

    def __init__(
        self,
        contract: Contract,
        towers: Mapping[str, Tower],
        token_towers: Mapping[str, str],
        grounding_towers: Mapping[str, str],
    ) -> None:
        """Connect towers to outputs.

        towers: by any key.
        token_towers: encoder of the contract -> key of its tower.
        grounding_towers: "siglip" and "dino" -> keys of what the grounding reads; empty without
            grounding.
        """
        self.towers = dict(towers)
        self._token_keys = [token_towers[spec.name] for spec in contract.encoders]
        self._token_steps = contract.tokens
        self._grounding_towers = dict(grounding_towers)
        # Runs the towers' passes, which are independent of each other, and returns their results.
        self.run_all: Callable[[Sequence[Job]], list[tuple[Tensor, Tensor]]] = _run_in_turn
        # Ends a pass and belongs to it: on a GPU it is inside the CUDA graph and costs no launch.
        self.finish: Callable[[Features], tuple[Tensor, ...]] = _no_host_outputs

    def served_by(self, towers: Mapping[str, Tower]) -> Encoders:
        """Return encoders with the same outputs, computed by other towers of the same keys."""
        encoders = copy.copy(self)
        encoders.towers = dict(towers)
        encoders.run_all = _run_in_turn
        return encoders

    def prepare(self, device: torch.device, dtype: torch.dtype) -> None:
        """Make all towers ready on the device, with products in `dtype`; once."""
        for tower in self.towers.values():
            tower.prepare(device, dtype)

    @property
    def grounding_keys(self) -> frozenset[str]:
        """Keys of the towers whose last block the grounding reads."""
        return frozenset(self._grounding_towers.values())

    @property
    def outputs(self) -> str:
        """Description of what is read from which tower; part of a cache key."""
        taps = [
            f"{key}{' normed' if self.towers[key]._normed else ''}" for key in self._token_keys
        ]
        grounding_outputs = [
            f"{part} of {key}" for part, key in sorted(self._grounding_towers.items())
        ]
        return f"tokens of {', '.join(taps)}; {', '.join(grounding_outputs)}"

    @property
    def inputs(self) -> tuple[EncoderInput, ...]:
        """The towers' inputs without duplicates."""
        return tuple(dict.fromkeys(tower.input for tower in self.towers.values()))

    @property
    def free(self) -> bool:
        """True if the grid changes with the image."""
        return any(tower.free for tower in self.towers.values())

    def _row_count(self, inputs: Mapping[EncoderInput, Tensor], tokens: Tensor) -> int:
        """Return the rows of patches of [B, N, D]."""
        tower = self.towers[self._token_keys[0]]
        if not tower.free:
            return math.isqrt(tokens.shape[1])
        return int(inputs[tower.input].shape[2] // tower.patch)

    @torch.inference_mode()
    def __call__(
        self,
        inputs: Mapping[EncoderInput, Tensor],
        *,
        with_tokens: bool,
        grounding_rows: Sequence[int],
        with_dino: bool = True,
    ) -> Features:
        """Run the blocks that the requested outputs need on float32 inputs [B, 3, S, S].

        grounding_rows: indices of the images in the batch whose features the grounding reads.
        with_dino: False: of those images SigLIP's features alone, which embed them as a whole.
        """
        parts = {
            part: key
            for part, key in self._grounding_towers.items()
            if grounding_rows and (with_dino or part != "dino")
        }
        read_keys = frozenset(parts.values())
        jobs: dict[str, Job] = {}
        for key, tower in self.towers.items():
            is_tapped = with_tokens and key in self._token_keys
            if is_tapped or key in read_keys:
                rows = grounding_rows if key in read_keys else ()
                jobs[key] = functools.partial(tower.run, inputs[tower.input], is_tapped, rows)
        outputs = dict(zip(jobs, self.run_all(list(jobs.values())), strict=True))
        taps = {key: output[0] for key, output in outputs.items()}
        last_patches = {key: output[1] for key, output in outputs.items()}
        features = {part: last_patches[key].float() for part, key in parts.items()}
        tokens = None
        if with_tokens:
            tokens = torch.cat([taps[key] for key in self._token_keys], dim=-1).float()
            row_count = self._row_count(inputs, tokens) if self._token_steps else 0
            for step in self._token_steps:
                tokens = _regroup(tokens, step, row_count)
                row_count //= block_side(step)
        result = Features(tokens, features.get("siglip"), features.get("dino"))
        return replace(result, host_outputs=self.finish(result))


def _regroup(tokens: Tensor, step: TokenStep, rows: int) -> Tensor:
    """Make one token of each square block of patches: [B, N, D] -> [B, N / side^2, D'].

    rows: of patches.
    """
    side = block_side(step)
    batch, count, dim = tokens.shape
    blocks = tokens.view(batch, rows // side, side, count // rows // side, side, dim)
    if isinstance(step, Shuffle) and step.order == "channel":
        joined = blocks.permute(0, 1, 3, 5, 2, 4)
        return joined.reshape(batch, count // side**2, dim * side**2)
    if isinstance(step, Pool):
        return blocks.mean(dim=(2, 4)).flatten(1, 2)
    return blocks.permute(0, 1, 3, 2, 4, 5).reshape(batch, count // side**2, dim * side**2)


def _rows(values: Tensor, rows: Sequence[int]) -> Tensor:
    """Return values[rows], by slices: an index tensor on the host would make a GPU wait."""
    return torch.cat([values[row : row + 1] for row in rows])


def _no_host_outputs(features: Features) -> tuple[Tensor, ...]:
    return ()


def _run_in_turn(jobs: Sequence[Job]) -> list[tuple[Tensor, Tensor]]:
    return [job() for job in jobs]


class TextEncoder:
    """SigLIP's text tower: phrases -> unit embeddings, once for each instruction."""

    def __init__(
        self, siglip: Siglip, tokenizer: PreTrainedTokenizerBase, device: torch.device
    ) -> None:
        self._tower = siglip.text_model.to(device)
        self._tokenizer = tokenizer
        self._context = int(siglip.text_model.config.max_position_embeddings)
        self._device = device

    @property
    def device(self) -> torch.device:
        """Where embeddings are computed."""
        return self._device

    @torch.inference_mode()
    def __call__(
        self, phrases: tuple[str, ...], templates: Sequence[str] = ("{}",)
    ) -> tuple[Tensor, tuple[bool, ...]]:
        """Return embeddings float32 [P, D] of unit length, and which phrases were truncated.

        templates: sentences with one {}; a phrase's embedding is the mean over them, as in CLIP
        (Radford et al. 2021, section 3.1.4).
        """
        truncated = [False] * len(phrases)
        total: Tensor | None = None
        for template in templates:
            sentences = [template.replace("{}", phrase) for phrase in phrases]
            embeddings, lengths = self._encode(sentences)
            total = embeddings if total is None else total + embeddings
            truncated = [
                cut or length > self._context
                for cut, length in zip(truncated, lengths, strict=True)
            ]
        assert total is not None
        if len(templates) > 1:
            total = functional.normalize(total, dim=-1)
        return total, tuple(truncated)

    def _encode(self, sentences: list[str]) -> tuple[Tensor, list[int]]:
        """Embed sentences, and count their tokens."""
        try:
            with panics_as_errors():
                lengths = [len(ids) for ids in self._tokenizer(sentences)["input_ids"]]
                ids = self._tokenizer(
                    sentences,
                    padding="max_length",
                    truncation=True,
                    max_length=self._context,
                    return_tensors="pt",
                )["input_ids"]
        except PanicError as error:
            raise CheckpointError(
                "The model's tokenizer.json fails on this text, so it is damaged: get a fresh copy"
                " of the model folder."
            ) from error
        # No attention mask: SigLIP was trained with attention to its padding.
        vectors = [self._tower(part.to(self._device)).float() for part in ids.split(_TEXT_BATCH)]
        return functional.normalize(torch.cat(vectors), dim=-1), lengths
