#!/usr/bin/env python3
"""Writes onnx's own node tests (and its models in data/light, where they are installed) as cases for `cargo test -p mestc --test onnx_cases`.

    pip install onnx onnxruntime numpy safetensors
    python tests/onnx/write_cases.py /tmp/onnx_cases
    MEST_ONNX_CASES=/tmp/onnx_cases cargo test -p mestc --test onnx_cases -- --nocapture

A case is a folder with model.onnx and case.safetensors (`input`, `output`). Of a test with several inputs the first becomes the model's input, its
first axis the batch, and the others initialisers: that is what a model to be trained looks like. The input of a recurrent layer is transposed for that.
"""

import pathlib
import sys
import warnings

import numpy as np
import onnx
from onnx import numpy_helper
from safetensors.numpy import save_file

# Tested in runtime/tests/tile/update.rs.
OPTIMIZERS = {"Adagrad", "Adam", "Momentum"}


def case_of(model, inputs, outputs):
    """The model with one input and one output, and their values; or why there is none."""
    declared = list(model.graph.input)
    if not declared or not model.graph.output:
        return "it has no input or no output"
    model = onnx.ModelProto.FromString(model.SerializeToString())
    graph = model.graph
    if not all(isinstance(value, (np.ndarray, np.generic)) for value in list(inputs) + list(outputs)):
        return "its values are no tensors"
    for value, tensor in list(zip(graph.input, inputs))[1:]:
        graph.initializer.append(numpy_helper.from_array(np.array(tensor), value.name))
    del graph.input[1:]
    del graph.output[1:]
    return model, np.asarray(inputs[0]), np.asarray(outputs[0])


def examples_first(model, x, y):
    """A recurrent layer has its steps first: the examples of its input and output are brought there."""
    layers = [node for node in model.graph.node if node.op_type in ("RNN", "GRU", "LSTM")]
    if len(layers) != 1 or any(a.name == "layout" and a.i == 1 for a in layers[0].attribute):
        return model, x, y
    graph, axis = model.graph, y.ndim - 2
    old, new = graph.input[0].name, graph.output[0].name
    layers[0].input[0] = "steps_first"
    for slot, name in enumerate(layers[0].output):
        layers[0].output[slot] = "layer_output" if name == new else name
    order = [axis] + [i for i in range(y.ndim) if i != axis]
    graph.node.insert(0, onnx.helper.make_node("Transpose", [old], ["steps_first"], perm=[1, 0, 2]))
    graph.node.append(onnx.helper.make_node("Transpose", ["layer_output"], [new], perm=order))
    x, y = x.transpose(1, 0, 2), y.transpose(order)
    for value, array in ((graph.input[0], x), (graph.output[0], y)):
        for dim, extent in zip(value.type.tensor_type.shape.dim, array.shape):
            dim.dim_value = extent
    return model, x, y


def write(folder, model, tensors, metadata):
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model, folder / "model.onnx")
    save_file({name: np.array(t, order="C") for name, t in tensors.items()}, str(folder / "case.safetensors"), metadata)


def node_cases(root):
    from onnx.backend.test.case.node import collect_testcases

    written, left = 0, {}
    for case in collect_testcases(None):
        operators = {node.op_type for node in case.model.graph.node}
        inputs, outputs = case.data_sets[0]
        if operators & OPTIMIZERS:
            continue
        if "training" in case.name:
            left["training forms, which mestc evaluates in inference"] = left.get("training forms, which mestc evaluates in inference", 0) + 1
            continue
        made = case_of(case.model, inputs, outputs)
        if isinstance(made, str):
            left[made] = left.get(made, 0) + 1
            continue
        model, x, y = examples_first(*made)
        if x.dtype not in (np.float32, np.int64, np.int32) or y.dtype not in (np.float32, np.bool_):
            left["other element types"] = left.get("other element types", 0) + 1
            continue
        tensors = {"input": x.astype(np.float32), "output": y.astype(np.float32)}
        write(root / "node" / case.name, model, tensors, {"rtol": str(case.rtol), "atol": str(case.atol)})
        written += 1
    print(f"{written} node tests written; left out: {left}")


def light_cases(root):
    """The models that come with the package: small files whose weights are made by constants, with no data of their own; onnxruntime gives it."""
    import onnxruntime

    folder = pathlib.Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    for path in sorted(folder.glob("*.onnx")):
        model = onnx.load(path)
        names = {t.name for t in model.graph.initializer}
        data = [value for value in model.graph.input if value.name not in names]
        dims = [d.dim_value or 1 for d in data[0].type.tensor_type.shape.dim]
        x = np.random.default_rng(0).standard_normal(dims).astype(np.float32)
        y = onnxruntime.InferenceSession(str(path)).run(None, {data[0].name: x})[0]
        write(root / "light" / path.stem, model, {"input": x, "output": y}, {"rtol": "1e-3", "atol": "1e-5"})


def main():
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    warnings.filterwarnings("ignore")
    root = pathlib.Path(sys.argv[1])
    node_cases(root)
    light_cases(root)


if __name__ == "__main__":
    main()
