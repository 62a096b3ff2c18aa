"""What a pipeline can do: train a recipe, evaluate what was trained, generate scenes, train a tokenizer on captions."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from fiber_data import read_captions, train_tokenizer
from fiber_data.scenes import generate_scenes

from fiber_train.checkpoint import find_model, load_model
from fiber_train.config import TrainConfig, to_yaml
from fiber_train.evaluation import EVALUATION_FILE, read_evaluation, write_json
from fiber_train.launch import build_fabric
from fiber_train.ownership import find_damage, read_marker
from fiber_train.run import train
from fiber_train.run_folder import FREE_SETTINGS, flat
from fiber_train.stopping import STATUS, say, stopping
from fiber_train.submission import judge_submission
from fiber_train.tasks.base import make_task
from fiber_train.tasks.find import task_of_model
from fiber_train.writing import replace_folder, restore, write_file

LENGTH = ("trainer.max_steps", "trainer.max_epochs")  # which a finished run does not have if they grew


@dataclass
class Step(ABC):
    """One step, which fills a folder.

    Attributes:
        name: Of the step and its folder.
        folder: Where its output goes.
        sources: Folders of the earlier steps that it builds on, by their names.
    """

    name: str
    folder: Path
    sources: dict[str, Path] = field(default_factory=dict, kw_only=True)

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What its output depends on beside the sources, as JSON holds it."""

    @abstractmethod
    def describe(self) -> str:
        """What it does, in a few words."""

    @abstractmethod
    def run(self) -> bool:
        """Does it, or goes on with it; False if it was asked to stop."""

    def find_fault(self) -> str | None:
        """What its output lacks, in a few words; None if it is whole."""
        return find_damage(self.folder) if self.folder.is_dir() else "it is not there"

    def may_replace(self) -> bool:
        """Whether its output can be made anew where it is, when sources have changed."""
        return True

    def content(self) -> Path:
        """The folder whose files those that build on the step take."""
        return self.folder

    def fingerprint(self) -> str | None:
        """Of its output, as its marker lists it; None if there is none."""
        marker = read_marker(self.content()) if self.find_fault() is None else None
        return None if marker is None else hashlib.sha256(json.dumps(marker["files"]).encode()).hexdigest()


@dataclass
class ScenesStep(Step):
    """Generated images with annotations for every task; `options` are those of `generate_scenes`."""

    splits: Mapping[str, int]
    options: dict[str, Any]

    @property
    def settings(self) -> dict[str, Any]:
        """Splits and options."""
        return {"splits": dict(self.splits), **self.options}

    def describe(self) -> str:
        """With the numbers of images."""
        return "generate " + ", ".join(f"{count:,} scenes of {split}" for split, count in self.splits.items())

    def run(self) -> bool:
        """Draws them, whole or not at all."""
        replace_folder(self.folder, self._draw, "scenes")
        return True

    def _draw(self, folder: Path) -> None:
        generate_scenes(folder, self.splits, **self.options)


@dataclass
class TokenizerStep(Step):
    """A byte-level BPE of the training captions in `data`."""

    data: str
    vocab_size: int

    @property
    def settings(self) -> dict[str, Any]:
        """Data and size."""
        return {"data": self.data, "vocab_size": self.vocab_size}

    def describe(self) -> str:
        """With its largest size."""
        return f"train a tokenizer of {self.vocab_size:,} tokens on the captions of {self.data}"

    def run(self) -> bool:
        """Trains and writes it."""
        texts = (text for sample in read_captions(self.data, "train") for text in sample["captions"])
        made = train_tokenizer(texts, self.vocab_size)
        replace_folder(self.folder, partial(_save_tokenizer, made), "tokenizer")
        return True


def _save_tokenizer(tokenizer: Any, folder: Path) -> None:
    tokenizer.save_pretrained(str(folder))


@dataclass
class TrainStep(Step):
    """A run of one or several recipes.

    Attributes:
        config: The run.
        recipes: For messages.
        beside: Whether it goes on in another process while the following steps do.
        title: What people call it.
    """

    config: TrainConfig
    recipes: Sequence[str]
    beside: bool = False
    title: str = ""

    @property
    def settings(self) -> dict[str, Any]:
        """Those of the configuration that its numbers depend on, and its length."""
        return {
            key: value
            for key, value in json.loads(json.dumps(flat(asdict(self.config)))).items()
            if key in LENGTH or not key.startswith(FREE_SETTINGS)
        }

    def describe(self) -> str:
        """With recipes and the weights to start from."""
        start = f" from {self.config.model.checkpoint}" if self.config.model.checkpoint else ""
        meanwhile = ", beside the following steps" if self.beside else ""
        return f"train {' '.join(self.recipes)}{start}{meanwhile}"

    def find_fault(self) -> str | None:
        """A finished run has a model and its evaluation."""
        if not (self.folder / EVALUATION_FILE).is_file():
            return "it is not finished"
        return find_damage(self.content())

    def may_replace(self) -> bool:
        """A run is never deleted; one that has no checkpoint yet has nothing to lose."""
        return not (self.folder / "checkpoints").is_dir()

    def content(self) -> Path:
        """The best model, else the finished one."""
        return find_model(self.folder)

    def run(self) -> bool:
        """Trains here; on several devices by `fiber train`, which starts its processes itself."""
        trainer = self.config.trainer
        if trainer.devices * trainer.num_nodes > 1:
            return self._run_command()
        return train(self.config) is not None

    def _run_command(self) -> bool:
        recipe = self.folder.parent / f".{self.name}.yaml"
        write_file(recipe, to_yaml(self.config))
        words = [sys.executable, "-m", "fiber_train.cli", "train", str(recipe)]
        try:
            with stopping() as stop, stop.deferred(), subprocess.Popen(words) as process:
                stop.launched = [process]  # a request to stop is passed on
                status = process.wait()
        finally:
            recipe.unlink(missing_ok=True)
        if status not in (0, STATUS):
            raise ValueError(f"{self.name}: fiber train ended with status {status}; its last lines say why")
        return status == 0

    def summary(self) -> str:
        """What the finished run reached, in lines for people."""
        return make_task(self.config).summary(read_evaluation(self.folder))


@dataclass
class EvaluateStep(Step):
    """Measures of a model on one or several splits, a folder for each: the numbers and the predictions.

    Attributes:
        model: Folder of a run, checkpoint or model.
        data: Folder of a data set; None for that of the model's run.
        splits: What to measure on, in this order.
        overrides: As of `fiber evaluate`.
        trusted: Import paths that the model's files may name.
    """

    model: Path
    data: str | None
    splits: Sequence[str]
    overrides: Sequence[str]
    trusted: Sequence[str] = ()

    @property
    def settings(self) -> dict[str, Any]:
        """All of them."""
        return {
            "model": str(self.model),
            "data": self.data,
            "splits": list(self.splits),
            "overrides": list(self.overrides),
        }

    def describe(self) -> str:
        """With model and splits."""
        return f"evaluate {self.model} on {', '.join(self.splits)}"

    def run(self) -> bool:
        """Measures on each split, one after the other."""
        replace_folder(self.folder, self._measure, "evaluation")
        return True

    def _measure(self, folder: Path) -> None:
        for split in self.splits:
            found = find_model(self.model)
            model, processor = load_model(found, trusted=self.trusted)
            given = [] if self.data is None else [f"data.root={self.data}"]
            words = [*given, f"data.eval_split={split}", *self.overrides]
            task = task_of_model(found, model, words, self.trusted)
            fabric = build_fabric(task)
            model = fabric.strategy.precision.convert_module(model.to(fabric.device))
            (folder / split).mkdir()
            result = task.measure(model, task.samples(split), processor, fabric)
            result.write_predictions(folder / split)
            for sentence in judge_submission(task, result):
                say(sentence)
            write_json(folder / split / EVALUATION_FILE, result.to_json())
            say(f"{self.name}: {split}\n{task.summary(result)}")


def tidy(step: Step) -> None:
    """Undoes what a kill left half done of a folder that is replaced as a whole."""
    if not isinstance(step, TrainStep):
        restore(step.folder)
