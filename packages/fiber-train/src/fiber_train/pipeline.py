"""A pipeline: the steps of a file one after the other, each skipped that is done, going on where it stopped.

    out: runs/mine
    steps:
      - {name: coarse, recipe: coarse, data: DATA/coarse}
      - {name: fine, recipe: [fine, fine_mixture], data: DATA/fine, start: coarse}
      - {name: vqa, recipe: vqa, data: DATA/vqa, start: coarse, overrides: [data.test_split=test2015]}
      - {name: detector, evaluate: fine, data: DATA/coco, splits: [val]}

Each step fills the folder of its name below `out`. `pipeline.json` there says of which settings and sources each was
made; what of this has changed is done again, or refused where a run would be lost.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fiber_backbone.ranges import Ranged, ranged
from omegaconf import MISSING, OmegaConf

from fiber_train.beside import Beside
from fiber_train.config import has_setting, load_config
from fiber_train.data import trusted_names
from fiber_train.ownership import check_ours, locked, mark
from fiber_train.recipe_files import one_sentence, read_recipe
from fiber_train.schema import check_layer, check_ranges, names, schema_of
from fiber_train.steps import EvaluateStep, ScenesStep, Step, TokenizerStep, TrainStep, tidy
from fiber_train.stopping import say, stopping
from fiber_train.writing import explained, write_file

STATE_FILE = "pipeline.json"
RECORD = {"settings", "sources", "done"}
KINDS = ("recipe", "evaluate", "scenes", "train_tokenizer")


@dataclass
class ScenesConfig(Ranged):
    """Options of `fiber_data.scenes.generate_scenes`."""

    splits: dict[str, int] = field(default_factory=dict)
    level: str = "easy"
    seed: int = ranged(0, least=0)


@dataclass
class TokenizerConfig(Ranged):
    """A tokenizer to train."""

    vocab_size: int = ranged(512, least=1)


@dataclass
class StepConfig(Ranged):
    """One step, of one kind: `recipe`, `evaluate`, `scenes` or `train_tokenizer`."""

    name: str = MISSING
    title: str | None = None
    """What people call it, by default its name."""
    optional: bool = False
    """Whether it is left out unless it is asked for."""
    recipe: list[str] = field(default_factory=list)
    """Recipes to lay over each other; a single one may stand without a list."""
    overrides: list[str] = field(default_factory=list)
    """Settings as on the command line, such as `trainer.max_steps=100`."""
    start: str | None = None
    """The step, or the folder, whose model to start from."""
    data: str | None = None
    """The step, or the folder, whose data to take."""
    tokenizer: str | None = None
    """The step, the folder, or the name on the hub of the tokenizer."""
    beside: bool = False
    """Whether to train in another process while the following steps go on."""
    evaluate: str | None = None
    """The step, or the folder, whose model to measure."""
    splits: list[str] = field(default_factory=lambda: ["val"])
    """What to measure on."""
    scenes: ScenesConfig | None = None
    """Images to generate."""
    train_tokenizer: TokenizerConfig | None = None
    """A tokenizer to train on the captions of `data`."""


@dataclass
class PipelineConfig:
    """A file."""

    out: str = MISSING
    steps: list[StepConfig] = field(default_factory=list)


def read_pipeline(path: Path, overrides: Sequence[str] = (), optional: Sequence[str] = ()) -> tuple[Path, list[Step]]:
    """The folder and the steps of a file.

    Args:
        path: YAML.
        overrides: Settings of all its runs to change, as on the command line; of `task.` those runs' whose task has
            the setting. `out=FOLDER` is the pipeline's own.
        optional: Which of the optional steps to take.

    Raises:
        FileNotFoundError: There is no such file, or a recipe is missing.
        ValueError: It is out of format, or a setting is; the message names the step. Or there is no such optional step.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; a pipeline is a YAML file with a list of steps")
    with one_sentence(path):
        layer: Any = read_recipe(path)
        steps = layer.get("steps")
        for each in steps if OmegaConf.is_list(steps) else ():
            if OmegaConf.is_dict(each) and isinstance(each.get("recipe"), str):
                each["recipe"] = [each["recipe"]]
        schema = schema_of(PipelineConfig)
        check_layer(layer, schema, str(path), names(schema))
        merged: Any = OmegaConf.merge(OmegaConf.structured(PipelineConfig), layer)
        check_ranges(merged, schema)
        own = [word.partition("=")[2] for word in overrides if word.startswith("out=")]
        if own:
            merged.out = "."
        made = OmegaConf.to_object(merged)
    assert isinstance(made, PipelineConfig)
    made.out = own[-1] if own else made.out  # to the letter, which OmegaConf would not take
    words = [word for word in overrides if not word.startswith("out=")]
    return Path(made.out), _Maker(str(path), Path(made.out), words).make(made.steps, optional)


class _Maker:
    """Makes steps of their descriptions."""

    def __init__(self, path: str, root: Path, overrides: Sequence[str]) -> None:
        self.path, self.root, self.overrides = path, root, overrides
        self.places: dict[str, Path] = {}  # of the steps so far
        self.sources: dict[str, Path] = {}  # of the step at hand
        self.trusted: dict[str, list[str]] = {}  # what our own runs may name
        self.taken: set[str] = set()  # overrides of `task.` that a run has

    def make(self, configs: Sequence[StepConfig], wanted: Sequence[str]) -> list[Step]:
        """All steps but the optional ones that are not wanted.

        Raises:
            ValueError: As of `read_pipeline`.
        """
        if not configs:
            raise ValueError(f"{self.path}: steps must be a list of at least one step, is empty")
        optional, later = [each.name for each in configs if each.optional], [each.name for each in configs]
        if unknown := [name for name in wanted if name not in optional]:
            there = f"there are {', '.join(optional)}" if optional else "there is none"
            raise ValueError(f"{self.path}: no optional step is called {unknown[0]!r:.80}; {there}")
        left_out = set(optional).difference(wanted)
        found = []
        for number, config in enumerate(configs):
            where = f"{self.path}: steps[{number}]"
            if config.name in self.places or not config.name or Path(config.name).name != config.name:
                raise ValueError(f"{where}: name must be a name of its own for a folder, is {config.name!r:.80}")
            for key in ("start", "data", "tokenizer", "evaluate"):
                if (named := getattr(config, key)) in later[number:]:
                    raise ValueError(f"{where} ({config.name}): {key}: {named} is no earlier step; change the order")
                if named in left_out and config.name not in left_out:
                    raise ValueError(f"{where} ({config.name}): {key}: {named} is optional; ask for it too")
            if config.name not in left_out:
                try:
                    found.append(self._make(config))
                except (ValueError, FileNotFoundError) as error:
                    raise type(error)(f"{where} ({config.name}): {error}") from error
            self.places[config.name] = self.root / config.name
        if unknown := [word for word in self.overrides if word.startswith("task.") and word not in self.taken]:
            raise ValueError(f"{unknown[0]}: no step's task has this setting; see fiber recipes show NAME")
        return found

    def _make(self, config: StepConfig) -> Step:
        kinds = [kind for kind in KINDS if getattr(config, kind)]
        if len(kinds) != 1:
            raise ValueError(f"expected one of {', '.join(KINDS)}, found {', '.join(kinds) or 'none'}")
        folder, self.sources = self.root / config.name, {}
        data = self._place(config.data)
        step: Step
        if config.scenes is not None:
            own = config.scenes
            step = ScenesStep(config.name, folder, own.splits, {"level": own.level, "seed": own.seed})
        elif config.train_tokenizer is not None:
            if data is None:
                raise ValueError("data is not set; give the step or the folder with the captions")
            step = TokenizerStep(config.name, folder, data, config.train_tokenizer.vocab_size)
        elif config.evaluate is not None:
            model = self._place(config.evaluate)
            assert model is not None
            trusted = self.trusted.get(config.evaluate, [])
            step = EvaluateStep(config.name, folder, Path(model), data, config.splits, config.overrides, trusted)
        else:
            step = self._make_run(config, folder, data)
        step.sources = dict(self.sources)
        return step

    def _make_run(self, config: StepConfig, folder: Path, data: str | None) -> TrainStep:
        given = {
            "out": str(folder),
            "data.root": data,
            "data.tokenizer": self._place(config.tokenizer),
            "model.checkpoint": self._place(config.start),
        }
        words = [f"{key}={value}" for key, value in given.items() if value is not None] + config.overrides
        plain = load_config(config.recipe, words)
        own = [word for word in self.overrides if self._takes(plain, word)]
        made = load_config(config.recipe, [*words, *own])
        self.trusted[config.name] = trusted_names(made)
        return TrainStep(config.name, folder, made, config.recipe, config.beside, config.title or config.name)

    def _takes(self, config: Any, word: str) -> bool:
        if not word.startswith("task."):
            return True
        takes = has_setting(config, word.partition("=")[0])
        if takes:
            self.taken.add(word)
        return takes

    def _place(self, name: str | None) -> str | None:
        """The folder of an earlier step, else what was given."""
        if name not in self.places:
            return name
        self.sources[name] = self.places[name]
        return str(self.places[name])


def run_pipeline(
    root: Path,
    steps: Sequence[Step],
    *,
    also: Sequence[str] = (),
    dry_run: bool = False,
    finished: Callable[[Step], None] | None = None,
) -> bool:
    """Runs the steps that are not done.

    Args:
        root: The pipeline's folder.
        steps: In their order.
        also: What else the caller will write to the folder.
        dry_run: Whether only to say what would be done.
        finished: Called with each step that was done now, before the next one; not of those beside.

    Returns:
        Whether all is done; False if it was asked to stop, and the same call goes on.

    Raises:
        FileExistsError: The folder holds files of somebody else's that would be overwritten.
        ValueError: A run was made of other sources or settings than now, or another process has the folder.
    """
    if dry_run:
        state = _State(root, steps)
        for step in steps:
            say(f"{step.name}: {state.why(step) or 'done already'}")
        return True
    with stopping() as stop, ExitStack() as stack:
        with explained(root):
            check_ours(root, "pipeline", [STATE_FILE, *also, *(step.name for step in steps)])
            stack.enter_context(locked(root))
            mark(root, "pipeline")
        for step in steps:
            tidy(step)
        state, beside, named = _State(root, steps), stack.enter_context(Beside()), {step.name: step for step in steps}

        def settle(each: Step) -> bool:
            """Waits for a step that goes on beside; one that failed is done here, where its error is seen."""
            if each.name in beside.processes:
                if beside.failed(each.name) and (stop.asked or not each.run()):
                    return False
                state.end(each)
                del beside.processes[each.name]
            return True

        for step in steps:
            if not all(settle(named[name]) for name in step.sources):
                return False
            if state.why(step) is None:
                say(f"{step.name}: done already")
                continue
            say(f"{step.name}: {step.describe()}")
            state.begin(step)
            if isinstance(step, TrainStep) and step.beside:
                beside.train(step.name, step.config)
                continue
            if stop.asked or not step.run():
                return False
            state.end(step)
            if finished is not None:
                finished(step)
        return all(map(settle, steps))


class _State:
    """Of which settings and sources each step's output was made."""

    def __init__(self, root: Path, steps: Sequence[Step]) -> None:
        self.path, self.steps = root / STATE_FILE, {step.name: step for step in steps}
        self.records: dict[str, Any] = {}
        with suppress(OSError, ValueError, AttributeError):  # absent, or damaged: steps look at their own output
            found = json.loads(self.path.read_text(encoding="utf-8"))
            self.records = {name: each for name, each in found.items() if each.keys() >= RECORD}

    def why(self, step: Step) -> str | None:
        """Why a step is to be done, and how; None if it is done.

        Raises:
            ValueError: It is a run that was made of other sources.
        """
        old = self.records.get(step.name)
        todo = f"to {step.describe()}"
        if old is None:
            return todo
        now = self._record(step)
        changed = [
            name
            for name, mark in now["sources"].items()
            if mark is not None and old["sources"].get(name) not in (None, mark)
        ]
        if changed and not step.may_replace():
            raise ValueError(
                f"{step.folder} was made of another {changed[0]} than there is now; remove it to make it anew, or "
                "choose another out"
            )
        if changed:
            return f"{todo}, as {changed[0]} has changed"
        if old["done"] and old["settings"] == now["settings"]:
            fault = step.find_fault()
            return None if fault is None else f"{todo}: {fault}"
        return f"{todo}, " + ("as its settings have changed" if old["settings"] != now["settings"] else "going on")

    def begin(self, step: Step) -> None:
        """Notes of what a step is about to be made."""
        self._write(step.name, {**self._record(step), "done": False})

    def end(self, step: Step) -> None:
        """Notes that it is done."""
        self._write(step.name, {**self.records[step.name], "done": True})

    def _record(self, step: Step) -> dict[str, Any]:
        sources: Mapping[str, str | None] = {name: self.steps[name].fingerprint() for name in step.sources}
        return {"settings": step.settings, "sources": sources}

    def _write(self, name: str, record: dict[str, Any]) -> None:
        self.records[name] = record
        write_file(self.path, json.dumps(self.records, indent=2) + "\n")
