#!/usr/bin/env python3
"""Trains a step of torchvision's models with mestc and with PyTorch, and compares every gradient and every parameter afterwards.

    pip install torchvision onnxscript onnxruntime
    python torchvision_check.py --mestc ../../target/release/mestc -o /tmp/check               # every model, both exporters
    python torchvision_check.py --mestc mestc -o /tmp/check --models resnet18 swin_t --exporters dynamo

With --export each model is also trained sparse for an epoch of random images, written as ONNX again, and its logits in onnxruntime are compared with
mestc's own. With --folded batch normalization is folded into the convolutions first, as exports for inference have it. Weights are random, dropout and stochastic depth are 0. A trace is drawn again until PyTorch's own float32 is within 1e-4 of its float64:
beyond that a comparison says nothing. Where a trace lies in the folder already, it is used again.
"""

import argparse
import json
import pathlib
import shutil
import subprocess
import sys
import warnings

import numpy as np
import torch
import torchvision
from torch.fx.experimental.optimization import fuse

from export import export
from record_trace import random_batches, record, scatter

MODELS = {
    "resnet18": {},
    "mobilenet_v2": {},
    "mobilenet_v3_small": {},
    "mobilenet_v3_large": {},
    "shufflenet_v2_x1_0": {},
    "squeezenet1_1": {},
    "densenet121": {},
    "efficientnet_b0": {},
    "regnet_y_400mf": {},
    "convnext_tiny": {},
    "vit_b_16": {"image_size": 32},
    "swin_t": {},
}
CLASSES = 10
# PyTorch's own error in float32 that a trace may have.
LARGEST_ERROR = 1e-4
OPTIMIZER = {"kind": "sgd", "lr": 0.01, "momentum": 0.9}


def build(name, folded=False):
    """The model with random weights and every random part turned off; `folded`: batch normalization folded into convolutions, as exports for
    inference have it."""
    model = getattr(torchvision.models, name)(num_classes=CLASSES, **MODELS[name])
    for module in model.modules():
        if isinstance(module, (torch.nn.Dropout, torchvision.ops.StochasticDepth)):
            module.p = 0.0
    return fuse(model.eval()).requires_grad_(True) if folded else model


def draw(name, exporter, folder, size, batch, attempts, first=0, folded=False):
    """Records traces of one step until one is well conditioned; returns PyTorch's error in it."""
    error = float("inf")
    for seed in range(first, first + attempts):
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        model = build(name, folded)
        scatter(model, generator)
        batches = random_batches([3, size, size], CLASSES, batch, 1, "cross_entropy", generator)
        error = record(model, batches, folder, OPTIMIZER, exporter=exporter)
        if error < LARGEST_ERROR:
            return error
    raise SystemExit(f"{name}: float32 is off by {error:.1e} in PyTorch itself after {attempts} attempts; take larger images or batches")


def verify(mestc, folder, engine):
    """The largest relative error, or what mestc says instead."""
    command = [mestc, "verify", str(folder / "model.onnx"), str(folder / "trace.safetensors"), "--engine", engine, "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    try:
        report = json.loads(done.stdout)
        return report["passed"], f"{engine} {report['worst']:.1e}"
    except json.JSONDecodeError:
        return False, f"{engine}: {done.stderr.strip()}"


def random_images(folder, examples):
    """A data set in CIFAR-10's layout; its test images as mestc normalises them by default."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    for name in [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]:
        labels = generator.integers(CLASSES, size=(examples, 1), dtype=np.uint8)
        pixels = generator.integers(256, size=(examples, 3 * 32 * 32), dtype=np.uint8)
        np.concatenate([labels, pixels], axis=1).tofile(folder / name)
    return pixels.reshape(-1, 3, 32, 32).astype(np.float64) / 255


def logits(mestc, name, exporter, folder):
    """Trains, exports, and compares logits in onnxruntime: whether they agree, and the largest difference relative to the largest logit."""
    import onnx
    import onnxruntime

    folder.mkdir(parents=True, exist_ok=True)
    images = random_images(folder / "cifar", 16)
    torch.manual_seed(0)
    export(build(name), torch.randn(2, 3, 32, 32), folder / "model32.onnx", exporter)
    run, predictions, data = folder / "run", folder / "predictions.npz", f"cifar10:{folder / 'cifar'}"
    shutil.rmtree(run, ignore_errors=True)
    for command in (
        ["train", folder / "model32.onnx", "--data", data, "--epochs", "1", "--batch", "16", "--lr", "0.001", "--threads", "1", "-o", run],
        ["eval", run, "--data", data, "--predictions", predictions],
    ):
        done = subprocess.run([mestc, *map(str, command)], capture_output=True, text=True)
        if done.returncode:
            return False, f"export: {done.stderr.strip()}"
    model = onnx.load(run / "model.onnx")
    onnx.checker.check_model(model)
    scale = json.loads(next(entry.value for entry in model.metadata_props if entry.key == "mest.normalize"))
    mean, deviation = (np.asarray(scale[key]).reshape(1, -1, 1, 1) for key in ("mean", "std"))
    session = onnxruntime.InferenceSession(str(run / "model.onnx"))
    theirs = session.run(None, {"input": ((images - mean) / deviation).astype(np.float32)})[0]
    ours = np.load(predictions)["logits"]
    difference = np.abs(ours - theirs).max() / np.abs(theirs).max()
    return bool(difference < 1e-4), f"export {difference:.1e}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mestc", default="mestc", help="the program")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--exporters", nargs="+", choices=["legacy", "dynamo"], default=["legacy", "dynamo"])
    parser.add_argument("--engines", nargs="+", choices=["jit", "interp", "rust"], default=["jit", "interp"])
    parser.add_argument("--size", type=int, default=64, help="rows and columns of an image (32 for vit_b_16)")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--attempts", type=int, default=20, help="traces drawn at most")
    parser.add_argument("--seed", type=int, default=0, help="of the first trace drawn: where a ReLU lies on its kink, any float32 may fail")
    parser.add_argument("--folded", action="store_true", help="with batch normalization folded into convolutions: Conv and bias are trained")
    parser.add_argument("--export", action="store_true", help="compare logits with onnxruntime's too")
    parser.add_argument("-o", "--output", required=True, type=pathlib.Path, help="folder to write to")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    failed = 0
    for name in arguments.models:
        for exporter in arguments.exporters:
            folder = arguments.output / f"{name}_{exporter}"
            if not (folder / "trace.safetensors").exists():
                size = MODELS[name].get("image_size", arguments.size)
                draw(name, exporter, folder, size, arguments.batch, arguments.attempts, arguments.seed, arguments.folded)
            results = [verify(arguments.mestc, folder, engine) for engine in arguments.engines]
            if arguments.export:
                results.append(logits(arguments.mestc, name, exporter, folder))
            failed += not all(passed for passed, _ in results)
            print(f"{name} ({exporter}): {'; '.join(f'{what}' if ok else f'FAILED {what}' for ok, what in results)}", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
