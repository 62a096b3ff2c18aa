"""Programs of a model's parts that run without this package: `torch.export`'s, and ONNX files.

A program takes inputs of every size that `ExportPart.axes` allows, and gives what the model itself gives.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch._dynamo
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config

from fiber_heads.exported import Axis, ExportPart

_symbols: Any = _config  # its `patch` comes with the module's class
OPSET = 18  # of ONNX; onnxruntime 1.14 or later reads it


def export_program(part: ExportPart) -> ExportedProgram:
    """The part as a program of torch.

    Its inputs are given by name. `torch.export.save` writes it to a file, `torch.export.load(file).module()` reads it.
    """
    dims: dict[str, Any] = {}
    for axes in part.axes.values():
        for axis in axes.values():
            dims.setdefault(axis.name, _dim(axis))
    shapes = {name: {place: dims[axis.name] for place, axis in axes.items()} for name, axes in part.axes.items()}
    with _tracing():
        return torch.export.export(part.module.eval(), (), dict(part.inputs), dynamic_shapes=shapes, strict=False)


@contextmanager
def _tracing() -> Iterator[None]:
    """How the tracer deals with symbols.

    Sizes are not assumed to be other than 1, which would be wrong for a batch of one. Results of operations on symbols
    are not remembered: they hardly ever recur, and to compare them takes a third of the time.
    """
    cache = torch._dynamo.config.patch(fake_tensor_cache_enabled=False)
    with torch.no_grad(), _symbols.patch(backed_size_oblivious=True), cache:
        yield


def _dim(axis: Axis) -> Any:
    if axis.multiple == 1:
        return Dim(axis.name, min=axis.least, max=axis.most)
    return axis.multiple * Dim(f"{axis.name}_{axis.multiple}", min=-(-axis.least // axis.multiple))


def export_onnx(part: ExportPart, path: str | Path, program: ExportedProgram | None = None) -> None:
    """Writes the part as an ONNX file, weights inside (beside it, in `PATH.data`, above 2 GB).

    Args:
        part: What to export.
        path: The file.
        program: What `export_program` made of it, if it was made.

    Raises:
        ValueError: onnx or onnxscript is missing.
    """
    check_onnx()
    program = program or export_program(part)
    with _tracing():
        made = torch.onnx.export(
            program,
            kwargs=dict(part.inputs),
            input_names=list(part.inputs),
            output_names=list(part.outputs),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert made is not None
    made.save(str(path))
    _name_axes(part, path)


def _name_axes(part: ExportPart, path: str | Path) -> None:
    """Gives the inputs' axes their names, in place of the tracer's."""
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    for value in model.graph.input:
        for place, axis in part.axes[value.name].items():
            value.type.tensor_type.shape.dim[place].dim_param = axis.name
    onnx.save(model, str(path))


def quantize_onnx(path: str | Path, target: str | Path) -> None:
    """Writes an ONNX file with the weights of matrix products in 8 bits, a scale for each of their columns.

    Activations are quantized while it runs. Convolutions, tables of embeddings and vectors stay as they are.
    Weights are unsigned: sums of products with signed ones saturate on CPUs without VNNI.

    Raises:
        ValueError: onnxruntime is missing.
    """
    check_onnx(True)
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder) / "ready.onnx"
        quant_pre_process(str(path), str(ready), skip_symbolic_shape=True)
        graph = onnx.load(str(ready), load_external_data=False).graph
        vectors = {each.name for each in graph.initializer if len(each.dims) < 2}  # which have no columns
        quantize_dynamic(
            str(ready),
            str(target),
            op_types_to_quantize=["MatMul", "Gemm"],
            nodes_to_exclude=[node.name for node in graph.node if vectors.intersection(node.input[1:2])],
            per_channel=True,
            weight_type=QuantType.QUInt8,
        )


def check_onnx(runtime: bool = False) -> None:
    """Whether what writes ONNX files is installed, and with `runtime` what runs them.

    Raises:
        ValueError: Something is missing; the sentence says how to install it.
    """
    for name in ("onnx", "onnxscript", *(["onnxruntime"] if runtime else [])):
        if find_spec(name) is None:
            raise ValueError(f"ONNX files need {name}; pip install fiber-heads[export], or export with --format torch")
