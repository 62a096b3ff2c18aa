"""`fiber export`: a model's parts as files that run without it, in ONNX or as programs of torch."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fiber_train.options import add_checkpoint, load_checkpoint

if TYPE_CHECKING:
    from fiber_heads import TaskModel
    from fiber_heads.exported import ExportPart

DESCRIPTION = "export.json"


def export(parser: ArgumentParser) -> Callable[[Namespace], int]:
    """Write a model's parts as ONNX files, or as programs of torch, for images and texts of any number and size."""
    add_checkpoint(parser)
    parser.add_argument("--out", type=Path, required=True, help="folder to write: parts, processor, export.json")
    parser.add_argument("--format", choices=("onnx", "torch"), default="onnx", help="of the files (%(default)s)")
    parser.add_argument(
        "--part", action="append", default=[], metavar="NAME", help="part to write, by default all; can be given again"
    )
    parser.add_argument("--int8", action="store_true", help="also NAME.int8.onnx, weights in 8 bits")
    return _export


def _export(options: Namespace) -> int:
    from fiber_heads import TaskModel

    from fiber_train.ownership import check_free
    from fiber_train.stopping import say
    from fiber_train.writing import replace_folder

    if options.int8 and options.format != "onnx":
        raise ValueError("--int8 makes ONNX files smaller; leave out --format torch")
    check_free(options.out)
    if options.format == "onnx":
        from fiber_heads.export import check_onnx

        check_onnx(options.int8)
    model, _ = load_checkpoint(options, TaskModel)
    parts = choose_parts(model, options.part)

    def write(folder: Path) -> None:
        for name, part in parts.items():
            say(f"exporting {name}")
            write_part(part, folder, name, options.format, int8=options.int8)
        if (save := getattr(model.processor, "save_pretrained", None)) is not None:
            save(folder)
        (folder / DESCRIPTION).write_text(f"{json.dumps(describe(model, parts), indent=2)}\n", encoding="utf-8")

    replace_folder(options.out, write, "export")
    for path in sorted(options.out.glob("*.onnx*" if options.format == "onnx" else "*.pt2")):
        sys.stdout.write(f"{path}: {path.stat().st_size / 1e6:.1f} MB\n")
    return 0


def choose_parts(model: TaskModel, names: list[str]) -> dict[str, ExportPart]:
    """The parts of a model by name, all if none is named, on the CPU in float32.

    Raises:
        ValueError: The model has no part of a name.
    """
    found = model.float().cpu().eval().export_parts()
    if unknown := [name for name in names if name not in found]:
        raise ValueError(f"--part: a {type(model).__name__} has no part {unknown[0]!r}; choose from {', '.join(found)}")
    return {name: part for name, part in found.items() if not names or name in names}


def write_part(part: ExportPart, folder: Path, name: str, form: str, *, int8: bool = False) -> None:
    """Writes `name.onnx`, and `name.int8.onnx` if asked for, or `name.pt2`."""
    import torch
    from fiber_heads.export import export_onnx, export_program, quantize_onnx

    program = export_program(part)
    if form == "torch":
        torch.export.save(program, folder / f"{name}.pt2")
        return
    export_onnx(part, folder / f"{name}.onnx", program)
    if int8:
        quantize_onnx(folder / f"{name}.onnx", folder / f"{name}.int8.onnx")


def describe(model: TaskModel, parts: dict[str, ExportPart]) -> dict[str, Any]:
    """What `export.json` says: the model's configuration, and of each part its inputs, their ranges, its outputs."""
    content = {
        name: {
            "inputs": {
                each: {
                    "dtype": str(value.dtype).removeprefix("torch."),
                    "shape": [
                        part.axes[each][place].name if place in part.axes[each] else size
                        for place, size in enumerate(value.shape)
                    ],
                }
                for each, value in part.inputs.items()
            },
            "ranges": sorted({str(axis) for axes in part.axes.values() for axis in axes.values()}),
            "outputs": list(part.outputs),
        }
        for name, part in parts.items()
    }
    return {"model_class": type(model).__name__, "config": model.to_config(), "parts": content}
