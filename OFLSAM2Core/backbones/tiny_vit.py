"""TinyViT as LiteMedSAM uses it: 256 px in, a 256-channel embedding at stride 4 out.

Written from the published architecture (Wu et al., "TinyViT", ECCV 2022, arXiv 2207.10666) with
LiteMedSAM's changes (patch embedding without stride, the last stages at stride 4). Parameter names
follow LiteMedSAM's checkpoint, so that its weights load without a translation table. The packages
that carry this model import torchvision, which cannot be relied on inside Slicer.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EMBED_DIMS = (64, 128, 160, 320)
DEPTHS = (2, 2, 6, 2)
NUM_HEADS = (2, 4, 5, 10)
WINDOWS = (7, 7, 14, 7)


class TinyViT(nn.Module):
    """Images (B, 3, 256, 256) in [0, 1] to embeddings (B, 256, 64, 64)."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = _PatchEmbed(3, EMBED_DIMS[0])
        self.layers = nn.ModuleList()
        for stage, (dim, depth) in enumerate(zip(EMBED_DIMS, DEPTHS, strict=True)):
            out_dim = EMBED_DIMS[stage + 1] if stage + 1 < len(EMBED_DIMS) else None
            # Stride 2 after the first two stages only: 256 -> 128 -> 64 -> 64.
            stride = 2 if stage < 2 else 1
            block = partial(_TinyViTBlock, dim, NUM_HEADS[stage], WINDOWS[stage])
            self.layers.append(
                _Stage(
                    [_MBConv(dim) if stage == 0 else block() for _ in range(depth)],
                    _PatchMerging(dim, out_dim, stride) if out_dim else nn.Identity(),
                )
            )
        self.neck = nn.Sequential(
            nn.Conv2d(EMBED_DIMS[-1], 256, 1, bias=False),
            _LayerNorm2d(256),
            nn.Conv2d(256, 256, 3, padding=1, bias=False),
            _LayerNorm2d(256),
        )

    def forward(self, images: Tensor) -> Tensor:
        x = self.patch_embed(images)
        for layer in self.layers:
            x = layer(x)
        return self.neck(x)


class _ConvBN(nn.Sequential):
    def __init__(
        self, c_in: int, c_out: int, kernel: int = 1, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        padding = kernel // 2
        self.add_module(
            "c", nn.Conv2d(c_in, c_out, kernel, stride, padding, groups=groups, bias=False)
        )
        self.add_module("bn", nn.BatchNorm2d(c_out))


class _PatchEmbed(nn.Module):
    def __init__(self, c_in: int, dim: int) -> None:
        super().__init__()
        self.seq = nn.Sequential(_ConvBN(c_in, dim // 2), nn.GELU(), _ConvBN(dim // 2, dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.seq(x)


class _MBConv(nn.Module):
    def __init__(self, dim: int, expand: int = 4) -> None:
        super().__init__()
        hidden = dim * expand
        self.conv1 = _ConvBN(dim, hidden)
        self.conv2 = _ConvBN(hidden, hidden, kernel=3, groups=hidden)
        self.conv3 = _ConvBN(hidden, dim)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.conv1(x))
        y = self.act(self.conv2(y))
        return self.act(x + self.conv3(y))


class _PatchMerging(nn.Module):
    def __init__(self, dim: int, out_dim: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _ConvBN(dim, out_dim)
        self.conv2 = _ConvBN(out_dim, out_dim, kernel=3, stride=stride, groups=out_dim)
        self.conv3 = _ConvBN(out_dim, out_dim)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3(self.act(self.conv2(self.act(self.conv1(x)))))


class _Attention(nn.Module):
    """Self-attention within a window, with a learned bias for each absolute offset."""

    attention_bias_idxs: Tensor

    def __init__(self, dim: int, num_heads: int, window: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        points = list(product(range(window), range(window)))
        offsets: dict[tuple[int, int], int] = {}
        indices = [
            offsets.setdefault((abs(p[0] - q[0]), abs(p[1] - q[1])), len(offsets))
            for p in points
            for q in points
        ]
        self.attention_biases = nn.Parameter(torch.zeros(num_heads, len(offsets)))
        table = torch.tensor(indices).view(len(points), len(points))
        self.register_buffer("attention_bias_idxs", table, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, count, dim = x.shape
        # Per head: query, key and value lie beside each other (not all queries first).
        qkv = self.qkv(self.norm(x)).view(batch, count, self.num_heads, -1).transpose(1, 2)
        query, key, value = qkv.chunk(3, dim=-1)
        bias = self.attention_biases[:, self.attention_bias_idxs]
        scores = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5 + bias
        out = (scores.softmax(dim=-1) @ value).transpose(1, 2).reshape(batch, count, dim)
        return self.proj(out)


class _Mlp(nn.Module):
    def __init__(self, dim: int, expand: int = 4) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, dim * expand)
        self.fc2 = nn.Linear(dim * expand, dim)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(self.norm(x))))


class _TinyViTBlock(nn.Module):
    def __init__(self, dim: int, num_heads: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.attn = _Attention(dim, num_heads, window)
        self.local_conv = _ConvBN(dim, dim, kernel=3, groups=dim)
        self.mlp = _Mlp(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._windowed_attention(x)
        x = self.local_conv(x)
        rows = x.permute(0, 2, 3, 1)
        return x + self.mlp(rows).permute(0, 3, 1, 2)

    def _windowed_attention(self, x: Tensor) -> Tensor:
        size, (batch, dim, height, width) = self.window, x.shape
        pad_h, pad_w = -height % size, -width % size
        rows = F.pad(x.permute(0, 2, 3, 1), (0, 0, 0, pad_w, 0, pad_h))
        down, across = (height + pad_h) // size, (width + pad_w) // size
        windows = rows.view(batch, down, size, across, size, dim).transpose(2, 3)
        out = self.attn(windows.reshape(-1, size * size, dim))
        out = out.view(batch, down, across, size, size, dim).transpose(2, 3)
        out = out.reshape(batch, height + pad_h, width + pad_w, dim)[:, :height, :width]
        return out.permute(0, 3, 1, 2)


class _Stage(nn.Module):
    def __init__(self, blocks: Iterable[nn.Module], downsample: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.downsample(x)


class _LayerNorm2d(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        rows = x.permute(0, 2, 3, 1)
        rows = F.layer_norm(rows, rows.shape[-1:], self.weight, self.bias, eps=1e-6)
        return rows.permute(0, 3, 1, 2)
