"""The encoders over a batch: a single pass, every tap that is asked for, no block more."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from siglip_perception.contracts import Contract, EncoderSpec
from siglip_perception.encoders import onednn, triton_kernels
from siglip_perception.encoders.transformer import from_transformers
from siglip_perception.images.preprocess import EncoderInput

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, SiglipModel

Segment = Callable[[Tensor], Tensor]
Job = Callable[[], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Features:
    """What a batch of B images gave. N: patches of a grid, row-major from the top left.

    tokens: float32 [B, N, dim], fused in the contract's order; None unless asked for.
    siglip: float32 [G, N, D_siglip], of the G images that are grounded: last block after the post
        layer norm, which is what the pooling head reads; None where none is.
    dino: float32 [G, N, D_dino], of the same: last block after the layer norm, without CLS and
        registers. Both of the grounding's own encoders where it has some.
    leaving: what Encoders.finish made of them, for the host.
    """

    tokens: Tensor | None
    siglip: Tensor | None
    dino: Tensor | None
    leaving: tuple[Tensor, ...] = ()


class Tower(nn.Module):
    """One encoder: embedding, blocks in order, final norm. Uses up the model that it is made of.

    digest: of its weights; two towers with an equal one, and equal input, are one.
    depth: how many blocks there are. split: after so many of them the tokens are tapped.
    """

    mask: Tensor | None

    def __init__(
        self, model: PreTrainedModel, spec: EncoderSpec, fed: EncoderInput, digest: str
    ) -> None:
        super().__init__()
        self.fed = fed
        self.digest = digest
        self.prefix = spec.prefix
        self.patches = spec.grid**2
        self.dim = spec.dim
        embed, blocks, norm = from_transformers(model, spec)
        self.embed, self.norm = embed, norm
        self.blocks = nn.ModuleList(blocks)
        self.depth = len(blocks)
        self.split = self.depth + spec.tap + 1
        self._normed = spec.norm
        self._segments: dict[tuple[int, int], Segment] = {}
        self.register_buffer("mask", None, persistent=False)

    def prepare(self, device: torch.device, dtype: torch.dtype) -> None:
        """Move to the device, with products in `dtype`, laid out as is fastest there; once."""
        onednn.lay_out(self, device, dtype)
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
                    for start, stop in self.parts(read=True)
                }
            )

    def pad(self, rows: int | None, dtype: torch.dtype = torch.float32) -> None:
        """Lengthen the sequence to whole tiles, T tokens, of which attention sees the real ones.

        rows: of the mask [1, 1, rows, T]; None: T.
        """
        more = self.embed.pad()
        count = self.prefix + self.patches + more
        if more:
            mask = torch.zeros(1, 1, rows or count, count, dtype=dtype)
            mask[..., -more:] = -torch.inf
            self.mask = mask

    @property
    def tokens(self) -> int:
        """Length of the sequence, with what pads it."""
        return self.prefix + self.patches + len(self.embed.after)

    def serve(self, segments: Mapping[tuple[int, int], Segment]) -> None:
        """Run these in the place of PyTorch's own blocks; none: PyTorch's own again.

        segments: the blocks from the first up to the second -> what computes through() of them,
            for all of parts().
        """
        self._segments = dict(segments)

    def release(self) -> None:
        """Let PyTorch's own weights go, once segments serve."""
        self.embed.release()
        self.blocks = nn.ModuleList()

    def served_by(
        self, segments: Mapping[tuple[int, int], Segment], device: torch.device
    ) -> Tower:
        """Another tower, without weights but its norm's, that these run; this one stays as it is.

        segments: see serve(). device: where they take and give their tensors.
        """
        other = Tower.__new__(Tower)
        nn.Module.__init__(other)
        for name in ("fed", "digest", "prefix", "patches", "dim", "depth", "split", "_normed"):
            setattr(other, name, getattr(self, name))
        other.norm = copy.deepcopy(self.norm).to(device)
        other.register_buffer("mask", None, persistent=False)
        other._segments = dict(segments)
        return other

    def parts(self, read: bool) -> tuple[tuple[int, int], ...]:
        """The runs of blocks up to the tap, and if the last features are read, to the end."""
        if read and self.split < self.depth:
            return ((0, self.split), (self.split, self.depth))
        return ((0, self.split),)

    def through(self, values: Tensor, start: int, stop: int) -> Tensor:
        """Blocks `start` up to `stop` of the residual stream [B, T, D]; of pixels for start 0."""
        segment = self._segments.get((start, stop))
        if segment is not None:
            return segment(values)
        hidden: Tensor = values if start else self.embed(values)
        for block in self.blocks[start:stop]:
            hidden = block(hidden, self.mask)
        return hidden

    def run(self, pixels: Tensor, tapped: bool, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Patches float32 [B, N, D] as the contract taps them; and, of the images `rows` of the
        batch alone, patches [len(rows), N, D] of the last block, normed.

        What is not asked for is empty; no block runs on an image for which nothing reads it.
        """
        some = 0 < len(rows) < len(pixels)
        if some and not tapped:
            pixels, some = _rows(pixels, rows), False
        tokens = last = pixels.new_empty(0)
        hidden = pixels
        for start, stop in self.parts(bool(rows)):
            hidden = self.through(hidden, start, stop)
            if tapped and stop == self.split:
                tokens = self._patches(hidden)
                if some:
                    hidden = _rows(hidden, rows)
        if rows:
            last = self.norm(self._patches(hidden))
        if tapped and self._normed:
            same = bool(rows) and not some and self.split == self.depth
            tokens = last if same else self.norm(tokens)
        return tokens, last

    def _patches(self, hidden: Tensor) -> Tensor:
        return hidden[:, self.prefix : self.prefix + self.patches]


class Encoders:
    """The towers of a contract, and those of the grounding where it has some of its own.

    Either prepare() makes PyTorch run them, or each tower is given engines to run: Tower.serve().
    """

    def __init__(
        self,
        contract: Contract,
        towers: Mapping[str, Tower],
        tokens: Mapping[str, str],
        grounding: Mapping[str, str],
    ) -> None:
        """towers: by any key. tokens: encoder of the contract -> its tower's key. grounding:
        "siglip" and "dino" -> the keys of what the grounding reads; empty where it is not done."""
        self.towers = dict(towers)
        self._tapped = [tokens[spec.name] for spec in contract.encoders]
        self._grounding = dict(grounding)
        # Runs the towers' passes, which do not depend on each other, and gives their results.
        self.run_all: Callable[[Sequence[Job]], list[tuple[Tensor, Tensor]]] = _in_turn
        # Ends a pass, and is part of it: on a GPU it is in the CUDA graph, and costs no launch.
        self.finish: Callable[[Features], tuple[Tensor, ...]] = _nothing

    def served_by(self, towers: Mapping[str, Tower]) -> Encoders:
        """The same outputs of other towers of the same keys."""
        other = copy.copy(self)
        other.towers = dict(towers)
        other.run_all = _in_turn
        return other

    def prepare(self, device: torch.device, dtype: torch.dtype) -> None:
        """Make all towers ready on the device, with products in `dtype`; once."""
        for tower in self.towers.values():
            tower.prepare(device, dtype)

    @property
    def reads(self) -> frozenset[str]:
        """Keys of the towers whose last block the grounding reads."""
        return frozenset(self._grounding.values())

    @property
    def outputs(self) -> str:
        """What of which tower is given, in words."""
        taps = [f"{key}{' normed' if self.towers[key]._normed else ''}" for key in self._tapped]
        reads = [f"{part} of {key}" for part, key in sorted(self._grounding.items())]
        return f"tokens of {', '.join(taps)}; {', '.join(reads)}"

    @property
    def inputs(self) -> tuple[EncoderInput, ...]:
        """What the towers are fed, each once."""
        return tuple(dict.fromkeys(tower.fed for tower in self.towers.values()))

    @torch.inference_mode()
    def __call__(
        self, inputs: Mapping[EncoderInput, Tensor], *, with_tokens: bool, grounded: Sequence[int]
    ) -> Features:
        """Run the blocks that the asked-for outputs need on float32 inputs [B, 3, S, S].

        grounded: the images of the batch whose features the grounding reads.
        """
        read = self.reads if grounded else frozenset()
        jobs: dict[str, Job] = {}
        for key, tower in self.towers.items():
            tapped = with_tokens and key in self._tapped
            if tapped or key in read:
                rows = grounded if key in read else ()
                jobs[key] = functools.partial(tower.run, inputs[tower.fed], tapped, rows)
        done = dict(zip(jobs, self.run_all(list(jobs.values())), strict=True))
        taps = {key: found[0] for key, found in done.items()}
        last = {key: found[1] for key, found in done.items()}
        features = {part: last[key].float() for part, key in self._grounding.items() if read}
        tokens = None
        if with_tokens:
            tokens = torch.cat([taps[key] for key in self._tapped], dim=-1).float()
        made = Features(tokens, features.get("siglip"), features.get("dino"))
        return replace(made, leaving=self.finish(made))


def _rows(values: Tensor, rows: Sequence[int]) -> Tensor:
    """values[rows]; such an index would be a tensor on the host, for which a GPU is stopped."""
    return torch.cat([values[row : row + 1] for row in rows])


def _nothing(features: Features) -> tuple[Tensor, ...]:
    return ()


def _in_turn(jobs: Sequence[Job]) -> list[tuple[Tensor, Tensor]]:
    return [job() for job in jobs]


class TextEncoder:
    """SigLIP's text tower: phrases -> unit embeddings, once for each instruction."""

    def __init__(
        self, siglip: SiglipModel, tokenizer: PreTrainedTokenizerBase, device: torch.device
    ) -> None:
        self._tower = siglip.text_model.to(device)
        self._tokenizer = tokenizer
        self._context = int(siglip.config.text_config.max_position_embeddings)
        self._device = device

    @torch.inference_mode()
    def __call__(self, phrases: tuple[str, ...]) -> tuple[Tensor, tuple[bool, ...]]:
        """Embeddings float32 [P, D] of unit length, and which phrases were cut to the context."""
        lengths = [len(ids) for ids in self._tokenizer(list(phrases))["input_ids"]]
        ids = self._tokenizer(
            list(phrases),
            padding="max_length",
            truncation=True,
            max_length=self._context,
            return_tensors="pt",
        )["input_ids"]
        # No attention mask: SigLIP was trained with its padding attended to.
        pooled = self._tower(input_ids=ids.to(self._device)).pooler_output
        embeddings = functional.normalize(pooled.float(), dim=-1)
        return embeddings, tuple(length > self._context for length in lengths)
