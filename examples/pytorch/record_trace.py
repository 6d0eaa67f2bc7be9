#!/usr/bin/env python3
"""Records a training run of a PyTorch module, to be replayed by `mestc verify MODEL TRACE`.

    python record_trace.py my_models.py:TinyNet --input 3x12x12 --classes 5 --sparsity 0.8 -o traces/tiny

writes traces/tiny/model.onnx and traces/tiny/trace.safetensors (format mest-trace-1). Inputs and targets are random; weights are masked
at random before the first step and stay masked. Everything is computed in float64 and stored as float32.
"""

import argparse
import copy
import json
import pathlib

import onnx
import torch
from onnx import numpy_helper
from safetensors.torch import save_file
from torch.nn import functional

from export import export, load

OPTIMIZERS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "adagrad": torch.optim.Adagrad}


def loss_of(kind, output, target, smoothing):
    if kind == "mse":
        return functional.mse_loss(output, target.to(output.dtype))
    return functional.cross_entropy(output, target, label_smoothing=smoothing)


def train(model, batches, masks, loss, optimizer):
    """Trains `model` on `batches` with masked weights; returns losses, first output, first gradients, parameters afterwards."""
    model.train()
    settings = {key: value for key, value in optimizer.items() if key not in ("kind", "label_smoothing")}
    parameters = dict(model.named_parameters())
    rule = OPTIMIZERS[optimizer["kind"]](parameters.values(), **settings)
    smoothing = optimizer.get("label_smoothing", 0.0)
    dtype = next(model.parameters()).dtype

    def mask_weights():
        with torch.no_grad():
            for name, mask in masks.items():
                parameters[name].mul_(mask)

    mask_weights()
    losses, first_output, gradients = [], None, {}
    for step, (inputs, targets) in enumerate(batches):
        rule.zero_grad()
        output = model(inputs.to(dtype) if inputs.is_floating_point() else inputs)
        value = loss_of(loss, output, targets, smoothing)
        value.backward()
        for name, mask in masks.items():
            parameters[name].grad.mul_(mask)
        if step == 0:
            first_output = output.detach().clone()
            gradients = {name: p.grad.clone() for name, p in parameters.items()}
        rule.step()
        mask_weights()
        losses.append(value.item())
    return losses, first_output, gradients, {name: p.detach().clone() for name, p in parameters.items()}


def initialisers(model, path):
    """Maps each parameter to its ONNX initialiser: (name, whether it is stored transposed)."""
    stored = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in onnx.load(path).graph.initializer}
    found = {}
    for name, parameter in model.named_parameters():
        value = parameter.detach().float()
        if name in stored and stored[name].shape == value.shape:
            found[name] = (name, False)
            continue
        for other, tensor in stored.items():
            if tensor.shape == value.shape and torch.equal(tensor, value):
                found[name] = (other, False)
            elif value.dim() == 2 and tensor.shape == value.T.shape and torch.equal(tensor, value.T):
                found[name] = (other, True)
        if name not in found:
            raise SystemExit(f"parameter '{name}' is not in the exported file; was it folded away?")
    return found


def relative_error(ours, theirs):
    """Largest error over tensors of one kind, as `mestc verify` measures it."""
    largest = max(t.abs().max().item() for t in theirs)
    errors = [(a.double() - b).abs().max().item() / max(b.abs().max().item(), 0.01 * largest) for a, b in zip(ours, theirs)]
    return max(errors)


def record(model, batches, folder, optimizer, loss="cross_entropy", masks=None, exporter="legacy"):
    """Exports `model`, trains a float64 copy of it on `batches` (inputs, targets), and writes both to `folder`.

    `optimizer` is {"kind": "sgd" | "adam" | "adamw" | "adagrad", ...} with PyTorch's arguments; `masks` maps parameter names to 0/1 tensors.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    masks = masks or {}
    path = folder / "model.onnx"
    # Some exporters train a little on the way: a copy keeps the statistics of the original.
    export(copy.deepcopy(model), batches[0][0], path, exporter)
    names = initialisers(model, path)

    losses, output, gradients, after = train(copy.deepcopy(model).double(), batches, masks, loss, optimizer)
    single = train(copy.deepcopy(model), batches, masks, loss, optimizer)
    exact = ([output], gradients.values(), after.values(), [torch.tensor(losses, dtype=torch.float64)])
    ours = ([single[1]], single[2].values(), single[3].values(), [torch.tensor(single[0], dtype=torch.float64)])
    error = max(relative_error(list(a), list(b)) for a, b in zip(ours, exact))

    tensors = {"loss": torch.tensor(losses, dtype=torch.float64), "output.0": output.float()}
    for step, (inputs, targets) in enumerate(batches):
        tensors[f"input.{step}"] = inputs.float()
        tensors[f"target.{step}"] = targets
    for kind, values in (("mask", masks), ("grad", gradients), ("after", after)):
        for name, value in values.items():
            stored, transposed = names[name]
            value = value.to(torch.uint8) if kind == "mask" else value.float()
            tensors[f"{kind}.{stored}"] = value.T if transposed else value
    metadata = {
        "format": "mest-trace-1",
        "steps": str(len(batches)),
        "loss": loss,
        "optimizer": json.dumps(optimizer),
        "float32_error": f"{error:.1e}",
    }
    save_file({name: t.contiguous() for name, t in tensors.items()}, str(folder / "trace.safetensors"), metadata)
    return error


def random_masks(model, sparsity, generator):
    """Masks for every layer's weight with at least two axes but the first and the last."""
    weights = [(name, p) for name, p in model.named_parameters() if p.dim() >= 2 and name.endswith("weight")]
    return {name: (torch.rand(p.shape, generator=generator) >= sparsity).to(torch.uint8) for name, p in weights[1:-1]}


def scatter(model, generator):
    """Moves every vector off its initial 0 or 1, so that each matters and none are equal."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() < 2:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))


def random_batches(extents, classes, batch, steps, loss, generator, vocabulary=None):
    """Batches of normal deviates, or of tokens below `vocabulary`."""
    batches = []
    for _ in range(steps):
        if vocabulary is None:
            inputs = torch.randn(batch, *extents, generator=generator)
        else:
            inputs = torch.randint(vocabulary, (batch, *extents), generator=generator)
        labels = torch.randint(classes, (batch,), generator=generator)
        batches.append((inputs, labels if loss == "cross_entropy" else torch.randn(batch, classes, generator=generator)))
    return batches


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="MODULE:NAME or FILE.py:NAME of a class or function that makes the module")
    parser.add_argument("--kwargs", type=json.loads, default={}, help="its arguments, as JSON")
    parser.add_argument("--input", required=True, help="extents of one example, e.g. 3x32x32")
    parser.add_argument("--classes", type=int, required=True, help="extent of the output")
    parser.add_argument("--vocabulary", type=int, help="the input holds tokens below this number")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--sparsity", type=float, default=0.0)
    parser.add_argument("--loss", choices=["cross_entropy", "mse"], default="cross_entropy")
    parser.add_argument("--optimizer", type=json.loads, default={"kind": "sgd", "lr": 0.01, "momentum": 0.9})
    parser.add_argument("--exporter", choices=["legacy", "dynamo"], default="legacy")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", required=True, help="folder to write to")
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    generator = torch.Generator().manual_seed(arguments.seed)
    model = load(arguments.model)(**arguments.kwargs)
    scatter(model, generator)
    extents = [int(extent) for extent in arguments.input.split("x")]
    batches = random_batches(extents, arguments.classes, arguments.batch, arguments.steps, arguments.loss, generator, arguments.vocabulary)
    masks = random_masks(model, arguments.sparsity, generator) if arguments.sparsity > 0 else {}
    error = record(model, batches, arguments.output, arguments.optimizer, arguments.loss, masks, arguments.exporter)
    print(f"wrote {arguments.output}; PyTorch itself is off by {error:.1e} in float32")


if __name__ == "__main__":
    main()
