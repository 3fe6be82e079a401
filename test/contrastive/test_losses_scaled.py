"""The chunked losses against the plain forms and open_clip's."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from siglip_perception.contrastive.losses import chunked_sigmoid
from siglip_perception.contrastive.losses.losses import (
    clip_loss,
    info_nce_loss,
    sigmoid_loss,
    sigmoid_target_loss,
)
from siglip_perception.errors import LossError

pytestmark = pytest.mark.numeric

Inputs = tuple[Tensor, Tensor, Tensor, Tensor]


def inputs(rows: int, dim: int, *, texts: int = 0, seed: int = 0) -> Inputs:
    """Make unit embeddings, a scale and a bias in float64, all with gradients."""
    generator = torch.Generator().manual_seed(seed)
    image, text = (
        functional.normalize(
            torch.randn(count, dim, generator=generator, dtype=torch.float64), dim=-1
        ).requires_grad_()
        for count in (rows, texts or rows)
    )
    scale, bias = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (9.0, -3.0))
    return image, text, scale, bias


def value_and_gradients(loss: Callable[..., Tensor], arguments: Sequence[Tensor]) -> list[Tensor]:
    value = loss(*arguments)
    return [value.detach(), *torch.autograd.grad(value, arguments)]


def assert_same(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    for x, y in zip(actual, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-12)


@settings(deadline=None, max_examples=60)
@given(
    rows=st.integers(1, 23),
    dim=st.integers(1, 9),
    chunk=st.integers(1, 30),
    tile=st.integers(1, 300),
    seed=st.integers(0, 1000),
)
def test_chunks_of_any_size_equal_the_formula(
    rows: int, dim: int, chunk: int, tile: int, seed: int
) -> None:
    arguments = inputs(rows, dim, seed=seed)
    expected = value_and_gradients(sigmoid_loss, arguments)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunked_sigmoid, "_TILE", tile)
        actual = value_and_gradients(partial(sigmoid_loss, chunk_size=chunk), arguments)
    assert_same(actual, expected)


@settings(deadline=None, max_examples=40)
@given(
    rows=st.integers(1, 9),
    texts=st.integers(1, 9),
    chunk=st.integers(1, 10),
    soft=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_several_right_answers_in_chunks_equal_the_formula(
    rows: int, texts: int, chunk: int, soft: bool, seed: int
) -> None:
    image, text, scale, bias = inputs(rows, 5, texts=texts, seed=seed)
    target = torch.rand(rows, texts, generator=torch.Generator().manual_seed(seed))
    target = target if soft else target > 0.5

    def loss(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, **options: Any) -> Tensor:
        return sigmoid_target_loss(image, text, target, scale, bias, **options)

    arguments = (image, text, scale, bias)
    actual = value_and_gradients(lambda *x: loss(*x, chunk_size=chunk), arguments)
    assert_same(actual, value_and_gradients(loss, arguments))


def test_gradients_are_those_of_finite_differences() -> None:
    arguments = inputs(7, 4)
    assert torch.autograd.gradcheck(partial(sigmoid_loss, chunk_size=3), arguments)
    target = torch.rand(7, 5, dtype=torch.float64)
    arguments = inputs(7, 4, texts=5)
    assert torch.autograd.gradcheck(
        lambda i, t, s, b: sigmoid_target_loss(i, t, target, s, b, chunk_size=2), arguments
    )


def test_a_second_backward_of_a_kept_graph_gives_the_same() -> None:
    arguments = inputs(6, 4)
    loss = 3 * sigmoid_loss(*arguments, chunk_size=4)
    first = [g.clone() for g in torch.autograd.grad(loss, arguments, retain_graph=True)]
    assert_same(torch.autograd.grad(loss, arguments), first)


def test_only_what_is_learned_gets_a_gradient() -> None:
    image, text, scale, bias = inputs(6, 4)
    gradients = torch.autograd.grad(sigmoid_loss(image, text, scale, bias), [text, bias])
    loss = sigmoid_loss(image.detach(), text, scale.detach(), bias, chunk_size=4)
    assert_same(torch.autograd.grad(loss, [text, bias]), gradients)
    with torch.no_grad():
        assert not sigmoid_loss(image, text, 9.0, -3.0, chunk_size=4).requires_grad
    assert sigmoid_loss(image, text, 9.0, -3.0, chunk_size=4).item() == pytest.approx(
        sigmoid_loss(image, text, scale, bias).item(), rel=1e-12
    )


class Largest(TorchDispatchMode):
    """Records the number of elements of the largest tensor that any operation creates."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        for tensor in output if isinstance(output, (tuple, list)) else (output,):
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.numel())
        return output


def test_nothing_larger_than_a_chunk_of_rows_is_ever_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(chunked_sigmoid, "_TILE", 1 << 30)  # whole rows, as on a GPU
    arguments = inputs(96, 2)
    with Largest() as plain:
        torch.autograd.grad(sigmoid_loss(*arguments), arguments)
    with Largest() as in_chunks:
        torch.autograd.grad(sigmoid_loss(*arguments, chunk_size=8), arguments)
    assert plain.elements == 96 * 96
    assert in_chunks.elements == 8 * 96


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_embeddings_are_worked_out_in_float32(dtype: torch.dtype) -> None:
    image, text, scale, bias = (x.detach() for x in inputs(8, 4))
    image, text = (x.to(dtype).requires_grad_() for x in (image, text))
    expected = sigmoid_loss(image.float(), text.float(), scale.float(), bias.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = sigmoid_loss(image, text, scale.float(), bias.float(), chunk_size=3)
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual, expected)
    assert torch.autograd.grad(actual, image)[0].dtype == dtype


def test_extreme_logits_stay_finite_and_exact() -> None:
    image = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], requires_grad=True)
    for scale in (1e4, 80.0):
        plain = sigmoid_loss(image, -image, scale, 0.0)
        in_chunks = sigmoid_loss(image, -image, scale, 0.0, chunk_size=1)
        assert in_chunks.item() == pytest.approx(plain.item()) == pytest.approx(2 * scale)
        torch.testing.assert_close(
            torch.autograd.grad(in_chunks, image), torch.autograd.grad(plain, image)
        )


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda x: sigmoid_loss(x, x[:2], 1.0, 0.0), r"\[3, 2\] and texts \[2, 2\]"),
        (lambda x: sigmoid_loss(x, x[:2], 1.0, 0.0, chunk_size=2), "do not pair up"),
        (lambda x: sigmoid_loss(x[:0], x[:0], 1.0, 0.0), "N of 1 or more"),
        (lambda x: sigmoid_loss(x, x, 1.0, 0.0, chunk_size=0), "chunk_size is 0"),
        (lambda x: clip_loss(x, x[:, :1], 1.0), "do not pair up"),
        (lambda x: sigmoid_target_loss(x, x[:, :1], x, 1.0, 0.0, chunk_size=1), "the same d"),
        (lambda x: sigmoid_target_loss(x, x, x, 1.0, 0.0, chunk_size=1), r"to be \[3, 3\]"),
    ],
)
def test_embeddings_that_do_not_fit_are_refused(
    loss: Callable[[Tensor], Tensor], message: str
) -> None:
    with pytest.raises(LossError, match=message):
        loss(torch.eye(3)[:, :2])


def test_info_nce_by_hand_and_as_one_direction_of_clip() -> None:
    anchor, orthogonal = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    # Two negatives at right angles: -log(e^2 / (e^2 + 2)).
    expected = -torch.log(torch.e**2 / (torch.e**2 + torch.tensor(2.0)))
    actual = info_nce_loss(anchor, anchor, torch.stack([orthogonal, -orthogonal]), 0.5)
    torch.testing.assert_close(actual, expected)
    for_three = info_nce_loss(
        torch.stack([anchor] * 3), anchor, torch.stack([orthogonal, -orthogonal]), 0.5
    )
    torch.testing.assert_close(for_three, expected)

    image, text, scale, _ = inputs(5, 4)
    negatives = torch.stack([torch.cat([text[:i], text[i + 1 :]]) for i in range(5)])
    by_image = info_nce_loss(image, text, negatives, 1 / scale)
    negatives = torch.stack([torch.cat([image[:i], image[i + 1 :]]) for i in range(5)])
    by_text = info_nce_loss(text, image, negatives, 1 / scale)
    arguments = (image, text, scale)
    assert_same(
        value_and_gradients(clip_loss, arguments),
        [
            ((by_image + by_text) / 2).detach(),
            *torch.autograd.grad((by_image + by_text) / 2, arguments),
        ],
    )


@pytest.fixture(scope="module")
def open_clip() -> ModuleType:
    """Import only open_clip's loss.py: the package itself needs torchvision."""
    package = importlib.util.find_spec("open_clip")
    assert package is not None, "open_clip_torch is not installed: run `make env`"
    assert package.submodule_search_locations
    path = Path(package.submodule_search_locations[0], "loss.py")
    spec = importlib.util.spec_from_file_location("open_clip_loss", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("chunk", [None, 1, 7, 64])
def test_sigmoid_loss_equals_open_clips(open_clip: ModuleType, chunk: int | None) -> None:
    arguments = inputs(19, 8)
    expected = value_and_gradients(open_clip.SigLipLoss(), arguments)
    assert_same(value_and_gradients(partial(sigmoid_loss, chunk_size=chunk), arguments), expected)


def test_clip_loss_equals_open_clips(open_clip: ModuleType) -> None:
    image, text, scale, _ = inputs(19, 8)
    arguments = (image, text, scale)
    assert_same(
        value_and_gradients(clip_loss, arguments),
        value_and_gradients(open_clip.ClipLoss(), arguments),
    )
