"""Model folders laid out as on the Hub, with small random weights: their configurations verbatim
but for the sizes.

Read from the published folders (November 2026): google/siglip-*, google/siglip2-*,
facebook/dinov2-*, openvla/openvla-7b, Prismatic's conversions, google/paligemma-*,
HuggingFaceTB/SmolVLM2-*, Eagle 2 in nvidia/GR00T-N1-2B, timm/vit_*; and what transformers 5 writes
of the same.
"""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from models import byte_tokenizer
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    PreTrainedModel,
    SiglipConfig,
    SiglipModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from siglip_perception import contracts
from siglip_perception.checkpoints.networks import Network, to_transformers
from siglip_perception.contracts import Contract, EncoderSpec, Triple
from siglip_perception.contracts.steps import strategy

Json = dict[str, Any]
# 48 channels can be cut into 4 heads and, as the classes' defaults have it, into 12.
WIDTH, INNER, LAYERS, HEADS, PATCH, SIDE = 48, 96, 3, 4, 14, 42
TAP = -2
HALF: Triple = (0.5, 0.5, 0.5)
MEAN: Triple = (0.485, 0.456, 0.406)
STD: Triple = (0.229, 0.224, 0.225)
MEAN_BF16, STD_BF16 = [0.484375, 0.455078125, 0.40625], [0.228515625, 0.2236328125, 0.224609375]


@dataclass(frozen=True)
class HubFolder:
    """A published layout.

    files: JSON files by name. weights: safetensors by name.
    contract: states all that the weights do not tell.
    tokens: of `pixels` by encoder, as transformers' own classes make them: [1, patches, WIDTH].
    """

    name: str
    files: Mapping[str, Json]
    weights: Mapping[str, Mapping[str, Tensor]]
    contract: Contract
    tokens: Mapping[str, Tensor]
    has_text: bool = False

    def write(self, folder: Path) -> None:
        for name, tensors in self.weights.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            save_file(dict(tensors), folder / name)
        self.write_json(folder, self.files)
        if self.has_text:
            byte_tokenizer().save_pretrained(folder)

    def write_json(self, folder: Path, files: Mapping[str, Json]) -> None:
        for name, content in files.items():
            (folder / name).write_text(json.dumps(content))


def pixels(side: int = SIDE) -> Tensor:
    return torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(3))


def tap(network: PreTrainedModel | Network) -> Tensor:
    """The tap's patches, [1, patches, WIDTH], by transformers' own forward pass."""
    model = network if isinstance(network, PreTrainedModel) else to_transformers(network)
    prefix = {"dinov2": 1, "dinov2_with_registers": 5}.get(model.config.model_type, 0)
    with torch.no_grad():
        states = model(pixels(), output_hidden_states=True).hidden_states
    tokens: Tensor = states[TAP][:, prefix:]
    return tokens


def _seeded(model: PreTrainedModel) -> PreTrainedModel:
    """Random values in every tensor: initial zeros and ones would hide what is lost."""
    generator = torch.Generator().manual_seed(1)
    for name, value in sorted(model.state_dict().items()):
        if value.is_floating_point():
            value.copy_(torch.randn(value.shape, generator=generator) * 0.3)
            if "norm" in name and name.endswith("weight"):
                value.add_(1)
    return model.eval()


def _saved(model: PreTrainedModel) -> dict[str, Tensor]:
    """The tensors by the names that folders have; transformers 5 has others in memory."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return load_file(Path(folder) / "model.safetensors")


def spec(name: str, **fields: Any) -> EncoderSpec:
    usual = {
        "name": name,
        "image_size": SIDE,
        "patch": PATCH,
        "dim": WIDTH,
        "mean": HALF if name == "siglip" else MEAN,
        "std": HALF if name == "siglip" else STD,
        "tap": TAP,
        "norm": False,
        "layers": LAYERS,
        "heads": HEADS,
        "hidden_act": "gelu_pytorch_tanh" if name == "siglip" else "gelu",
    }
    return EncoderSpec(**{**usual, **fields})


def contract(*encoders: EncoderSpec, **fields: Any) -> Contract:
    return replace(contracts.get("tabletop"), name="hub", encoders=encoders, **fields)


def _vision(**fields: Any) -> Json:
    """vision_config of So400m, as google/siglip-so400m-patch14-224 has it."""
    return {
        "hidden_size": WIDTH,
        "image_size": SIDE,
        "intermediate_size": INNER,
        "model_type": "siglip_vision_model",
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "patch_size": PATCH,
        **fields,
    }


def _text() -> Json:
    return {
        "hidden_size": WIDTH,
        "intermediate_size": INNER,
        "model_type": "siglip_text_model",
        "num_attention_heads": HEADS,
        "num_hidden_layers": 1,
        "vocab_size": len(byte_tokenizer()),
        "max_position_embeddings": 16,
        "bos_token_id": 1,
        "eos_token_id": 1,
        "pad_token_id": 0,
    }


SIGLIP_PROCESSOR: Json = {
    "do_convert_rgb": None,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": list(HALF),
    "image_processor_type": "SiglipImageProcessor",
    "image_std": list(HALF),
    "processor_class": "SiglipProcessor",
    "resample": 3,
    "rescale_factor": 0.00392156862745098,
    "size": {"height": SIDE, "width": SIDE},
}
BIT_PROCESSOR: Json = {
    "crop_size": {"height": SIDE, "width": SIDE},
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": list(MEAN),
    "image_processor_type": "BitImageProcessor",
    "image_std": list(STD),
    "resample": 3,
    "rescale_factor": 0.00392156862745098,
    "size": {"shortest_edge": 48},
}


def _siglip_model() -> SiglipModel:
    config = SiglipConfig(text_config=_text(), vision_config=_vision())
    model = _seeded(SiglipModel(config))
    assert isinstance(model, SiglipModel)
    return model


def _old_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name if name.startswith("vision_model.") else f"vision_model.{name}": value
        for name, value in state.items()
    }


def siglip() -> HubFolder:
    """google/siglip-so400m-patch14-224, written by transformers 4."""
    model = _siglip_model()
    config = {
        "architectures": ["SiglipModel"],
        "initializer_factor": 1.0,
        "model_type": "siglip",
        "text_config": _text(),
        "torch_dtype": "float32",
        "transformers_version": "4.37.0.dev0",
        "vision_config": _vision(),
    }
    files = {"config.json": config, "preprocessor_config.json": SIGLIP_PROCESSOR}
    return HubFolder(
        "siglip",
        files,
        {"model.safetensors": _saved(model)},
        contract(spec("siglip")),
        {"siglip": tap(model.vision_model)},
        has_text=True,
    )


def siglip2() -> HubFolder:
    """A SigLIP 2 of fixed resolution, saved again by transformers 5: every key, one file."""
    old = siglip()
    config = SiglipConfig(text_config=_text(), vision_config=_vision()).to_dict()
    config.update(architectures=["SiglipModel"], dtype="float32", transformers_version="5.23.0")
    inner = {
        **SIGLIP_PROCESSOR,
        "data_format": "channels_first",
        "do_convert_rgb": True,
        "image_processor_type": "SiglipImageProcessorPil",
        "resample": 2,
    }
    del inner["processor_class"]
    processor: Json = {"image_processor": inner, "processor_class": "SiglipProcessor"}
    return replace(
        old,
        name="siglip2",
        files={"config.json": config, "processor_config.json": processor},
        contract=contract(spec("siglip"), pixels=strategy("squash", "bilinear")),
    )


def naflex() -> HubFolder:
    """google/siglip2-base-patch16-naflex: `siglip2`, whose patches are a linear layer."""
    from transformers import Siglip2Config, Siglip2Model

    vision = {**_vision(model_type="siglip2_vision_model"), "num_patches": 9}
    del vision["image_size"]
    text = {**_text(), "model_type": "siglip2_text_model"}
    model = Siglip2Model(Siglip2Config(text_config=text, vision_config=vision))
    config = {
        "architectures": ["Siglip2Model"],
        "initializer_factor": 1.0,
        "model_type": "siglip2",
        "text_config": text,
        "torch_dtype": "float32",
        "transformers_version": "4.49.0.dev0",
        "vision_config": vision,
    }
    processor = {
        **{key: value for key, value in SIGLIP_PROCESSOR.items() if key != "size"},
        "image_processor_type": "Siglip2ImageProcessor",
        "max_num_patches": 256,
        "patch_size": PATCH,
        "processor_class": "Siglip2Processor",
        "resample": 2,
    }
    return HubFolder(
        "naflex",
        {"config.json": config, "preprocessor_config.json": processor},
        {"model.safetensors": _saved(model)},
        contract(spec("siglip")),
        {},
        has_text=True,
    )


def _dinov2_config(**fields: Any) -> Json:
    return {
        "apply_layernorm": True,
        "attention_probs_dropout_prob": 0.0,
        "drop_path_rate": 0.0,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "hidden_size": WIDTH,
        "image_size": 70,
        "initializer_range": 0.02,
        "layer_norm_eps": 1e-06,
        "layerscale_value": 1.0,
        "mlp_ratio": 2,
        "num_attention_heads": HEADS,
        "num_channels": 3,
        "num_hidden_layers": LAYERS,
        "out_features": [f"stage{LAYERS}"],
        "out_indices": [LAYERS],
        "patch_size": PATCH,
        "qkv_bias": True,
        "reshape_hidden_states": True,
        "stage_names": ["stem", *(f"stage{n + 1}" for n in range(LAYERS))],
        "torch_dtype": "float32",
        "transformers_version": "4.32.0.dev0",
        "use_swiglu_ffn": False,
        **fields,
    }


def dinov2() -> HubFolder:
    """facebook/dinov2-base."""
    config = _dinov2_config(architectures=["Dinov2Model"], model_type="dinov2")
    model = _seeded(Dinov2Model(Dinov2Config.from_dict(copy.deepcopy(config))))
    return HubFolder(
        "dinov2",
        {"config.json": config, "preprocessor_config.json": BIT_PROCESSOR},
        {"model.safetensors": _saved(model)},
        contract(spec("dinov2")),
        {"dinov2": tap(model)},
    )


def dinov2_registers() -> HubFolder:
    """facebook/dinov2-with-registers-base."""
    config = _dinov2_config(
        architectures=["Dinov2WithRegistersModel"],
        model_type="dinov2_with_registers",
        num_register_tokens=4,
        interpolate_antialias=True,
        interpolate_offset=0.0,
        transformers_version="4.48.0.dev0",
    )
    model = _seeded(
        Dinov2WithRegistersModel(Dinov2WithRegistersConfig.from_dict(copy.deepcopy(config)))
    )
    return HubFolder(
        "dinov2-registers",
        {"config.json": config, "preprocessor_config.json": BIT_PROCESSOR},
        {"model.safetensors": _saved(model)},
        contract(spec("dinov2", registers=4)),
        {"dinov2": tap(model)},
    )


def _timm_siglip(model: SiglipVisionModel) -> dict[str, Tensor]:
    """timm's names for transformers' tensors, the pooling head left out."""
    state = model.state_dict()
    tensors = {
        "patch_embed.proj.weight": state["embeddings.patch_embedding.weight"],
        "patch_embed.proj.bias": state["embeddings.patch_embedding.bias"],
        "pos_embed": state["embeddings.position_embedding.weight"][None],
        "norm.weight": state["post_layernorm.weight"],
        "norm.bias": state["post_layernorm.bias"],
    }
    for layer in range(LAYERS):
        source, target = f"encoder.layers.{layer}.", f"blocks.{layer}."
        for kind in ("weight", "bias"):
            names = (f"{source}self_attn.{part}_proj.{kind}" for part in "qkv")
            tensors[f"{target}attn.qkv.{kind}"] = torch.cat([state[name] for name in names])
            for timm_name, name in (
                ("attn.proj", "self_attn.out_proj"),
                ("norm1", "layer_norm1"),
                ("norm2", "layer_norm2"),
                ("mlp.fc1", "mlp.fc1"),
                ("mlp.fc2", "mlp.fc2"),
            ):
                tensors[f"{target}{timm_name}.{kind}"] = state[f"{source}{name}.{kind}"]
    return tensors


def _timm_dinov2(model: Dinov2WithRegistersModel) -> dict[str, Tensor]:
    """timm's names; with registers its pos_embed has no entry for CLS."""
    state = _saved(model)
    tensors = {
        "cls_token": state["embeddings.cls_token"],
        "reg_token": state["embeddings.register_tokens"],
        "pos_embed": state["embeddings.position_embeddings"][:, 1:],
        "patch_embed.proj.weight": state["embeddings.patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": state["embeddings.patch_embeddings.projection.bias"],
        "norm.weight": state["layernorm.weight"],
        "norm.bias": state["layernorm.bias"],
    }
    for layer in range(LAYERS):
        source, target = f"encoder.layer.{layer}.", f"blocks.{layer}."
        for kind in ("weight", "bias"):
            parts = ("query", "key", "value")
            tensors[f"{target}attn.qkv.{kind}"] = torch.cat(
                [state[f"{source}attention.attention.{part}.{kind}"] for part in parts]
            )
            for timm_name, name in (
                ("attn.proj", "attention.output.dense"),
                ("norm1", "norm1"),
                ("norm2", "norm2"),
                ("mlp.fc1", "mlp.fc1"),
                ("mlp.fc2", "mlp.fc2"),
            ):
                tensors[f"{target}{timm_name}.{kind}"] = state[f"{source}{name}.{kind}"]
        for number in (1, 2):
            tensors[f"{target}ls{number}.scale_factor"] = state[
                f"{source}layer_scale{number}.lambda1"
            ]
    return tensors


def _siglip_tower(**fields: Any) -> SiglipVisionModel:
    config = SiglipVisionConfig(**_vision(vision_use_head=False, **fields))
    model = _seeded(SiglipVisionModel(config))
    assert isinstance(model, SiglipVisionModel)
    return model


def _prismatic_processor(strategy: str, means: list[Any], stds: list[Any]) -> Json:
    resized = {"antialias": True, "interpolation": 3, "max_size": None, "size": [SIDE, SIDE]}
    fill = None if strategy != "letterbox" else [int(x * 255) for x in means[-1]]
    bf16 = {tuple(MEAN): MEAN_BF16, tuple(STD): STD_BF16}
    return {
        "auto_map": {
            "AutoImageProcessor": "processing_prismatic.PrismaticImageProcessor",
            "AutoProcessor": "processing_prismatic.PrismaticProcessor",
        },
        "image_processor_type": "PrismaticImageProcessor",
        "image_resize_strategy": strategy,
        "input_sizes": [[3, SIDE, SIDE] for _ in means],
        "interpolations": ["bicubic" for _ in means],
        "means": [list(mean) for mean in means],
        "processor_class": "PrismaticProcessor",
        "stds": [list(std) for std in stds],
        "tvf_crop_params": [{"output_size": [SIDE, SIDE]} for _ in means],
        "tvf_do_letterbox": strategy == "letterbox",
        "tvf_letterbox_fill": fill,
        "tvf_normalize_params": [
            {
                "inplace": False,
                "mean": list(bf16.get(tuple(mean), mean)),
                "std": list(bf16.get(tuple(std), std)),
            }
            for mean, std in zip(means, stds, strict=True)
        ],
        "tvf_resize_params": [resized for _ in means],
        "use_fused_vision_backbone": len(means) > 1,
    }


def _prismatic_config(strategy: str, models: list[str], **fields: Any) -> Json:
    return {
        "arch_specifier": "no-align+fused-gelu-mlp" if len(models) > 1 else "no-align+gelu-mlp",
        "architectures": ["PrismaticForConditionalGeneration"],
        "auto_map": {"AutoConfig": "configuration_prismatic.OpenVLAConfig"},
        "hf_llm_id": "meta-llama/Llama-2-7b-hf",
        "image_resize_strategy": strategy,
        "image_sizes": [SIDE for _ in models],
        "llm_backbone_id": "llama2-7b-pure",
        "llm_max_length": 2048,
        "model_type": "prismatic",
        "output_projector_states": False,
        "pad_to_multiple_of": 64,
        "pad_token_id": 32000,
        "text_config": {"model_type": "llama", "torch_dtype": "bfloat16", "vocab_size": 32064},
        "timm_model_ids": models,
        "timm_override_act_layers": [None for _ in models],
        "torch_dtype": "bfloat16",
        "transformers_version": "4.40.1",
        "use_fused_vision_backbone": len(models) > 1,
        "vision_backbone_id": "dinosiglip-vit-so-224px"
        if len(models) > 1
        else "siglip-vit-so400m",
        **fields,
    }


def openvla() -> HubFolder:
    """openvla/openvla-7b: two timm encoders, tvf_* lists rounded to bfloat16."""
    dino = Dinov2WithRegistersModel(
        Dinov2WithRegistersConfig(
            hidden_size=WIDTH,
            image_size=SIDE,
            mlp_ratio=2,
            num_attention_heads=HEADS,
            num_hidden_layers=LAYERS,
            patch_size=PATCH,
        )
    )
    _seeded(dino)
    dino.state_dict()["embeddings.position_embeddings"][:, :1] = 0  # timm has none for CLS
    tower = _siglip_tower(hidden_act="gelu")
    tensors = {
        **{f"vision_backbone.featurizer.{k}": v for k, v in _timm_dinov2(dino).items()},
        **{f"vision_backbone.fused_featurizer.{k}": v for k, v in _timm_siglip(tower).items()},
        "projector.fc1.weight": torch.zeros(4, 4),
    }
    shard = "model-00001-of-00001.safetensors"
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(tensors, shard)}
    config = _prismatic_config(
        "resize-naive",
        ["vit_large_patch14_reg4_dinov2.lvd142m", "vit_so400m_patch14_siglip_224"],
        architectures=["OpenVLAForActionPrediction"],
        model_type="openvla",
        n_action_bins=256,
        norm_stats={"bridge_orig": {"action": {"mean": [0.0] * 7, "std": [1.0] * 7}}},
    )
    return HubFolder(
        "openvla",
        {
            "config.json": config,
            "model.safetensors.index.json": index,
            "preprocessor_config.json": _prismatic_processor(
                "resize-naive", [MEAN, HALF], [STD, HALF]
            ),
        },
        {shard: tensors},
        contract(spec("dinov2", registers=4), spec("siglip", hidden_act="gelu")),
        {"dinov2": tap(dino), "siglip": tap(tower)},
    )


def prismatic() -> HubFolder:
    """A Prismatic model of one encoder, letterboxed."""
    tower = _siglip_tower(hidden_act="gelu")
    tensors = {f"vision_backbone.featurizer.{k}": v for k, v in _timm_siglip(tower).items()}
    return HubFolder(
        "prismatic",
        {
            "config.json": _prismatic_config("letterbox", ["vit_so400m_patch14_siglip_224"]),
            "preprocessor_config.json": _prismatic_processor("letterbox", [HALF], [HALF]),
        },
        {"model.safetensors": tensors},
        contract(
            spec("siglip", hidden_act="gelu", fill=(127, 127, 127)),
            pixels=strategy("letterbox", "bicubic"),
        ),
        {"siglip": tap(tower)},
    )


def paligemma(prefix: str = "vision_tower.vision_model.") -> HubFolder:
    """google/paligemma-3b-pt-224; transformers 5 writes other names and an inner dtype."""
    tower = _siglip_tower()
    vision = _vision(
        num_image_tokens=9,
        projection_dim=64,
        projector_hidden_act="gelu_fast",
        vision_use_head=False,
    )
    config: Json = {
        "_name_or_path": "final-hf/paligemma-3b-pt-224-main",
        "architectures": ["PaliGemmaForConditionalGeneration"],
        "bos_token_id": 2,
        "eos_token_id": 1,
        "hidden_size": 2048,
        "ignore_index": -100,
        "image_token_index": 257152,
        "model_type": "paligemma",
        "pad_token_id": 0,
        "projection_dim": 2048,
        "text_config": {"hidden_size": 2048, "model_type": "gemma", "num_attention_heads": 8},
        "torch_dtype": "float32",
        "transformers_version": "4.41.0.dev0",
        "vision_config": vision,
    }
    processor = {
        **SIGLIP_PROCESSOR,
        "image_seq_length": 9,
        "processor_class": "PaliGemmaProcessor",
    }
    return HubFolder(
        "paligemma",
        {"config.json": config, "preprocessor_config.json": processor},
        {
            "model.safetensors": {
                **{f"{prefix}{name}": value for name, value in tower.state_dict().items()},
                "language_model.model.norm.weight": torch.zeros(4),
            }
        },
        contract(spec("siglip")),
        {"siglip": tap(tower)},
    )


def paligemma5() -> HubFolder:
    """A PaliGemma saved again by transformers 5.

    It writes out every field of SigLIP's configuration, and `dtype`.
    """
    old = paligemma("model.vision_tower.")
    config = copy.deepcopy(old.files["config.json"])
    config["dtype"] = config.pop("torch_dtype")
    vision = SiglipVisionConfig(**_vision(vision_use_head=False)).to_dict()
    config["vision_config"] = {**vision, "dtype": "float32", "num_image_tokens": 9}
    config["transformers_version"] = "5.23.0"
    inner = {**SIGLIP_PROCESSOR, "image_processor_type": "SiglipImageProcessorFast"}
    processor = {"image_processor": inner, "image_seq_length": 9}
    return replace(
        old,
        name="paligemma5",
        files={"config.json": config, "processor_config.json": processor},
    )


def smolvlm2() -> HubFolder:
    """HuggingFaceTB/SmolVLM2-500M-Video-Instruct: pictures cut into tiles by its processor."""
    tower = _siglip_tower()
    config = {
        "architectures": ["SmolVLMForConditionalGeneration"],
        "image_token_id": 49190,
        "model_type": "smolvlm",
        "pad_token_id": 128002,
        "scale_factor": 4,
        "text_config": {"hidden_size": 960, "model_type": "llama", "num_attention_heads": 15},
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "transformers_version": "4.47.1",
        "use_cache": False,
        "vision_config": {
            "hidden_size": WIDTH,
            "image_size": SIDE,
            "intermediate_size": INNER,
            "max_image_size": {"longest_edge": SIDE},
            "model_type": "smolvlm_vision",
            "num_attention_heads": HEADS,
            "num_hidden_layers": LAYERS,
            "patch_size": PATCH,
            "size": {"longest_edge": 4 * SIDE},
            "tie_word_embeddings": False,
            "use_base_siglip": False,
        },
        "vocab_size": 49280,
    }
    processor = {
        "do_convert_rgb": True,
        "do_image_splitting": True,
        "do_normalize": True,
        "do_pad": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": list(HALF),
        "image_processor_type": "SmolVLMImageProcessor",
        "image_std": list(HALF),
        "max_image_size": {"longest_edge": SIDE},
        "processor_class": "SmolVLMProcessor",
        "resample": 1,
        "rescale_factor": 0.00392156862745098,
        "size": {"longest_edge": 4 * SIDE},
        "video_sampling": {"fps": 1, "max_frames": 64, "video_size": {"longest_edge": 4 * SIDE}},
    }
    return HubFolder(
        "smolvlm2",
        {"config.json": config, "preprocessor_config.json": processor},
        {
            "model.safetensors": {
                f"model.vision_model.{name}": value for name, value in tower.state_dict().items()
            }
        },
        contract(spec("siglip")),
        {"siglip": tap(tower)},
    )


def eagle2() -> HubFolder:
    """Eagle 2 of GR00T N1: SigLIP 2 below `vision_model`, all of PretrainedConfig written out."""
    tower = _siglip_tower()
    vision = _vision(
        _attn_implementation="flash_attention_2",
        add_cross_attention=False,
        architectures=None,
        attention_dropout=0.0,
        drop_path_rate=0.1,
        hidden_act="gelu_pytorch_tanh",
        id2label={"0": "LABEL_0", "1": "LABEL_1"},
        is_decoder=False,
        layer_norm_eps=1e-06,
        num_channels=3,
        output_hidden_states=False,
        torch_dtype=None,
        transformers_version="4.37.2",
    )
    config = {
        "_commit_hash": None,
        "architectures": ["Eagle2ChatModel"],
        "auto_map": {"AutoModel": "modeling_eagle_chat.Eagle2ChatModel"},
        "downsample_ratio": 0.5,
        "dynamic_image_size": True,
        "force_image_size": SIDE,
        "llm_config": {"hidden_act": "silu", "hidden_size": 2048, "model_type": "llama"},
        "max_dynamic_patch": 12,
        "model_type": "eagle_chat",
        "pad2square": False,
        "ps_version": "v2",
        "select_layer": -1,
        "torch_dtype": "bfloat16",
        "transformers_version": None,
        "use_thumbnail": True,
        "vision_config": vision,
    }
    return HubFolder(
        "eagle2",
        {"config.json": config},
        {
            "model.safetensors": {
                f"vision_model.vision_model.{name}": value
                for name, value in tower.state_dict().items()
            }
        },
        contract(spec("siglip")),
        {"siglip": tap(tower)},
    )


def timm_siglip() -> HubFolder:
    """timm/vit_so400m_patch14_siglip_224.webli: no model_type, its pretrained_cfg."""
    tower = _siglip_tower(hidden_act="gelu")
    config = {
        "architecture": "vit_so400m_patch14_siglip_224",
        "num_classes": 0,
        "num_features": WIDTH,
        "global_pool": "map",
        "pretrained_cfg": {
            "tag": "webli",
            "custom_load": False,
            "input_size": [3, SIDE, SIDE],
            "fixed_input_size": True,
            "interpolation": "bicubic",
            "crop_pct": 0.9,
            "crop_mode": "center",
            "mean": list(HALF),
            "std": list(HALF),
            "num_classes": 0,
            "pool_size": None,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }
    return HubFolder(
        "timm-siglip",
        {"config.json": config},
        {"model.safetensors": _timm_siglip(tower)},
        contract(spec("siglip", hidden_act="gelu")),
        {"siglip": tap(tower)},
    )


LAYOUTS: tuple[Callable[[], HubFolder], ...] = (
    *(siglip, siglip2, naflex, dinov2, dinov2_registers, openvla, prismatic),
    *(paligemma, paligemma5, smolvlm2, eagle2, timm_siglip),
)
