#!/usr/bin/env bash
# PyTorch's side of the examples on a network small enough for CI: export it, train it sparsely, record a trace of it and replay that.
#
#     examples/pytorch/check.sh target/debug/mestc
set -euo pipefail
mestc=$(realpath "$1")
here=$(dirname "$(realpath "$0")")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat > tiny.py <<'PYTHON'
import torch.nn as nn


def TinyNet(classes=10):
    convolution = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
    return nn.Sequential(convolution, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8 * 4 * 4, classes))
PYTHON
python3 "$here/export.py" tiny.py:TinyNet --input 1x8x8 -o tiny.onnx
"$mestc" train tiny.onnx --data digits --sparsity 0.8 --epochs 1 -o run
python3 "$here/record_trace.py" tiny.py:TinyNet --input 1x8x8 --classes 10 --sparsity 0.8 -o trace
"$mestc" verify trace/model.onnx trace/trace.safetensors
