#!/usr/bin/env python3
"""Records the traces of this folder again: `python tests/traces/record.py [NAME..]` (needs torch, onnx, onnxscript, safetensors)."""

import pathlib
import sys

import torch
from torch import nn

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent / "examples" / "pytorch"))

from record_trace import random_batches, random_masks, record, scatter  # noqa: E402


def conv_bn(inputs, outputs, kernel, **arguments):
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, bias=False, **arguments), nn.BatchNorm2d(outputs))


class Residual(nn.Module):
    """Stride 2 with a 1x1 shortcut, an identity shortcut, a global average."""

    def __init__(self):
        super().__init__()
        self.stem = conv_bn(3, 8, 3, padding=1)
        self.down = conv_bn(8, 12, 3, stride=2, padding=1)
        self.shortcut = conv_bn(8, 12, 1, stride=2)
        self.body = conv_bn(12, 12, 3, padding=1)
        self.linear = nn.Linear(12, 5)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        x = torch.relu(self.down(x) + self.shortcut(x))
        x = torch.relu(self.body(x) + x)
        return self.linear(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


class Depthwise(nn.Module):
    """Depthwise and grouped convolutions, ReLU6, dilation, padding on two sides only, a gate by product."""

    def __init__(self):
        super().__init__()
        self.stem = conv_bn(2, 8, (3, 2), stride=(2, 1))
        self.pad = nn.ZeroPad2d((1, 0, 2, 1))
        self.depthwise = conv_bn(8, 8, 3, groups=8, padding=1)
        self.grouped = conv_bn(8, 12, 3, groups=2, dilation=2, padding=2)
        self.gate = nn.Conv2d(8, 12, 1)
        self.linear = nn.Linear(12, 4)

    def forward(self, x):
        x = nn.functional.relu6(self.stem(self.pad(x)))
        x = nn.functional.relu6(self.depthwise(x))
        x = self.grouped(x) * self.gate(x)
        return self.linear(x.mean((2, 3)))


class Pooling(nn.Module):
    """Every pooling: padded, overlapping, ceil mode, averages with and without padding; dropout that drops nothing."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 6, 3, padding=1)
        self.max = nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True)
        self.middle = nn.Conv2d(6, 8, (1, 3), padding=(0, 1))
        self.without = nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False)
        self.with_padding = nn.AvgPool2d(2, stride=1, padding=1)
        self.dropout = nn.Dropout(0.0)
        self.linear = nn.Linear(8 * 5 * 4, 6)

    def forward(self, x):
        x = self.max(torch.relu(self.stem(x)))
        x = self.with_padding(self.without(torch.relu(self.middle(x))))
        return self.linear(self.dropout(x.flatten(1)))


class Scaled(nn.Module):
    """Operations on single elements: constants, a learned scale, leaky ReLU, hard swish; no bias anywhere."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(9, 16, bias=False)
        self.scale = nn.Parameter(torch.rand(16) + 0.5)
        self.second = nn.Linear(16, 12, bias=False)
        self.last = nn.Linear(12, 3, bias=False)

    def forward(self, x):
        x = nn.functional.leaky_relu(self.first((x - 0.25) / 0.5), 0.1) * self.scale
        return self.last(nn.functional.hardswish(self.second(x)) * 0.75)


class Functions(nn.Module):
    """Activations of every kind, quotients, roots, maxima and minima of activations, a squeeze-and-excitation gate, a learned temperature."""

    def __init__(self):
        super().__init__()
        kinds = [nn.GELU(), nn.GELU(approximate="tanh"), nn.SiLU(), nn.Mish(), nn.ELU(0.7), nn.SELU(), nn.CELU(0.5), nn.Softplus()]
        self.kinds = nn.ModuleList([*kinds, nn.Sigmoid(), nn.Tanh(), nn.Hardsigmoid(), nn.PReLU(8), nn.Softsign()])
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.mix = nn.ModuleList([nn.Conv2d(8, 8, 1) for _ in self.kinds])
        self.squeeze, self.excite = nn.Conv2d(8, 2, 1), nn.Conv2d(2, 8, 1)
        self.linear = nn.Linear(8, 4)
        self.temperature = nn.Parameter(torch.tensor([0.3]))

    def forward(self, x):
        x = self.stem(x)
        for kind, mix in zip(self.kinds, self.mix):
            x = x + kind(mix(x))
        gate = nn.functional.silu(self.squeeze(nn.functional.adaptive_avg_pool2d(x, 1)))
        x = x * torch.sigmoid(self.excite(gate))
        x = torch.maximum(x, 0.5 * x.tanh()) / (1 + x.abs()).sqrt() - torch.minimum(x, x.exp())
        x = x / (x.pow(2).sum((2, 3), keepdim=True) + 1).sqrt()
        return self.linear(x.mean((2, 3))) * self.temperature.exp()


class Parts(nn.Module):
    """Concatenation, a shuffle of channels, halves, slices with steps, padding with a constant, maxima over positions; 1-d convolution."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.second = nn.Conv2d(9, 5, 3, padding=1)
        self.third = nn.Conv2d(14, 12, 1)
        self.left = nn.Conv2d(6, 6, 3)
        self.line = nn.Conv1d(12, 8, 3, stride=2, padding=1)
        self.linear = nn.Linear(16, 5)

    def forward(self, x):
        x = torch.cat([x, torch.relu(self.first(x))], 1)
        x = self.third(torch.cat([x, torch.relu(self.second(x))], 1))
        n, c, h, w = x.shape
        x = x.reshape(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        p, q = x.chunk(2, 1)
        p = self.left(nn.functional.pad(p, (1, 1, 1, 1)))
        q = nn.functional.pad(q[:, :, 1::2, ::2], (1, 2, 3, 1), value=0.5)
        x = self.line(torch.cat([p, q], 1).flatten(2))
        return self.linear(torch.cat([nn.functional.max_pool1d(x, 2).mean(2), x.amax(2)], 1))


class Normalized(nn.Module):
    """Group, layer and instance normalization; a block with the channels last."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.group, self.layer, self.instance = nn.GroupNorm(2, 8), nn.LayerNorm(8), nn.InstanceNorm2d(8, affine=True)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)
        self.linear = nn.Linear(8, 4)

    def forward(self, x):
        x = torch.relu(self.group(self.stem(x)))
        y = self.layer(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.down(nn.functional.gelu(self.up(y)))
        # The mean of what was just normalized would be constant.
        return self.linear(torch.relu(self.instance(x + y.permute(0, 3, 1, 2))).mean((2, 3)))


class Attention(nn.Module):
    """A transformer's block over patches with a class token, as vision transformers are written."""

    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, 16))
        self.position = nn.Parameter(torch.randn(1, 10, 16) * 0.1)
        self.before, self.between = nn.LayerNorm(16), nn.LayerNorm(16)
        self.qkv, self.project = nn.Linear(16, 48), nn.Linear(16, 16)
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)
        self.linear = nn.Linear(16, 5)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        n, t, c = x.shape
        q, k, v = self.qkv(self.before(x)).reshape(n, t, 3, 2, 8).permute(2, 0, 3, 1, 4).unbind(0)
        shares = ((q * 8**-0.5) @ k.transpose(-2, -1)).softmax(-1)
        x = x + self.project((shares @ v).transpose(1, 2).reshape(n, t, c))
        x = x + self.down(nn.functional.gelu(self.up(self.between(x))))
        return self.linear(x[:, 0])


class Resampled(nn.Module):
    """Transposed convolutions, interpolation, reflection, repetition and choices."""

    def __init__(self):
        super().__init__()
        self.narrow = nn.Conv2d(2, 4, 3, stride=2)
        self.wide = nn.ConvTranspose2d(4, 3, 3, stride=2, padding=1, output_padding=1)
        self.depthwise = nn.ConvTranspose2d(3, 6, 2, stride=2, groups=3, bias=False)
        self.linear = nn.Linear(6 * 4 * 5, 4)

    def forward(self, x):
        x = self.wide(torch.tanh(self.narrow(x)))
        x = torch.where(x > 0.1, x, x * x - 0.3)
        x = nn.functional.pad(x, (1, 2, 0, 1), mode="reflect")
        x = self.depthwise(x)
        x = nn.functional.interpolate(x, scale_factor=1.5, mode="bilinear", align_corners=False)
        x = nn.functional.interpolate(x, size=(4, 5), mode="nearest")
        return self.linear((x.repeat(1, 1, 1, 2)[:, :, :, 2:7].abs() + 0.1).pow(1.3).flatten(1))


class Tokens(nn.Module):
    """A table of tokens, and attention as torch's own module writes it: examples along the second axis, merged with the heads."""

    vocabulary = 11

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(self.vocabulary, 8)
        self.position = nn.Parameter(0.5 * torch.randn(7, 8))
        self.norm = nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2)
        self.linear = nn.Linear(8, 4)
        self.register_buffer("mask", torch.triu(torch.full((7, 7), float("-inf")), diagonal=1))

    def forward(self, tokens):
        x = self.table(tokens) + self.position
        y = self.norm(x).transpose(0, 1)
        y, _ = self.attention(y, y, y, attn_mask=self.mask, need_weights=False)
        return self.linear((x + y.transpose(0, 1)).mean(1))


class Recurrent(nn.Module):
    """An LSTM both ways, a GRU over what it gives, a plain layer over that; grouped transposed convolution and trigonometry before them."""

    def __init__(self):
        super().__init__()
        self.wide = nn.ConvTranspose1d(4, 6, 3, stride=2, groups=2)
        self.both = nn.LSTM(6, 5, batch_first=True, bidirectional=True)
        self.gated = nn.GRU(10, 6, batch_first=True)
        self.plain = nn.RNN(6, 4, batch_first=True, nonlinearity="relu")
        self.linear = nn.Linear(10, 3)

    def forward(self, x):
        x = self.wide(x)
        x = (torch.sin(x) + torch.atan(2 * x) * torch.cos(x)).transpose(1, 2)
        x, _ = self.both(x)
        x, last = self.gated(x)
        _, end = self.plain(x)
        return self.linear(torch.cat([last[-1], end[-1]], 1))


def perceptron():
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 20), nn.ReLU(), nn.Linear(20, 12), nn.ReLU(), nn.Linear(12, 5))


TRACES = {
    "mlp_small": (perceptron, (1, 6, 6), 5, {"kind": "adam", "lr": 0.01, "betas": [0.9, 0.99], "eps": 1e-8}, "cross_entropy", "dynamo"),
    "residual_small": (Residual, (3, 11, 10), 5, {"kind": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4}, "cross_entropy", "legacy"),
    "depthwise_small": (
        Depthwise,
        (2, 11, 9),
        4,
        {"kind": "sgd", "lr": 0.02, "momentum": 0.9, "weight_decay": 1e-3, "nesterov": True},
        "cross_entropy",
        "legacy",
    ),
    "pooling_small": (Pooling, (1, 13, 10), 6, {"kind": "sgd", "lr": 0.05, "label_smoothing": 0.1}, "cross_entropy", "legacy"),
    "scaled_small": (Scaled, (9,), 3, {"kind": "adamw", "lr": 0.01, "weight_decay": 0.05}, "mse", "dynamo"),
    "functions_small": (Functions, (3, 7, 6), 4, {"kind": "sgd", "lr": 0.02, "momentum": 0.9}, "cross_entropy", "legacy"),
    "parts_small": (Parts, (3, 7, 6), 5, {"kind": "sgd", "lr": 0.02, "momentum": 0.9}, "cross_entropy", "legacy"),
    "normalized_small": (Normalized, (3, 6, 5), 4, {"kind": "sgd", "lr": 0.02}, "cross_entropy", "legacy"),
    "resampled_small": (Resampled, (2, 9, 8), 4, {"kind": "sgd", "lr": 0.02, "momentum": 0.9}, "cross_entropy", "legacy"),
    "tokens_small": (Tokens, (7,), 4, {"kind": "sgd", "lr": 0.02, "momentum": 0.9}, "cross_entropy", "legacy"),
    "attention_small": (Attention, (3, 12, 12), 5, {"kind": "sgd", "lr": 0.02, "momentum": 0.9}, "cross_entropy", "legacy"),
    "recurrent_small": (Recurrent, (4, 3), 3, {"kind": "sgd", "lr": 0.05, "momentum": 0.9}, "cross_entropy", "legacy"),
}


def main():
    for seed, (name, (make, extents, classes, optimizer, loss, exporter)) in enumerate(TRACES.items()):
        if len(sys.argv) > 1 and name not in sys.argv[1:]:
            continue
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        model = make()
        scatter(model, generator)
        batches = random_batches(extents, classes, 5, 3, loss, generator, getattr(model, "vocabulary", None))
        masks = random_masks(model, 0.6, generator)
        error = record(model, batches, HERE / name, optimizer, loss, masks, exporter)
        size = sum(file.stat().st_size for file in (HERE / name).iterdir())
        print(f"{name}: {size // 1024} KiB, PyTorch in float32 is off by {error:.1e}")


if __name__ == "__main__":
    main()
