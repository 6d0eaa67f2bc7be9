#!/usr/bin/env python3
"""Writes onnx's own node tests (and its models in data/light, where they are installed) as cases for `cargo test -p mestc --test onnx_cases`.

    pip install onnx onnxruntime numpy safetensors
    python tests/onnx/write_cases.py /tmp/onnx_cases
    MEST_ONNX_CASES=/tmp/onnx_cases cargo test -p mestc --test onnx_cases -- --nocapture

A case is a folder with model.onnx and case.safetensors (`input`, `output`). Of a test with several inputs the first becomes the model's input, its
first axis the batch, and the others initialisers: that is what a model to be trained looks like. The input of a recurrent layer is transposed for that.
What works element by element on no more than one axis gets the batch as an axis before it. Where other inputs have the first one's axes, packed.onnx and
packed.safetensors are the same test with all of these cut out of one input: of two activations, neither can be an initialiser.
"""

import pathlib
import sys
import warnings

import numpy as np
import onnx
from onnx import numpy_helper
from safetensors.numpy import save_file

ELEMENTWISE = set(
    "Abs Acos Acosh Add Asin Asinh Atan Atanh Cast CastLike Ceil Celu Clip Constant Cos Cosh Div Dropout Elu Equal Erf Exp Floor Gelu Greater"
    " GreaterOrEqual HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu Less LessOrEqual Log Max Mean Min Mish Mod Mul Neg PRelu Pow Reciprocal Relu"
    " Round Selu Shrink Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Sub Sum Swish Tan Tanh ThresholdedRelu Where".split()
)
RECURRENT = {"RNN", "GRU", "LSTM"}
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


def set_shape(value, dims):
    """Declares the extents of a graph's input or output."""
    shape = value.type.tensor_type.shape
    del shape.dim[:]
    for extent in dims:
        shape.dim.add().dim_value = extent


def examples_first(model, x, y):
    """A recurrent layer has its steps first: the examples of its input and output are brought there."""
    layers = [node for node in model.graph.node if node.op_type in RECURRENT]
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
        set_shape(value, array.shape)
    return model, x, y


def examples_before(model, x, y):
    """What works element by element on one axis or none: an axis for the examples is put before it."""
    if x.ndim > 1 or x.ndim != y.ndim or not {node.op_type for node in model.graph.node} <= ELEMENTWISE:
        return model, x, y
    x, y = (array.reshape(1, -1) for array in (x, y))
    for value, array in ((model.graph.input[0], x), (model.graph.output[0], y)):
        set_shape(value, array.shape)
    return model, x, y


def packed(model, inputs):
    """The test with every input that has the first one's axes, type and examples cut out of a single one; None where there is no other."""
    if len(inputs) < 2 or any(node.op_type in RECURRENT for node in model.graph.node):
        return None
    first = np.asarray(inputs[0])
    like = lambda tensor: tensor.ndim == first.ndim >= 2 and tensor.dtype == first.dtype and tensor.shape[0] == first.shape[0] > 0
    chosen = [i for i, tensor in enumerate(inputs) if isinstance(tensor, np.ndarray) and like(tensor)]
    if len(chosen) < 2:
        return None
    model = onnx.ModelProto.FromString(model.SerializeToString())
    graph, opset = model.graph, max([o.version for o in model.opset_import if o.domain in ("", "ai.onnx")], default=0)
    values, nodes, start = list(graph.input), [], 0
    lists = lambda name, numbers: graph.initializer.append(numpy_helper.from_array(np.array(numbers, np.int64), name))
    for i, value in enumerate(values):
        tensor = np.asarray(inputs[i])
        if i not in chosen:
            graph.initializer.append(numpy_helper.from_array(tensor, value.name))
            continue
        end, part = start + tensor[0].size, f"{value.name}.part"
        if opset < 10:
            nodes.append(onnx.helper.make_node("Slice", ["packed"], [part], axes=[1], starts=[start], ends=[end]))
        else:
            names = [f"{value.name}.{what}" for what in ("start", "end", "axis")]
            for name, number in zip(names, (start, end, 1)):
                lists(name, [number])
            nodes.append(onnx.helper.make_node("Slice", ["packed", *names], [part]))
        lists(f"{value.name}.extents", [0, *tensor.shape[1:]])
        nodes.append(onnx.helper.make_node("Reshape", [part, f"{value.name}.extents"], [value.name]))
        start = end
    rest = list(graph.node)
    del graph.node[:], graph.output[1:], graph.input[1:]
    graph.node.extend(nodes + rest)
    graph.input[0].name = "packed"
    x = np.concatenate([np.asarray(inputs[i]).reshape(first.shape[0], -1) for i in chosen], axis=1)
    set_shape(graph.input[0], x.shape)
    return model, x


def write(folder, model, tensors, metadata, names=("model.onnx", "case.safetensors")):
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model, folder / names[0])
    save_file({name: np.array(t, order="C") for name, t in tensors.items()}, str(folder / names[1]), metadata)


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
        model, x, y = examples_before(*examples_first(*made))
        if x.dtype not in (np.float32, np.int64, np.int32) or y.dtype not in (np.float32, np.bool_):
            left["other element types"] = left.get("other element types", 0) + 1
            continue
        tensors = {"input": x.astype(np.float32), "output": y.astype(np.float32)}
        metadata = {"rtol": str(case.rtol), "atol": str(case.atol)}
        write(root / "node" / case.name, model, tensors, metadata)
        other = packed(case.model, inputs)
        if other is not None:
            tensors = {"input": other[1].astype(np.float32), "output": y.astype(np.float32)}
            write(root / "node" / case.name, other[0], tensors, metadata, ("packed.onnx", "packed.safetensors"))
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
