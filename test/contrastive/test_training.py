"""Training on pairs: gradients, a kill, two processes, and the output."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from models import byte_tokenizer
from pair_files import picture, write_bag, write_shard
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import (
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    SiglipConfig,
    SiglipModel,
)

from siglip_perception import checkpoints
from siglip_perception.commands.main import main
from siglip_perception.contrastive.losses.grad_cache import grad_cache_backward
from siglip_perception.contrastive.losses.losses import sigmoid_loss
from siglip_perception.contrastive.training.run_state import RunState
from siglip_perception.datasets.class_names import labels_of
from siglip_perception.errors import PerceptionError
from siglip_perception.evaluation.retrieval import recall, retrieval_metrics

SIDE = 28
_SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a SigLIP checkpoint of 30 thousand parameters in Hugging Face layout."""
    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    tokenizer = byte_tokenizer()
    ends = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
    text = {"vocab_size": len(tokenizer), "max_position_embeddings": 24, "projection_size": 32}
    config = SiglipConfig(
        text_config={**_SHAPE, **ends, **text},
        vision_config={**_SHAPE, "image_size": SIDE, "patch_size": 14},
    )
    model = SiglipModel(config)
    with torch.no_grad():
        model.logit_scale.fill_(2.3)
        model.logit_bias.fill_(-5.0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pair(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a model folder with that SigLIP in half precision and an equally small DINOv2."""
    folder = tmp_path_factory.mktemp("pair")
    shutil.copytree(tiny, folder / "siglip", dirs_exist_ok=True)
    SiglipModel.from_pretrained(tiny).half().save_pretrained(folder / "siglip")
    config = Dinov2WithRegistersConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        mlp_ratio=2,
        image_size=SIDE,
        patch_size=14,
        num_register_tokens=4,
    )
    Dinov2WithRegistersModel(config).half().save_pretrained(folder / "dinov2")
    (folder / "grounding.json").write_text('{"affinity_scale": 10.0, "affinity_bias": -5.0}')
    checkpoints.write_manifest(folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write twelve pairs distinguishable by gray level, and two broken ones."""
    folder = tmp_path_factory.mktemp("data")
    for n in range(14):
        (folder / f"{n:02d}.jpg").write_bytes(picture(20 * n) if n < 13 else b"\xff\xd8\xff")
        (folder / f"{n:02d}.txt").write_text(f"gray number {n}" if n != 12 else "")
    return folder


def command(tiny: Path, data: Path, output: Path, *extra: str) -> list[str]:
    options = "--steps 8 --batch 4 --holdout 0 --log-every 1 --save-every 3 --threads 1"
    return [
        *("train", "--data", str(data), "--model", str(tiny), "-o", str(output)),
        *options.split(),
        *("--fp32", "--lr", "0.001", "--workers", "1", *extra),
    ]


def rows(output: Path) -> list[dict[str, float]]:
    lines = (output.with_name(f"{output.name}.runs") / "metrics.jsonl").read_text().splitlines()
    keys = ("step", "loss", "gradient")
    return [{key: row[key] for key in keys} for row in map(json.loads, lines)]


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.mark.slow
def test_a_killed_run_goes_on_with_the_same_loss_curve(
    tiny: Path, data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(command(tiny, data, tmp_path / "whole")) == 0
    full = capfd.readouterr().out
    end = full[full.index("left out: 2") :]
    assert "  caption empty: 1\n" in end
    assert "  image corrupt: 1\n" in end
    assert "13.jpg" in end
    left_out = json.loads((tmp_path / "whole.runs" / "figures.json").read_text())["left_out"]
    assert left_out["total"] == 2
    arguments = command(tiny, data, tmp_path / "killed")
    process = subprocess.Popen(
        [sys.executable, "-m", "siglip_perception.commands.main", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith('{"step": 5,'):
            os.killpg(process.pid, signal.SIGKILL)
            break
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed").exists()
    assert main(arguments) == 0
    assert "going on after step 3" in capfd.readouterr().out
    assert rows(tmp_path / "killed") == rows(tmp_path / "whole")
    assert [row["step"] for row in rows(tmp_path / "whole")] == list(range(1, 9))
    killed_weights, whole_weights = weights(tmp_path / "killed"), weights(tmp_path / "whole")
    assert all(torch.equal(killed_weights[name], whole_weights[name]) for name in whole_weights)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(whole_weights, weights(tiny))


@pytest.mark.slow
def test_two_processes_give_the_result_of_one(
    tiny: Path, pair: Path, data: Path, tmp_path: Path
) -> None:
    runs = {
        "pairs": (tiny, ["--accumulate", "2", "--steps", "3"]),
        "dino": (pair, ["--objective", "dino", "--steps", "2", "--batch", "4"]),
    }
    arguments = {
        name: [command(model, data, tmp_path / n / name, "--batch", "8", *extra) for n in "12"]
        for name, (model, extra) in runs.items()
    }
    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    for item, _ in arguments.values():
        assert main(item) == 0
    script = tmp_path / "both.py"
    script.write_text(
        "import json, sys\nimport torch\nfrom siglip_perception.commands.main import main\n"
        "torch.distributed.init_process_group('gloo')\n"
        "sys.exit(max(main(one) for one in json.loads(sys.argv[1])))\n"
    )
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    pairs = json.dumps([[*two, "--device", "cpu"] for _, two in arguments.values()])
    subprocess.run(
        [sys.executable, "-m", *torchrun, str(script), pairs],
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=900,
    )
    for name in runs:
        outputs = [tmp_path / count / name for count in "12"]
        for alone, together in zip(*map(rows, outputs), strict=True):
            assert together == pytest.approx(alone, rel=1e-3)
        part = "dinov2" if name == "dino" else ""
        first, second = (_sound(weights(output / part)) for output in outputs)
        torch.testing.assert_close(first, second, atol=1e-4, rtol=1e-3)


def _sound(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Drop the key biases: softmax ignores them, so their gradient is only rounding."""
    return {
        n: t.float() for n, t in tensors.items() if not n.endswith(("k_proj.bias", "key.bias"))
    }


def test_accumulation_keeps_every_negative() -> None:
    torch.manual_seed(0)
    images, texts = torch.randn(12, 6).double(), torch.randn(12, 5).double()
    scale, bias = torch.tensor(5.0).double(), torch.tensor(-3.0).double()

    def gradients(parts: int) -> list[Tensor]:
        torch.manual_seed(1)
        left, right = nn.Linear(6, 4).double(), nn.Linear(5, 4).double()

        def embed(rows: Tensor) -> tuple[Tensor, Tensor]:
            return tuple(  # type: ignore[return-value]
                nn.functional.normalize(layer(inputs[rows]), dim=-1)
                for layer, inputs in ((left, images), (right, texts))
            )

        chunks = list(torch.arange(12).chunk(parts))
        loss = grad_cache_backward(chunks, embed, lambda e: sigmoid_loss(e[0], e[1], scale, bias))
        return [loss, *(p.grad for layer in (left, right) for p in layer.parameters())]  # type: ignore[list-item]

    for parts in (2, 3, 12):
        torch.testing.assert_close(gradients(parts), gradients(1))


def test_accumulation_draws_dropout_once() -> None:
    layer = nn.Linear(4, 4, bias=False)
    inputs = torch.ones(6, 4)
    outputs: list[Tensor] = []

    def embed(rows: Tensor) -> tuple[Tensor]:
        outputs.append(nn.functional.dropout(layer(inputs[rows]), 0.5))
        return (outputs[-1],)

    grad_cache_backward(list(torch.arange(6).chunk(2)), embed, lambda e: e[0].square().sum())
    assert torch.equal(outputs[0], outputs[2])
    assert torch.equal(outputs[1], outputs[3])
    assert not torch.equal(outputs[0], outputs[1])


def test_lora_is_merged_into_weights_that_load(tiny: Path, data: Path, tmp_path: Path) -> None:
    extra = ["--tune", "lora", "--freeze", "text", "--lora-rank", "2", "--lr", "0.01"]
    assert main(command(tiny, data, tmp_path / "out", *extra)) == 0
    before, after = weights(tiny), weights(tmp_path / "out")
    assert before.keys() == after.keys()
    updated_names = {name for name in before if not torch.equal(before[name], after[name])}
    assert updated_names >= {"vision_model.encoder.layers.0.self_attn.q_proj.weight", "logit_bias"}
    assert all("vision_model.encoder.layers" in n or n.startswith("logit_") for n in updated_names)
    state = load_file(tmp_path / "out.runs" / "state.safetensors")
    assert all("lora_" in name or "logit_" in name for name in state)
    checkpoint = checkpoints.load(tmp_path / "out")
    assert checkpoint.siglip is not None
    assert checkpoint.verified
    adapter = {name.removeprefix("model.model."): t for name, t in state.items()}
    stem = "vision_model.encoder.layers.0.self_attn.q_proj"
    a, b = (adapter[f"{stem}.lora_{side}.default.weight"] for side in "AB")
    torch.testing.assert_close(
        checkpoint.siglip.get_submodule(stem).weight, before[f"{stem}.weight"] + 16 / 2 * b @ a
    )


def test_only_the_last_layers_and_the_free_tower_change(
    tiny: Path, data: Path, tmp_path: Path
) -> None:
    extra = ["--tune", "last", "--last-layers", "1", "--freeze", "image"]
    assert main(command(tiny, data, tmp_path / "out", *extra)) == 0
    before, after = weights(tiny), weights(tmp_path / "out")
    updated_names = {name for name in before if not torch.equal(before[name], after[name])}
    assert "text_model.encoder.layers.1.mlp.fc1.weight" in updated_names
    assert "text_model.head.weight" in updated_names
    assert not any("layers.0" in name or "vision" in name for name in updated_names)


def test_a_model_folder_keeps_its_dinov2_and_its_element_type(pair: Path, tmp_path: Path) -> None:
    write_shard(
        tmp_path / "s.tar",
        [(f"{n}.{e}", d) for n in range(6) for e, d in (("jpg", picture(n)), ("txt", b"%d" % n))],
    )
    write_bag(tmp_path / "bag", [(0, "a gray thing")])
    sources = ["--data", str(tmp_path / "s.tar"), str(tmp_path / "bag")]
    options = ["--steps", "1", "--batch", "4", "--holdout", "4", "--threads", "1"]
    output = tmp_path / "out"
    start = ["--model", str(pair), "-o", str(output)]
    assert main(["train", *sources, *options, *start]) == 0
    models = checkpoints.load(output)
    assert models.verified
    assert set(models.vision) == {"siglip", "dinov2"}
    for name in ("dinov2/model.safetensors", "grounding.json", "siglip/tokenizer.json"):
        assert (output / name).read_bytes() == (pair / name).read_bytes()
    weights = load_file(output / "siglip" / "model.safetensors")
    assert {t.dtype for t in weights.values()} == {torch.float16}
    figures = json.loads((tmp_path / "out.runs" / "figures.json").read_text())
    assert figures["before"]["kept_apart"] == figures["after"]["kept_apart"] == 4


def test_dino_trains_the_other_encoder_on_images_alone(pair: Path, tmp_path: Path) -> None:
    for n in range(4):
        (tmp_path / f"{n}.jpg").write_bytes(picture(50 * n))
    output = tmp_path / "out"
    options = ["--steps", "2", "--batch", "4", "--accumulate", "2", "--threads", "1"]
    arguments = ["train", "--objective", "dino", "--data", str(tmp_path), *options]
    arguments += ["--model", str(pair), "-o", str(output)]
    assert main(arguments) == 0
    before, after = (load_file(f / "dinov2/model.safetensors") for f in (pair, output))
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert checkpoints.load(output).verified
    siglip = "siglip/model.safetensors"
    assert (output / siglip).read_bytes() == (pair / siglip).read_bytes()


def test_tensorboard_gets_the_curve(tiny: Path, data: Path, tmp_path: Path) -> None:
    assert main(command(tiny, data, tmp_path / "out", "--steps", "2", "--tensorboard")) == 0
    (events,) = (tmp_path / "out.runs" / "tensorboard").iterdir()
    assert b"images_per_s" in events.read_bytes()


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--batch", "6", "--accumulate", "4"], "multiple of 4"),
        (["--freeze", "image", "--freeze", "text"], "Both towers are frozen"),
        (["--tune", "last", "--last-layers", "9"], "from 0 to 2"),
        (["--holdout", "14"], "leaves nothing"),
        (["--objective", "dino"], "no dinov2"),
        (["--steps", "0"], "--steps has to be"),
        (["--lr", "nan"], "no learning rate"),
        (["--warmup", "-1"], "--warmup has to be 0 or more"),
        (["--tower", "siglip"], "--tower has an effect only without --data"),
        (["--strict"], "without --strict it is skipped"),
        (["--data", "nowhere", "--model", "none"], "There is no nowhere to train on"),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence(
    tiny: Path,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    extra: list[str],
    message: str,
) -> None:
    assert main(command(tiny, data, tmp_path / "out", *extra)) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert message in lines[0]


def test_an_option_without_effect_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "-o", str(tmp_path / "out"), "--tune", "lora"]) == 2
    assert "--tune has an effect only with --data" in capsys.readouterr().err


def test_another_recipe_does_not_go_on_from_a_run(
    tiny: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(tiny, data, tmp_path / "out", "--steps", "1")) == 0
    assert main(command(tiny, data, tmp_path / "out", "--steps", "2")) == 2
    assert "another recipe" in capsys.readouterr().err


def test_a_kill_while_the_state_is_written_leaves_the_old_one(tmp_path: Path) -> None:
    layer = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    RunState(tmp_path, layer, [optimizer], {"a": 1}).save(7, {"broken": {"x": "y"}})
    (tmp_path / "state.new").write_bytes(b"half a fi")
    other_layer = nn.Linear(2, 2)
    again = torch.optim.AdamW(other_layer.parameters())
    assert RunState(tmp_path, other_layer, [again], {"a": 1}).load() == (7, {"broken": {"x": "y"}})
    assert torch.equal(other_layer.weight, layer.weight)
    saved_state, restored_state = optimizer.state[layer.weight], again.state[other_layer.weight]
    assert all(
        torch.equal(saved_state[key], restored_state[key])
        for key in ("exp_avg", "exp_avg_sq", "step")
    )
    (tmp_path / "state.safetensors").write_bytes(b"half a fi")
    with pytest.raises(PerceptionError, match="remove it to begin again"):
        RunState(tmp_path, other_layer, [again], {"a": 1}).load()


def test_retrieval_by_hand() -> None:
    similarity = torch.tensor([[0.9, 0.1, 0.2], [0.5, 0.4, 0.6], [0.3, 0.3, 0.3]])
    right = torch.eye(3, dtype=torch.bool)
    # The second row's own is its third best; the third row ties with both others.
    assert recall(similarity, right, (1, 2, 3)) == pytest.approx({1: 1 / 3, 2: 1 / 3, 3: 1.0})
    image = torch.eye(3)
    text = torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 0, 0]])
    figures = retrieval_metrics(image, text, ["cup", "ball", "Cup"])
    # Images 1 and 3 share a caption, whose text is the first one's: image 3 finds it only at 2.
    assert figures["image_to_text_r1"] == pytest.approx(2 / 3)
    assert figures["text_to_image_r1"] == 1.0


def test_labels_are_what_a_caption_names() -> None:
    classes = ("cup", "paper cup", "컵", "ball")
    captions = ["two cups", "a paper cup", "빨간 컵을 집어라", "a cup and a ball", "hiccups", "-"]
    assert labels_of(captions, classes) == [0, 1, 2, None, None, None]
