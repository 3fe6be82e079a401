"""The encoders' networks, built from their configurations, with transformers' tensor names.

They hold a checkpoint's weights. `encoders/transformer.py` lays the vision towers out for speed
and computes with them; SigLIP's text tower, which runs once an instruction, computes here.
transformers' own models compute the same (`to_transformers` makes them), but take 3 s of CPU time
to import.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from siglip_perception.checkpoints.configs import EncoderConfig

# GELU's two forms and SiLU, by transformers' names.
ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "gelu_pytorch_tanh": lambda values: functional.gelu(values, approximate="tanh"),
    "silu": functional.silu,
}


def _check_activation(name: str) -> None:
    if name not in ACTIVATIONS:
        raise ValueError(f"hidden_act is {name!r} and must be one of {', '.join(ACTIVATIONS)}")


class _Mlp(nn.Module):
    """fc2(act(fc1 x))."""

    def __init__(self, config: Any, inner: int) -> None:
        super().__init__()
        _check_activation(config.hidden_act)
        self.config = config
        self.fc1 = nn.Linear(config.hidden_size, inner)
        self.fc2 = nn.Linear(inner, config.hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        output: Tensor = self.fc2(ACTIVATIONS[self.config.hidden_act](self.fc1(hidden)))
        return output


class _GatedMlp(nn.Module):
    """Weights of down(act(gate x) * up x); without a gate, down(act(up x))."""

    def __init__(self, dim: int, inner: int, *, bias: bool = True, gate: bool = True) -> None:
        super().__init__()
        if gate:
            self.gate_proj = nn.Linear(dim, inner, bias=bias)
        self.up_proj = nn.Linear(dim, inner, bias=bias)
        self.down_proj = nn.Linear(inner, dim, bias=bias)


class _Table(nn.Module):
    """A vector [dim] for each of so many places. nn.Embedding's random values import seconds."""

    def __init__(self, count: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(count, dim))


class _LayerScale(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.lambda1 = nn.Parameter(torch.ones(dim))


# --- SigLIP


class _SiglipAttention(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self._heads = config.num_attention_heads
        if config.hidden_size % self._heads:
            raise ValueError(f"{config.hidden_size} channels for {self._heads} heads")
        self.k_proj, self.v_proj, self.q_proj, self.out_proj = (
            nn.Linear(config.hidden_size, config.hidden_size) for _ in range(4)
        )

    def forward(self, hidden: Tensor) -> Tensor:
        shape = (*hidden.shape[:-1], self._heads, -1)
        query, key, value = (
            project(hidden).view(shape).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        attended = functional.scaled_dot_product_attention(query, key, value)
        output: Tensor = self.out_proj(attended.transpose(1, 2).reshape(hidden.shape))
        return output


class _SiglipLayer(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = _SiglipAttention(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = _Mlp(config, config.intermediate_size)

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = hidden + self.self_attn(self.layer_norm1(hidden))
        output: Tensor = hidden + self.mlp(self.layer_norm2(hidden))
        return output


class _SiglipEncoder(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_SiglipLayer(config) for _ in range(config.num_hidden_layers))


class _SiglipTextEmbeddings(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.token_embedding = _Table(config.vocab_size, config.hidden_size)
        self.position_embedding = _Table(config.max_position_embeddings, config.hidden_size)


class SiglipText(nn.Module):
    """SigLIP's text tower. Its config states max_position_embeddings, the text context."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.embeddings = _SiglipTextEmbeddings(config)
        self.encoder = _SiglipEncoder(config)
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.head = nn.Linear(config.hidden_size, config.projection_size or config.hidden_size)

    def forward(self, ids: Tensor) -> Tensor:
        """Encode ids int64 [P, context] of phrases, padded to the text context: [P, D].

        No attention mask: SigLIP was trained with attention to its padding, and reads the last
        position.
        """
        positions = self.embeddings.position_embedding.weight[: ids.shape[1]]
        hidden = functional.embedding(ids, self.embeddings.token_embedding.weight) + positions
        for layer in self.encoder.layers:
            hidden = layer(hidden)
        output: Tensor = self.head(self.final_layer_norm(hidden)[:, -1])
        return output


class _SiglipVisionEmbeddings(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.patch_embedding = _patch_embedding(config)
        count = (config.image_size // config.patch_size) ** 2
        self.position_embedding = _Table(count, config.hidden_size)


class PoolingHead(nn.Module):
    """SigLIP's attention pooling of patches: one learned query, and an MLP."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.probe = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.attention = nn.MultiheadAttention(
            config.hidden_size, config.num_attention_heads, batch_first=True
        )
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = _Mlp(config, config.intermediate_size)


class SiglipVision(nn.Module):
    """SigLIP's vision tower."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.embeddings = _SiglipVisionEmbeddings(config)
        self.encoder = _SiglipEncoder(config)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        if config.vision_use_head:
            self.head = PoolingHead(config)


class Siglip(nn.Module):
    """SigLIP: both towers, the log of the logits' scale and their bias, each [1]."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.logit_scale = nn.Parameter(torch.zeros(1))
        self.logit_bias = nn.Parameter(torch.zeros(1))
        self.text_model = SiglipText(config.text_config)
        self.vision_model = SiglipVision(config.vision_config)


# --- DINO


class _DinoAttention(nn.Module):
    def __init__(self, config: Any, query: bool, key: bool, value: bool, output: bool) -> None:
        """Make projections; the flags say which have a bias."""
        super().__init__()
        dim = config.hidden_size
        if dim % config.num_attention_heads:
            raise ValueError(f"{dim} channels for {config.num_attention_heads} heads")
        self.q_proj = nn.Linear(dim, dim, bias=query)
        self.k_proj = nn.Linear(dim, dim, bias=key)
        self.v_proj = nn.Linear(dim, dim, bias=value)
        self.o_proj = nn.Linear(dim, dim, bias=output)


class _DinoLayer(nn.Module):
    def __init__(self, config: Any, attention: _DinoAttention, mlp: nn.Module) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = attention
        self.layer_scale1 = _LayerScale(config.hidden_size)
        self.norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = mlp
        self.layer_scale2 = _LayerScale(config.hidden_size)


class _DinoEncoder(nn.Module):
    def __init__(self, config: Any, layer: Callable[[Any], _DinoLayer]) -> None:
        super().__init__()
        self.layer = nn.ModuleList(layer(config) for _ in range(config.num_hidden_layers))


class _Dinov2Patches(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.projection = _patch_embedding(config)


class _Dinov2Embeddings(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        dim, count = config.hidden_size, (config.image_size // config.patch_size) ** 2
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        if getattr(config, "use_mask_token", True):
            self.mask_token = nn.Parameter(torch.zeros(1, dim))
        self.patch_embeddings = _Dinov2Patches(config)
        self.position_embeddings = nn.Parameter(torch.zeros(1, count + 1, dim))
        if config.model_type == "dinov2_with_registers":
            self.register_tokens = nn.Parameter(torch.zeros(1, config.num_register_tokens, dim))


class Dinov2(nn.Module):
    """DINOv2, with and without registers."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.embeddings = _Dinov2Embeddings(config)
        self.encoder = _DinoEncoder(config, _dinov2_layer)
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)


def _dinov2_layer(config: Any) -> _DinoLayer:
    inner, bias = int(config.hidden_size * config.mlp_ratio), config.qkv_bias
    # A gated MLP keeps two thirds of the channels, rounded up to a multiple of 8.
    gated_inner = (int(inner * 2 / 3) + 7) // 8 * 8
    return _DinoLayer(
        config,
        _DinoAttention(config, bias, bias, bias, True),
        _GatedMlp(config.hidden_size, gated_inner)
        if config.use_swiglu_ffn
        else _Mlp(config, inner),
    )


class _Dinov3Embeddings(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        dim = config.hidden_size
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.register_tokens = nn.Parameter(torch.zeros(1, config.num_register_tokens, dim))
        self.patch_embeddings = _patch_embedding(config)


class Dinov3(nn.Module):
    """DINOv3's vision transformer, whose positions are rotary and have no weights."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.embeddings = _Dinov3Embeddings(config)
        self.model = _DinoEncoder(config, _dinov3_layer)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)


def _dinov3_layer(config: Any) -> _DinoLayer:
    _check_activation(config.hidden_act)
    return _DinoLayer(
        config,
        _DinoAttention(
            config, config.query_bias, config.key_bias, config.value_bias, config.proj_bias
        ),
        _GatedMlp(
            config.hidden_size,
            config.intermediate_size,
            bias=config.mlp_bias,
            gate=config.use_gated_mlp,
        ),
    )


def _patch_embedding(config: Any) -> nn.Conv2d:
    patch = config.patch_size
    return nn.Conv2d(config.num_channels, config.hidden_size, kernel_size=patch, stride=patch)


# --- by configuration

VisionNetwork = SiglipVision | Dinov2 | Dinov3
Network = Siglip | VisionNetwork
# model_type of the configuration -> network, and transformers' own class of it.
_KINDS: Mapping[str, tuple[Callable[[Any], Network], str]] = {
    "siglip": (Siglip, "SiglipModel"),
    "siglip_vision_model": (SiglipVision, "SiglipVisionModel"),
    "dinov2_with_registers": (Dinov2, "Dinov2WithRegistersModel"),
    "dinov2": (Dinov2, "Dinov2Model"),
    "dinov3_vit": (Dinov3, "DINOv3ViTModel"),
}
# As facebook's DINOv2 checkpoints name them -> as transformers does since its version 5.
_DINOV2_NAMES = (
    ("attention.attention.query.", "attention.q_proj."),
    ("attention.attention.key.", "attention.k_proj."),
    ("attention.attention.value.", "attention.v_proj."),
    ("attention.output.dense.", "attention.o_proj."),
    ("mlp.weights_out.", "mlp.down_proj."),
)


def create(config: EncoderConfig) -> Network:
    """Create the network of a configuration, its weights unset.

    Raises ValueError, TypeError or ArithmeticError for a configuration that makes no network.
    """
    return _KINDS[config.model_type][0](config)


def current_names(config: EncoderConfig, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of a checkpoint of any age as the network has them."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if config.model_type == "siglip_vision_model":
            name = name.removeprefix("vision_model.")
        elif config.model_type == "dinov3_vit":
            name = f"model.{name}" if name.startswith("layer.") else name
        elif config.model_type.startswith("dinov2"):
            for old, new in _DINOV2_NAMES:
                name = name.replace(old, new)
            if ".mlp.weights_in." in name:
                gate, up = tensor.chunk(2)
                renamed[name.replace("weights_in", "gate_proj")] = gate
                name, tensor = name.replace("weights_in", "up_proj"), up
        renamed[name] = tensor
    return renamed


def _published_names(network: Network) -> dict[str, Tensor]:
    """Name the network's tensors as published checkpoints do: the reverse of current_names()."""
    state: dict[str, Tensor] = network.state_dict()
    if not isinstance(network, Dinov2):
        return state
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if ".mlp.up_proj." in name:
            continue
        if ".mlp.gate_proj." in name:
            tensor = torch.cat([tensor, state[name.replace("gate_proj", "up_proj")]])
            name = name.replace("gate_proj", "weights_in")
        for old, new in _DINOV2_NAMES:
            name = name.replace(new, old)
        renamed[name] = tensor
    return renamed


def to_transformers(network: Network) -> Any:
    """Make transformers' own model with the network's weights: for training, and as a reference.

    It is in eval mode, with sdpa attention and without gradients.
    """
    from siglip_perception.checkpoints.offline import quiet, transformers

    kind: Any = getattr(transformers, _KINDS[network.config.model_type][1])
    with quiet():
        model = kind.from_pretrained(
            None,
            config=kind.config_class.from_dict(dataclasses.asdict(network.config)),
            # It saves the model again by the names that it was given.
            state_dict=_published_names(network),
            dtype=torch.float32,
            attn_implementation="sdpa",
            local_files_only=True,
        )
    model.eval()
    model.requires_grad_(False)
    return model
