"""What a task brings to a run: its settings, its data, its model, its evaluation.

A task of your own is a subclass of `Task` with a dataclass of settings. It needs four methods: `read`, `texts`,
`make_dataset` and `evaluate`; the others have defaults for one image with one text. Name it in a configuration
(`task.name: package.module:Name`), declare it as an entry point of `fiber.tasks`, or hand it over in Python
(`load_config(..., task=Name)`, `train(config, task=Name)`). Recipes, YAML files, may lie in a folder `recipes/` beside
its module.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, ClassVar, Generic, TypeVar, cast

import torch
from fiber_backbone import FiberBackbone
from fiber_backbone.seams import load_object, name_of, resolve
from fiber_data import (
    FiberProcessor,
    ImageTextCollator,
    Transform,
    build_evaluation_transform,
    build_training_transform,
    glance,
    open_samples,
)
from fiber_data.formats import hold_out
from fiber_heads import TaskModel
from fiber_heads.distributed import gather_by_id
from lightning_fabric import Fabric
from omegaconf import MISSING
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from fiber_train.classes import Classes
from fiber_train.config import TaskSettings, TrainConfig, as_share
from fiber_train.data import Collate, OnDevice, backbone_sizes, build_evaluation_loader
from fiber_train.evaluation import Evaluation, LeftOut, Measure, absent_from
from fiber_train.examples import Shown
from fiber_train.tasks.ids import check_ids, in_order, only
from fiber_train.unreadable import some_reasons
from fiber_train.watching import watched
from fiber_train.writing import Content

NO_MONITOR = "none"  # as task.monitor
WAYS_OUT = f"data.eval_split or task.monitor to another, or task.monitor={NO_MONITOR} to keep no best"
NO_ANNOTATIONS = "no annotations"  # as the reason of what is left out

Settings = TypeVar("Settings", bound=TaskSettings)
Samples = Mapping[str, Any] | Callable[[str], Any]  # by split, or a function of it
Keep = Callable[[Mapping[str, Content]], None]  # takes files of predictions by name


class Task(ABC, Generic[Settings]):
    """One task under one configuration.

    Attributes:
        settings_class: The dataclass that checks `task.*`.
        model_class: Its model.
        monitor: The measure of an evaluation by which the best weights are kept, unless `task.monitor` names another.
        evaluation_batch_size: Items evaluated together in each process.
        training_settings: Those of `task.` that a finished model no longer obeys, groups among them, so that `fiber
            evaluate` refuses them.
        commands: What to type next for a finished run, filled as by `next_commands`: {run}, {data}, {image}.
        submission: The server's format of a file of predictions, of `fiber_eval.submissions`; none without a server.
        settings: `config.task`.
        given: Samples from Python, in place of the data set's files.

    Raises:
        ValueError: `config.task` is of another task, or a metric cannot be imported.
    """

    settings_class: ClassVar[type[TaskSettings]] = TaskSettings
    model_class: ClassVar[type[TaskModel]]
    monitor: str
    evaluation_batch_size: int = 50
    training_settings: ClassVar[Sequence[str]] = ("model",)
    commands: ClassVar[Sequence[str]] = ()
    submission: str = ""
    given: Samples | None = None

    def __init__(self, config: TrainConfig) -> None:
        if not isinstance(config.task, self.settings_class):
            own = type(self).__name__
            raise ValueError(
                f"{own} needs settings of {self.settings_class.__name__}, config.task is a "
                f"{type(config.task).__name__}; make the configuration with load_config(..., task={own})"
            )
        self.config = config
        self.settings = cast(Settings, config.task)
        self._metrics = {path: load_object(path) for path in self.settings.metrics}
        self._checked: tuple[Any, Evaluation | None] = (None, None)
        self._strict = False
        self._keep: Keep | None = None
        self._unreadable: dict[str, None] = {}  # reasons, of the evaluation that goes on

    @abstractmethod
    def read(self, split: str) -> Any:
        """The samples of a split of the run's data set, `config.data.root`: mappings, each with an `id` of its own."""

    @abstractmethod
    def texts(self, samples: Any) -> Iterator[str]:
        """The texts of samples, from which a tokenizer can be trained."""

    @abstractmethod
    def make_dataset(self, samples: Any, transform: Transform, training: bool, model: Any) -> Dataset:
        """The samples as a map-style data set, for training or for evaluation."""

    @abstractmethod
    def evaluate(self, model: Any, samples: Any, processor: Any, fabric: Fabric) -> Evaluation:
        """Measures a model on held-out samples.

        Args:
            model: Of `model_class`, in eval mode, on the process's device.
            samples: Of `read`. Without annotations, as of a test split, only predictions come out; what has none among
                others stands in `Evaluation.left_out`. Batches lack those that cannot be read: measure what `collect`
                gives, after `keep` of the predictions.
            processor: The model's own.
            fabric: Devices; every process takes its share (`batches`), and gets all the numbers
                (`fiber_heads.distributed.gather_by_id`).
        """

    @classmethod
    def settings_of(cls, model: Any) -> dict[str, Any]:
        """Settings of `task.` by name that evaluations obey and that a finished model brings with it."""
        return {}

    def preview(self, samples: Any) -> Evaluation | None:
        """What `evaluate` will take of held-out samples, without a model: names of measures, counts, what is left out.

        Values mean nothing, save that a measure of -1 is of what the samples do not have. None leaves it open until
        the first evaluation.

        Raises:
            ValueError: The samples cannot be measured.
        """
        return None

    def check_training(self, samples: Any) -> None:
        """Refuses training samples of which nothing can be learned.

        Raises:
            ValueError: The loss would be the same whatever the model does.
        """
        return

    def parts(self, samples: Any) -> dict[str, Sequence[Any]]:
        """The sequences that held-out samples consist of, in each of which ids differ, by their names for messages."""
        return {self.config.data.eval_split: samples}

    def check(self, samples: Any) -> Evaluation | None:
        """`preview` of held-out samples, after their ids; once for the same, before the work that needs them.

        Raises:
            ValueError: An id is missing or repeats, or the samples cannot be measured.
        """
        if self._checked[0] is not samples:
            for name, part in self.parts(samples).items():
                check_ids(part, name)
            self._checked = (samples, self.preview(samples))
        return self._checked[1]

    @property
    def keeps_best_by(self) -> str | None:
        """The measure by which a run keeps the best weights; None if it keeps none."""
        chosen = self.settings.monitor or self.monitor
        return None if chosen == NO_MONITOR else chosen

    def make_model(self, backbone: FiberBackbone, samples: Any, processor: Any) -> TaskModel:
        """A fresh model for training samples: `model_class` with `task.model`, if the settings have that."""
        config = getattr(self.settings, "model", None)
        return self.model_class(backbone) if config is None else self.model_class(backbone, config)

    def describe(self, found: Evaluation) -> str:
        """The task's own measures for people, each beside what a guess would reach."""
        return "\n".join([*(f"{count:,} {name}" for name, count in found.counts.items()), *map(str, found.measures)])

    def read_training(self) -> Any:
        """The samples to learn from."""
        return self.read(self.config.data.train_split)

    def samples(self, split: str, training: bool = False) -> Any:
        """The samples that a run uses: those given from Python, else those of `data.format`, else those of `read`.

        Where the held-out split is a share of the training split, both are taken of that.
        """
        data = self.config.data
        share = as_share(data.eval_split if training else split)
        if share is None:
            return self._samples(split, training)
        return self.take_share(self._samples(data.train_split, training), share, held=not training)

    def _samples(self, split: str, training: bool) -> Any:
        data = self.config.data
        if self.given is not None:
            return self.given(split) if callable(self.given) else self.given[split]
        if data.format is not None:
            return self.open(resolve(data.format, "fiber.formats"), split, **data.format_options)
        return self.read_training() if training else self.read(split)

    def open(self, reader: Callable[..., Any], split: str, **options: Any) -> Any:
        """The samples of a reader of the run's data set, mapped as `data.index` says."""
        data = self.config.data
        return open_samples(reader, data.root, split, index=data.index, **options)

    def take_share(self, samples: Any, share: float, *, held: bool) -> Any:
        """The samples of about this share of the images, chosen by their ids alone, or (`held` false) all others."""
        return hold_out(samples, share, held=held)

    def classes(self, model: Any, samples: Any) -> Classes | None:
        """What the model is to tell apart, and how often the training samples have each; None if it is no such task."""
        return None

    def backbone_switches(self) -> dict[str, Any]:
        """Fields of `FiberConfig` that the model needs set."""
        return {}

    def make_processor(self, tokenizer: PreTrainedTokenizerBase, start: Any = None) -> Any:
        """What prepares images and texts.

        Args:
            tokenizer: Of the run.
            start: The processor of the weights that the run starts from, if it starts from any of ours.
        """
        size = backbone_sizes(self.config).image_size
        normalization = {} if start is None else {"mean": start.mean, "std": start.std}
        return FiberProcessor(tokenizer, size, self.config.data.max_length, **normalization)

    def make_transform(self, processor: Any, training: bool) -> Transform:
        """What makes tensors of images: uint8, which the device normalizes by the processor's statistics, or floats."""
        build = build_training_transform if training and self.config.data.augment else build_evaluation_transform
        return build(processor.image_size, normalize=False)

    @property
    def image_options(self) -> dict[str, Any]:
        """How data sets read images: the options `exif` and `max_pixels` of every `SeededDataset`."""
        return {"exif": self.config.data.exif, "max_pixels": self.config.data.max_pixels}

    def make_collator(self, processor: Any, training: bool) -> Collate:
        """What makes batches of items."""
        return ImageTextCollator(processor.tokenizer, processor.max_length, mlm_probability=None)

    def sampling_groups(self, dataset: Any) -> dict[str, Any]:
        """What the training data's sampler has to keep apart, or together (`unique_groups` of `EpochSampler`, ...)."""
        return {}

    def prepare_training(self, model: Any, samples: Any, processor: Any) -> None:
        """Gives the model what its objective needs beside batches: for most nothing."""
        return

    def needs_unused_parameters(self) -> bool:
        """Whether some parameters take no part in a step, which several processes must be told."""
        return True

    def batches(
        self, model: TaskModel, samples: Any, processor: Any, fabric: Fabric, **options: Any
    ) -> Iterable[dict[str, Any]]:
        """Evaluation batches in order on the device, full, so that all processes have as many of them.

        Samples come again in the last ones, and in place of those that cannot be read, where ``replaced`` (B,) is true.
        """
        dataset = self.make_dataset(samples, self.make_transform(processor, False), False, model)
        return self.batches_of(dataset, processor, fabric, **options)

    def batches_of(self, dataset: Dataset, processor: Any, fabric: Fabric, **options: Any) -> Iterable[dict[str, Any]]:
        """The same of a data set."""
        options = {"batch_size": self.evaluation_batch_size, **options}
        collate = self.make_collator(processor, False)
        loader = build_evaluation_loader(self.config.data, dataset, fabric, collate, **options)
        return self._readable(watched(OnDevice(loader, fabric, processor), len(loader), fabric.is_global_zero))

    def _readable(self, batches: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """The batches that are not empty; what could not be read is noted, or refused."""
        for batch in batches:
            if batch["broken"] and self._strict:
                raise ValueError(f"{batch['broken'][0]}; mend it, leave it out, or measure the others, without strict")
            self._unreadable |= dict.fromkeys(batch["broken"])
            if batch["ids"]:
                yield batch

    def collect(
        self, predictions: Mapping[Any, Any], samples: Sequence[Any], what: str, group: str = ""
    ) -> tuple[Sequence[Any], Evaluation]:
        """The samples that there are predictions of, and an evaluation of them to be filled.

        It has the predictions, in the order of the samples, as `outputs`, and as `left_out` how many samples lack and
        why.

        Args:
            predictions: By sample id, of all processes.
            samples: All that were asked for.
            what: What a sample is, in the plural, such as `"images"`.
            group: What they are a part of, as of `Measure`.

        Raises:
            ValueError: Not one is left; the message says why.
        """
        found = Evaluation(outputs=in_order(samples, predictions))
        lost = [sample["id"] for sample in glance(samples, "id") if sample["id"] not in predictions]
        if not lost:
            return samples, found
        reasons = some_reasons(gather_by_id(self._unreadable))
        found.left_out = LeftOut.of(what, lost, len(samples), reasons, group)
        if len(lost) == len(samples):
            raise ValueError(f"{self.config.data.eval_split}: {found.left_out[0]}")
        return only(samples, predictions), found

    def keep(self, files: Mapping[str, Content]) -> Mapping[str, Content]:
        """Puts the files of predictions where `measure` was told to, before they are scored, and gives them back."""
        if self._keep is not None:
            self._keep(files)
        return files

    def measure(
        self,
        model: Any,
        samples: Any,
        processor: Any,
        fabric: Fabric,
        *,
        strict: bool = False,
        keep: Keep | None = None,
    ) -> Evaluation:
        """`evaluate` and `task.metrics`, without gradients, in the run's precision; random numbers go on as before.

        Args:
            model: As of `evaluate`, like the three that follow; in whatever mode, with or without Fabric's wrapper.
            samples: As there.
            processor: As there.
            fabric: As there.
            strict: Whether a sample without an image, or with one that cannot be read, is an error; else it is left
                out, counted and named.
            keep: Takes the files of predictions before they are scored, in each process.

        Raises:
            ValueError: As of `check`; or a sample cannot be read, and `strict` is set or it is one of all.
        """
        self.check(samples)
        absent = absent_from(samples)
        if absent and strict:
            raise ValueError(f"{absent[0]}; mend it, or measure the others, without strict")
        module = getattr(model, "module", model)
        was_training = module.training
        module.eval()
        self._strict, self._keep, self._unreadable = strict, keep, {}
        try:
            with torch.no_grad(), fabric.autocast(), torch.random.fork_rng():
                found = self.evaluate(module, samples, processor, fabric)
                found.extra += self._extra(found, samples)
                found.left_out += absent
        finally:
            self._strict, self._keep = False, None
        module.train(was_training)
        return found

    def show(self, model: Any, samples: Any, number: int) -> Shown:
        """What a report shows of a model at work: so many held-out samples, and how sure it is of what; or nothing.

        Args:
            model: Of `model_class` with its processor, in eval mode.
            samples: Of `read`.
            number: How many samples.
        """
        return Shown()

    def only(self, samples: Any, outputs: Mapping[Any, Any]) -> Any:
        """The samples that predictions are of, for the user's metrics."""
        return only(samples, outputs) if outputs else samples

    def _extra(self, found: Evaluation, samples: Any) -> list[Measure]:
        """The numbers of the user's metrics."""
        samples = self.only(samples, found.outputs) if self._metrics else samples
        return [
            Measure(f"{metric_name(path)}/{name}", float(value))
            for path, metric in self._metrics.items()
            for name, value in metric(found.outputs, samples).items()
        ]

    def summary(self, found: Evaluation) -> str:
        """`describe` and, below it, what was left out and what the metrics of `task.metrics` gave."""
        bare = [] if found.measures else ["nothing was measured: predictions only"]
        lines = [self.describe(found), *map(str, found.left_out), *bare, *map(str, found.extra)]
        return "\n".join(line for line in lines if line)


def metric_name(path: str) -> str:
    """What the measures of a metric of `task.metrics` begin with."""
    return path.replace(":", ".").rpartition(".")[2]


def check_monitor(task: Task[Any], preview: Evaluation | None) -> None:
    """Refuses a run whose best weights could not be kept, as far as that is known.

    Args:
        task: Of the run.
        preview: Of its held-out samples.

    Raises:
        ValueError: They will not have the measure; the message names those that they will have, and what is left out.
    """
    monitor = task.keeps_best_by
    if monitor is None or preview is None or monitor.partition("/")[0] in map(metric_name, task.settings.metrics):
        return
    if monitor not in preview or preview[monitor] == -1:
        reasons = "".join(f" ({each})" for each in preview.left_out)
        raise ValueError(
            f"task.monitor: the held-out samples ({task.config.data.eval_split}) will have no measure {monitor!r} to "
            f"keep the best by, only {preview.names()}{reasons}; set {WAYS_OUT}"
        )


def make_task(
    config: TrainConfig, task: type[Task[Any]] | Task[Any] | None = None, samples: Samples | None = None
) -> Task[Any]:
    """The task of a run.

    Args:
        config: Its `task.name` names the task.
        task: A class in place of that one, or the task itself.
        samples: By split, or a function of the split, in place of the data set's files.

    Raises:
        ValueError: There is no such task, or the settings are of another one.
    """
    kind = resolve(config.task.name, "fiber.tasks") if task is None else task
    made: Task[Any] = kind if isinstance(kind, Task) else kind(config)
    if config.task.name == MISSING:
        config.task.name = name_of(type(made), "fiber.tasks")
    if samples is not None:
        made.given = samples
    return made


Library = TypeVar("Library")


def fill_in(settings: Library, where: str, **known: Any) -> Library:
    """A library's dataclass of settings with what only the run knows.

    Args:
        settings: As the configuration has them.
        where: Their place in it, such as `"task.model"`.
        **known: Fields and their values.

    Raises:
        ValueError: The configuration sets one of the fields too, to another value.
    """
    defaults = {item.name: item.default for item in fields(settings)}  # type: ignore[arg-type]
    for name, value in known.items():
        if (own := getattr(settings, name)) not in (defaults[name], value):
            raise ValueError(f"{where}.{name} is {own!r}, but the run decides it, {value!r}; leave it out")
    return replace(settings, **known)  # type: ignore[type-var]
