"""Fills the template in `scenes/` with the models of a quickstart, in bfloat16: what `fiber-scenes` is built of.

fiber quickstart --out quickstart
python release/scenes.py quickstart OUT && uv build OUT
"""

from __future__ import annotations

import argparse
import shutil
from functools import partial
from pathlib import Path

import torch
from fiber_heads import TaskModel
from fiber_train.card import CARD_FILE, write_card
from fiber_train.checkpoint import find_model, load_task_model
from fiber_train.evaluation import EVALUATION_FILE
from fiber_train.tasks.find import TASK_FILE
from fiber_train.writing import replace_folder

TEMPLATE = Path(__file__).parent / "scenes"
STAGES = ("coarse", "fine")
STORED = "The weights are stored in bfloat16 and loaded in float32; the numbers were measured before they were rounded."


def fill(quickstart: Path, out: Path) -> Path:
    """Writes the sources of the distribution.

    Args:
        quickstart: Folder of a finished quickstart.
        out: Folder to make.

    Returns:
        `out`.

    Raises:
        FileExistsError: `out` is there already.
        FileNotFoundError: A stage is not finished.
    """
    for stage in STAGES:
        if not (quickstart / stage / EVALUATION_FILE).is_file():
            raise FileNotFoundError(f"{quickstart / stage} holds no finished run; make it: fiber quickstart --out DIR")
    shutil.copytree(TEMPLATE, out, ignore=shutil.ignore_patterns("__pycache__"))
    for stage in STAGES:
        source = find_model(quickstart / stage)
        write = partial(_write, load_task_model(source), source)
        replace_folder(out / "src" / "fiber_scenes" / stage, write)
    return out


def _write(model: TaskModel, source: Path, folder: Path) -> None:
    tensors = model.state_dict()
    rounded = {name: each.bfloat16() if each.is_floating_point() else each for name, each in tensors.items()}
    if wrong := [name for name, each in rounded.items() if each.is_floating_point() and not torch.isfinite(each).all()]:
        raise ValueError(f"{wrong[0]} is not finite in bfloat16")
    model.save_pretrained(folder, state_dict=rounded)
    shutil.copyfile(source / TASK_FILE, folder / TASK_FILE)
    write_card(folder, f"{(source / CARD_FILE).read_text(encoding='utf-8').rstrip()}\n\n{STORED}\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("quickstart", type=Path, help="folder of a finished quickstart")
    parser.add_argument("out", type=Path, help="folder to make")
    fill(**vars(parser.parse_args()))
