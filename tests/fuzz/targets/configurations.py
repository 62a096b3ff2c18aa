"""Configurations of runs: recipes and words of the command line; nothing is built from them."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fuzz import documents
from fuzz.target import Documents, Target

_SETTING = re.compile(r"\b(data|model|optim|task|trainer)(\.\w|: )|\bout\b")  # a run may have several recipes
_WORDS = ["data.root=data", "out=run"]


class RecipeTarget(Target):
    """A recipe in a file of the user's."""

    def read(self, folder: Path) -> Any:
        from fiber_train.config import load_config

        return load_config(folder / "recipe.yaml", _WORDS)

    def parts(self, result: Any) -> Counter[str]:
        return documents.entries(json.loads(json.dumps(asdict(result))), ".yaml")  # tuples as lists

    def names(self, message: str) -> bool:
        return _SETTING.search(message) is not None

    def budget(self, documents: Documents, touched: int) -> int | None:
        content = documents["recipe.yaml"]
        task = content.get("task") if isinstance(content, dict) else None
        # Each task has its settings; one that is left out has its default instead.
        return touched + 1 if task == {"name": self.name.removeprefix("recipe_")} else None


class TaskTarget(RecipeTarget):
    """The settings of a task that lie beside its model."""

    def read(self, folder: Path) -> Any:
        from fiber_train.tasks.find import task_of_model

        model: Any = None  # is asked only where there is no file
        return task_of_model(folder, model, _WORDS[:1]).config

    def budget(self, documents: Documents, touched: int) -> int | None:
        return None


class WordTarget(RecipeTarget):
    """Words of the command line over a recipe of the package's, a word a line."""

    def names(self, message: str) -> bool:
        return True  # there is no file

    def read(self, folder: Path) -> Any:
        from fiber_train.config import load_config

        content = (folder / "words.txt").read_bytes().replace(b"\r\n", b"\n")
        found = load_config("coarse", content.decode("utf-8", "surrogateescape").split("\n"))  # as from the shell
        content.decode()  # paths may hold any bytes, but the file of this target may not
        return found

    def budget(self, documents: Documents, touched: int) -> int | None:
        return None if touched else 0


_RECIPE = """
# A recipe as people write them.
task:
  name: {task}
data:
  root: data
  train_split: train
  eval_split: val
  max_length: 40
  num_workers: 0
  augment: false
model:
  preset: fiber_tiny
  image_size: 64
  overrides: {{embed_dim: 8, hidden_size: 32, image_num_heads: [1, 2, 4]}}
optim:
  learning_rate: 1.0e-4
  optimizer: torch.optim.AdamW
  betas: [0.9, 0.98]
  milestones:
    - 0.67
    - 0.89
  schedule: step
  warmup: 0.1
  max_norm: null
trainer:
  max_steps: 100
  batch_size: 8
  precision: "32-true"
  eval_every: 0.05
out: runs/übung
"""
_TASK = "task:\n  name: answering\n  monitor: null\n  metrics: []\n  min_count: 1\n"
_LINE = ["data.root=data", "out=run", "trainer.max_steps=10", "model.overrides.embed_dim=8", "optim.betas=[0.9,0.99]"]
_TASKS = ("pretraining", "retrieval", "answering", "captioning", "reasoning", "grounding")
TARGETS: list[Target] = [
    *(
        RecipeTarget(
            f"recipe_{task}", {"recipe.yaml": _RECIPE.format(task=task)}, covers=(f"fiber.tasks:{task}",), share=0.03
        )
        for task in _TASKS
    ),
    TaskTarget("task_settings", {"task.yaml": _TASK}, share=0.03),
    WordTarget("words", {"words.txt": "\n".join([*_LINE, "data.tokenizer=null"])}, share=0.05),
]
