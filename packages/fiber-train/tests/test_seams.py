"""What strangers bring: tasks, data, metrics, optimizers, schedules, callbacks, loggers, verbs, recipes; and whom we trust."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from fiber_data import MappedSamples, read_captions
from fiber_train import Callback, load_config, load_model, make_task, train
from fiber_train.checkpoint import find_checkpoints
from fiber_train.cli import main
from fiber_train.evaluation import read_evaluation
from fiber_train.tasks.base import fill_in
from fiber_train.tracking import read_metrics
from lightning_fabric.loggers import Logger

from . import entailment
from .conftest import FEW, SMALL
from .entailment import Entailment, EntailmentConfig, EntailmentSettings, FiberForEntailment
from .test_run import asked_to_stop, assert_same

HERE = entailment.__name__
TASK = f"{HERE}:Entailment"


@pytest.fixture
def small_entailment(scenes: Path, tmp_path: Path):
    """`small_entailment("name", *overrides)` gives the configuration of a run of seconds."""

    def make(name: str = "run", *overrides: str) -> Any:
        given = [f"data.root={scenes}", f"out={tmp_path / name}", "model.preset=fiber_tiny", *SMALL, *overrides]
        return load_config([], given, task=Entailment)

    return make


def test_a_task_from_python_is_trained_resumed_and_loaded_again(small_entailment) -> None:
    straight, stopped = small_entailment("straight"), small_entailment("stopped")
    assert isinstance(straight.task, EntailmentSettings)
    results = train(straight, task=Entailment)
    assert results is not None
    assert results.counts == {"hypotheses": 30}
    with asked_to_stop(after=3):
        assert train(stopped, task=Entailment) is None
    assert train(stopped, task=Entailment) is not None
    assert_same(Path(straight.out), Path(stopped.out))
    model, processor = load_model(straight.out, kind=FiberForEntailment, trusted=[f"{HERE}:FiberForEntailment"])
    assert model.config == EntailmentConfig()
    assert processor.tokenizer is not None
    assert load_config(Path(straight.out) / "config.yaml") == straight, "the saved configuration names the task"


def test_a_task_by_its_path_from_the_shell(scenes: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "run"
    (tmp_path / "mine.yaml").write_text(f"task:\n  name: {TASK}\n  wrong_every: 3\nmodel:\n  preset: fiber_tiny\n")
    assert main(["train", str(tmp_path / "mine.yaml"), f"data.root={scenes}", f"out={out}", *SMALL]) == 0
    trained, _, lines = capsys.readouterr().out.partition("\n\nnext:\n")
    assert "30 hypotheses\naccuracy       0." in trained
    assert "(chance 0.500)" in trained

    words = ["evaluate", "--checkpoint", str(out), "--data", str(scenes), "data.num_workers=0"]
    assert main(words) == 1
    assert f"names '{HERE}:FiberForEntailment', which to load would run" in capsys.readouterr().err
    trust = ["--trust", f"{HERE}:FiberForEntailment"]
    assert main([*words, *trust]) == 1, "the task is a path too"
    assert f"'{TASK}'" in capsys.readouterr().err
    assert main([*words, *trust, "--trust", TASK]) == 0
    assert main([*words, f"task.name={TASK}", *trust]) == 0
    told = next(line for line in lines.splitlines() if line.startswith("  fiber evaluate "))
    assert main([*shlex.split(told)[1:], "data.num_workers=0"]) == 0, "what is said to be next works"
    assert capsys.readouterr().out == f"{trained}\n" * 3, "with the settings of the run"


def test_a_metric_in_a_downloaded_folder_is_refused(small_entailment, scenes: Path, capsys) -> None:
    config = small_entailment("run", f"task.metrics=[{HERE}:share_of_yes]", "trainer.max_steps=1")
    results = train(config)
    assert results is not None
    assert results["share_of_yes/yes"] == read_evaluation(config.out)["share_of_yes/yes"]
    assert make_task(config).summary(results).splitlines()[-1].startswith("share_of_yes/yes")
    words = ["evaluate", "--checkpoint", config.out, "--data", str(scenes), "data.num_workers=0"]
    words += ["--trust", f"{HERE}:FiberForEntailment", "--trust", TASK]
    assert main(words) == 1
    assert f"names '{HERE}:share_of_yes', which to load would run" in capsys.readouterr().err
    assert main([*words, "--trust", f"{HERE}:share_of_yes"]) == 0


def test_weights_of_a_stranger_are_started_from_when_they_are_trusted(small_entailment, scenes: Path, tmp_path) -> None:
    first = small_entailment("first", "trainer.max_steps=1")
    train(first)
    given = [f"data.root={scenes}", f"model.checkpoint={first.out}", f"out={tmp_path / 'b'}", *SMALL, "optim.warmup=1"]
    given.append("trainer.max_steps=1")
    with pytest.raises(ValueError, match="which to load would run"):
        train(load_config("quickstart", given))
    assert train(load_config("quickstart", [*given, f"model.trusted=['{HERE}:FiberForEntailment']"])) is not None
    assert train(small_entailment("c", f"model.checkpoint={first.out}", f"model.trusted=['{HERE}:FiberForEntailment']"))


def test_a_start_from_other_weights_says_what_was_taken(coarse: Path, scenes: Path, tmp_path: Path, capsys) -> None:
    given = [f"data.root={scenes}", f"model.checkpoint={coarse}", *FEW, f"out={tmp_path}", "trainer.max_steps=1"]
    train(load_config(["nlvr2", "small"], given))
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("weights to start from")]
    assert "tensors taken (0 resized)" in line
    assert "parameters fresh" in line


def test_settings_of_another_task_are_refused(small_run) -> None:
    with pytest.raises(ValueError, match=r"Entailment needs settings of EntailmentSettings, config.task is a Pretrain"):
        train(small_run(), task=Entailment)
    with pytest.raises(ValueError, match=r"no setting is called 'task.wrong_evry'; did you mean 'task.wrong_every'"):
        load_config([], ["data.root=d", "out=o", "task.wrong_evry=1"], task=Entailment)
    with pytest.raises(ValueError, match="is no task; it needs settings_class"):
        load_config([], ["data.root=d", "out=o", f"task.name={HERE}:FiberForEntailment"])


def test_what_the_run_decides_is_not_set_twice() -> None:
    config = load_config("coco", ["data.root=d", "out=o", "task.model.channels=64"]).task
    assert fill_in(config.model, "task.model", max_tokens=40).channels == 64
    with pytest.raises(ValueError, match=r"task.model.channels is 64, but the run decides it, 32; leave it out"):
        fill_in(config.model, "task.model", channels=32)


def test_settings_of_libraries_reach_them(scenes: Path) -> None:
    given = ["data.root=d", "out=o"]
    captioning = load_config("caption_mle", [*given, "task.model.generation.length_penalty=0.5"]).task
    assert captioning.model.generation.length_penalty == 0.5
    assert load_config("coarse", [*given, "task.model.itc_pooler=false"]).task.model.itc_pooler is False
    assert load_config("coco", [*given, "task.prompts.drop_positives=0.1"]).task.prompts.drop_positives == 0.1


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        (["optim.optimizer=torch.optim.SGD", "optim.options={momentum: 0.9, nesterov: true}"], torch.optim.SGD),
        (["optim.optimizer=torch.optim:RMSprop", "optim.options.alpha=0.9"], torch.optim.RMSprop),
    ],
)
def test_an_optimizer_by_its_path_resumes_exactly(small_run, options: list[str], kind: type) -> None:
    options = [
        *options,
        f"optim.schedule={HERE}:tripled",
        "optim.schedule_options.factor=2",
        "optim.learning_rate=0.01",
    ]
    straight, stopped = small_run("straight", *options), small_run("stopped", *options)
    seen = Steps()
    train(straight, callbacks=[seen])
    assert type(seen.loop.optimizer.optimizer) is kind
    with asked_to_stop(after=3):
        assert train(stopped) is None
    assert train(stopped) is not None
    assert_same(Path(straight.out), Path(stopped.out))
    rates = [value for _, name, value in read_metrics(straight.out) if name == "learning_rate/base"]
    assert rates == pytest.approx([0.005, 0.01, 0.02, 0.02, 0.02, 0.02]), "warm-up of two steps, then doubled"


def test_a_scheduler_of_torch_by_its_path(small_run) -> None:
    options = ["optim.schedule=torch.optim.lr_scheduler.StepLR", "optim.schedule_options={step_size: 2, gamma: 0.1}"]
    config = small_run("run", *options)
    train(config)
    rates = [value for _, name, value in read_metrics(config.out) if name == "learning_rate/base"]
    assert rates == pytest.approx([1e-3, 1e-4, 1e-4, 1e-5, 1e-5, 1e-6])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["optim.optimizer=torch.optim.SDG"], "'torch.optim.SDG' cannot be imported"),
        (["optim.optimizer=torch.optim.SGD", "optim.options.momentun=1"], r"optim.options do not fit torch.optim.SGD: .*momentun"),
        (["optim.schedule=torch.optim.lr_scheduler.StepLR"], "optim.schedule_options do not fit .*StepLR: .*step_size"),
        (["optim.schedule=nowhere.at:all"], "'nowhere.at:all' cannot be imported"),
        (["data.format=nowhere"], "fiber.formats has no 'nowhere'"),
        (["data.format_options.suffix=.txt"], "data.format_options are those of data.format, which is not set"),
        (["optim.schedule_options.factor=2"], "optim.schedule_options are for a schedule of yours, 'cosine' takes none"),
        ([f"task.metrics=[{HERE}:nothing]"], "entailment:nothing' cannot be imported"),
        (["data.max_length=65"], "texts may have 65 tokens but the model reads 64; set data.max_length=64"),
        (["model.overrides.x={a: 1} b=2"], "the command line is not YAML: "),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_sentence(small_run, options: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train(small_run("run", *options))


class Steps(Callback):
    """Remembers what a run tells."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Any]] = []
        self.loop: Any = None

    def on_train_start(self, *, loop: Any, model: Any) -> None:
        self.loop = loop
        self.told.append(("start", loop.step))
        assert type(model).__name__ == "FiberForPretraining"

    def on_step_end(self, *, step: int, values: Any, ids: list[Any], **_: Any) -> None:
        self.told.append(("step", step))
        assert {"loss", "itc_loss"} <= values.keys()
        assert len(ids) == 8
        torch.rand(3)  # does not change the run

    def on_evaluation_end(self, *, step: int, evaluation: Any) -> None:
        self.told.append(("evaluation", (step, evaluation["mean_recall"])))

    def on_checkpoint(self, *, folder: Path, step: int) -> None:
        self.told.append(("checkpoint", step))
        assert (folder / "task.yaml").is_file()

    def on_train_end(self, *, step: int, evaluation: Any) -> None:
        self.told.append(("end", None if evaluation is None else step))


class Remembering(Logger):
    """Keeps what it gets."""

    def __init__(self) -> None:
        self.numbers: list[tuple[int, str, float]] = []

    name = "memory"  # type: ignore[assignment]
    version = 0  # type: ignore[assignment]

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self.numbers += [(step or 0, name, value) for name, value in metrics.items()]

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Not kept."""


def test_callbacks_and_loggers_hear_everything_and_change_nothing(small_run) -> None:
    quiet, heard = small_run("quiet", "trainer.eval_every=4"), small_run("heard", "trainer.eval_every=4")
    steps, logger = Steps(), Remembering()
    train(quiet)
    results = train(heard, callbacks=[steps, object()], loggers=[logger])
    assert_same(Path(quiet.out), Path(heard.out))
    assert [step for what, step in steps.told if what == "step"] == [1, 2, 3, 4, 5, 6]
    assert [step for what, step in steps.told if what == "checkpoint"] == [2, 4, 6]
    assert [step for what, (step, _) in (each for each in steps.told if each[0] == "evaluation")] == [4, 6]
    assert (steps.told[0], steps.told[-1]) == (("start", 0), ("end", 6))
    assert dict(steps.told)["evaluation"] == (6, results["mean_recall"])
    assert logger.numbers == read_metrics(heard.out)
    with asked_to_stop(after=3):
        other = Steps()
        train(small_run("stopped"), callbacks=[other])
    assert other.told[-1] == ("end", None)


def test_data_in_a_format_of_ones_own_and_from_python(small_run, scenes: Path, tmp_path: Path) -> None:
    samples = {split: read_captions(scenes, split) for split in ("train", "val")}
    for split, own in samples.items():
        lines = [f"{sample['image']}|{sample['captions'][0]}\n" for sample in own]
        (tmp_path / f"{split}.lines").write_text("".join(lines))
    options = [f"data.root={tmp_path}", f"data.format={HERE}:read_lines", "data.format_options.suffix=.lines"]
    by_path = small_run("path", *options)
    first = train(by_path)
    assert first.counts == {"num_images": 30, "num_texts": 30}

    def given(split: str) -> Any:
        row = {"train": samples["train"], "val": samples["val"]}[split]
        return MappedSamples(row, lambda each: {**each, "captions": each["captions"][:1]})

    from_python = small_run("python", "data.root=unused")
    assert train(from_python, samples=given).numbers() == first.numbers()
    assert_same(Path(by_path.out), Path(from_python.out))
    again = small_run("mapping", "data.root=unused")
    assert train(again, samples={split: list(given(split)) for split in samples}).numbers() == first.numbers()
    named = small_run("named", "data.format=coco_captions", "trainer.max_steps=1")
    assert train(named).counts == {"num_images": 30, "num_texts": 150}


def test_boxes_from_python_are_measured_without_a_file(scenes: Path, coarse: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    from fiber_data import read_detection

    given = [f"data.root={scenes}", f"model.checkpoint={coarse}", *FEW, "trainer.max_steps=1", "trainer.eval_every=0"]
    given += ["task.model.channels=16", "task.detection.score_threshold=0"]
    numbers = []
    for name, samples in (("file", None), ("python", lambda split: replace(read_detection(scenes, split), path=None))):
        found = train(load_config(["coco", "small"], [*given, f"out={tmp_path / name}"]), samples=samples)
        numbers.append(found.numbers())
    assert numbers[0] == pytest.approx(numbers[1])


def test_a_metric_beside_a_tasks_own_keeps_the_best(coarse: Path, scenes: Path, tmp_path: Path) -> None:
    given = [f"data.root={scenes}", f"model.checkpoint={coarse}", *FEW, f"out={tmp_path}", "task.min_count=2"]
    given += [f"task.metrics=[{HERE}:share_of_yes]", "task.monitor=share_of_yes/yes"]
    results = train(load_config(["vqa", "small"], given))
    answers = json.loads((tmp_path / "best" / "predictions.json").read_text())
    share = sum(entry["answer"] == "yes" for entry in answers) / len(answers)
    assert read_evaluation(tmp_path / "best")["share_of_yes/yes"] == pytest.approx(share)
    assert "overall" in results
    assert "eval/share_of_yes/yes" in {name for _, name, _ in read_metrics(tmp_path)}
    config = load_config(["vqa", "small"], [*given, f"out={tmp_path / 'other'}", "task.monitor=share_of_no"])
    with pytest.raises(
        ValueError, match=r"task.monitor: the held-out samples \(val\) will have no measure 'share_of_no'"
    ):
        train(config)


@pytest.fixture
def distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed distribution with a task that brings recipes and a verb whose module cannot be imported."""
    package = tmp_path / "site" / "stranger"
    (package / "recipes").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "task.py").write_text(
        f"import importlib\nclass Odd(importlib.import_module({HERE!r}).Entailment):\n    pass\n"
    )
    (package / "recipes" / "odd.yaml").write_text(
        "task:\n  name: odd\n  wrong_every: 5\nmodel:\n  preset: fiber_tiny\n"
    )
    (package / "recipes" / "small.yaml").write_text("task:\n  wrong_every: 3\n")
    (package / "heavy.py").write_text(
        'raise RuntimeError("imported")\ndef judge(parser):\n    """Judge 100% of it."""\n'
    )
    info = tmp_path / "site" / "stranger-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\n")
    (package / "verbs.py").write_text(
        'def judge(parser):\n    """Judge."""\n    parser.add_argument("word")\n    return lambda options: len(options.word)\n'
    )
    verbs = "[fiber.verbs]\nheavy-judge = stranger.heavy:judge\ncount-letters = stranger.verbs:judge\n"
    (info / "entry_points.txt").write_text(f"[fiber.tasks]\nodd = stranger.task:Odd\n{verbs}")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return package


def test_a_task_of_a_distribution_brings_recipes(distribution: Path) -> None:
    config = load_config("odd", ["data.root=d", "out=o"])
    assert (config.task.name, config.task.wrong_every) == ("odd", 5)
    assert load_config(["odd", "small"], ["data.root=d", "out=o"]).task.wrong_every == 3, "its part of small"
    assert load_config(["coco", "small"], ["data.root=d", "out=o"]).task.shorter == [64]
    with pytest.raises(FileNotFoundError, match=r"the recipes are caption_cider, .*odd, .*vqa"):
        load_config("ods")
    (distribution / "recipes" / "vqa.yaml").write_text("task:\n  name: odd\n")
    with pytest.raises(ValueError, match=r"vqa is a recipe of several tasks: .*stranger"):
        load_config("vqa", ["data.root=d", "out=o"])


def test_verbs_are_listed_without_an_import_and_run(distribution: Path, capsys) -> None:
    for words in (["--help"], ["--help", "train"]):
        with pytest.raises(SystemExit, match="0"):
            main(words)
        listed = " ".join(capsys.readouterr().out.split())
        assert "heavy-judge judge 100% of it" in listed
        assert "refer find the one thing that an expression describes, and draw its box on request" in listed
    assert main(["count-letters", "four"]) == 4
    with pytest.raises(RuntimeError, match="imported"):
        main(["heavy-judge"])
    with pytest.raises(SystemExit, match="2"):
        main(["jugde"])
    assert "there is no verb 'jugde'; did you mean 'judge'?" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out.startswith("fiber 0.")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--help"], ""),
        (["train", "--help"], ""),
        (["detect", "--help"], ""),
        (["quickstart", "--help"], ""),
        (["trian"], "did you mean 'train'?"),
        (["detect", "--nosuch"], "the following arguments are required"),
        (["train", "nosuch"], "nosuch: no such recipe or file"),
        (["train", "vqa", "data.roott=d"], "no setting is called 'data.roott'; did you mean 'data.root'?"),
        (["train", "vqa", "task.min_cuont=1"], "no setting is called 'task.min_cuont'; did you mean 'task.min_count'?"),
        (["train", "caption_mle", "task.model.generaton={}"], "did you mean 'task.model.generation'?"),
        (["train", "coco", "task.prompts.shufle=true"], "did you mean 'task.prompts.shuffle'?"),
    ],
)
def test_help_and_misspellings_import_nothing_heavy(words: list[str], said: str) -> None:
    program = (
        "import sys\nfrom fiber_train.cli import main\ntry:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
    )
    program += "sys.exit(sorted({'torch', 'transformers', 'matplotlib', 'numpy'} & sys.modules.keys()).__repr__())"
    finished = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=False)
    assert finished.stderr.splitlines()[-1] == "[]"
    assert said in finished.stderr


def test_checkpoints_of_a_run_tell_their_task(small_run) -> None:
    config = small_run("run", "trainer.max_steps=2")
    train(config)
    for folder in (*find_checkpoints(config.out), Path(config.out) / "best", Path(config.out) / "model"):
        assert "name: pretraining" in (folder / "task.yaml").read_text()
