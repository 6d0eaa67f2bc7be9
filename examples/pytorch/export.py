#!/usr/bin/env python3
"""Exports a PyTorch module to ONNX so that it can be trained: batch normalization and dropout kept, the batch symbolic.

    python export.py torchvision.models:resnet18 --kwargs '{"num_classes": 10}' --input 3x32x32 -o resnet18.onnx
    python export.py my_models.py:TinyNet --input 1x28x28 --exporter dynamo -o tiny.onnx

The older exporter ("legacy", the default) needs torch alone and keeps the model as it is in training. The newer one ("dynamo") needs
`pip install onnxscript`; it is asked not to optimize, or it would fold batch normalization into the convolutions.
"""

import argparse
import importlib
import importlib.util
import json
import pathlib

import torch


def load(spec):
    """The callable that "package.module:name" or "file.py:name" stands for."""
    place, _, name = spec.partition(":")
    if not name:
        raise SystemExit(f"'{spec}' names no class or function; write MODULE:NAME or FILE.py:NAME")
    if place.endswith(".py"):
        module_spec = importlib.util.spec_from_file_location(pathlib.Path(place).stem, place)
        module = importlib.util.module_from_spec(module_spec)
        module_spec.loader.exec_module(module)
    else:
        module = importlib.import_module(place)
    return getattr(module, name)


def export(model, example, path, exporter="legacy"):
    """Writes `model` to `path`. `example` is a batch of inputs; its first axis becomes symbolic."""
    model.train()
    names = {"input_names": ["input"], "output_names": ["output"]}
    if exporter == "legacy":
        torch.onnx.export(
            model,
            (example,),
            str(path),
            dynamo=False,
            training=torch.onnx.TrainingMode.TRAINING,
            do_constant_folding=False,
            dynamic_axes={"input": {0: "batch"}, "output": {0: "batch"}},
            **names,
        )
    else:
        shapes = ({0: torch.export.Dim("batch")},)
        torch.onnx.export(
            model, (example,), str(path), dynamo=True, optimize=False, external_data=False, dynamic_shapes=shapes, **names
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="MODULE:NAME or FILE.py:NAME of a class or function that makes the module")
    parser.add_argument("--kwargs", type=json.loads, default={}, help="its arguments, as JSON")
    parser.add_argument("--input", required=True, help="extents of one example, e.g. 3x32x32")
    parser.add_argument("--exporter", choices=["legacy", "dynamo"], default="legacy")
    parser.add_argument("--seed", type=int, default=0, help="for the initial weights")
    parser.add_argument("-o", "--output", required=True)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    model = load(arguments.model)(**arguments.kwargs)
    extents = [int(extent) for extent in arguments.input.split("x")]
    export(model, torch.randn(2, *extents), arguments.output, arguments.exporter)
    print(f"wrote {arguments.output}; look at it with: mestc inspect {arguments.output}")


if __name__ == "__main__":
    main()
