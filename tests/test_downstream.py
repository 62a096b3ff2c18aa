"""A stranger's distribution, `tests/downstream`, brings parts of every kind by public names only."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sysconfig
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

if find_spec("visual_entailment") is None:
    reason = "install tests/downstream beside the five packages, as nox -s together does"
    if os.environ.get("FIBER_REQUIRE_REFERENCE") == "1":
        pytest.fail(reason)
    pytest.skip(reason, allow_module_level=True)

from fiber_backbone import FiberBackbone, FiberConfig
from fiber_data.scenes import generate_scenes
from fiber_eval.cli import main as score
from fiber_heads import AutoFiber, FiberForCaptioning, FiberForPretraining
from fiber_train import load_config, load_model, train
from fiber_train.checkpoint import load_training_state
from fiber_train.cli import main
from PIL import Image
from visual_entailment.formats import map_captions
from visual_entailment.model import FiberForEntailment
from visual_entailment.streams import ConvolutionStream
from visual_entailment.task import Entailment
from visual_entailment.training import MemoryLogger, Steps

SMALL = """
task:
  name: entailment
data:
  train_split: train
  eval_split: dev
  num_workers: 0
model:
  preset: fiber_tiny
  overrides: {embed_dim: 8, image_num_heads: [1, 2, 4], hidden_size: 32, intermediate_size: 64, num_hidden_layers: 3,
              num_attention_heads: 2, hidden_dropout: 0.1, drop_path_rate: 0.1}
optim:
  learning_rate: 1.0e-3
  warmup: 1
trainer:
  max_steps: 4
  batch_size: 8
  log_every: 1
  checkpoint_every: 100
  tensorboard: false
  threads: 1
"""
OWN_TOWERS = [
    "model.overrides.image_stream=small_convolutions",
    "model.overrides.text_stream=word_mixer",
    "model.overrides.fusion=exchanged_means",
]
SPLITS = {"train": "train", "val": "dev"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn scenes; what is entailed is a caption of the image, what contradicts it one of another."""
    root = generate_scenes(tmp_path_factory.mktemp("data") / "scenes", {"train": 24, "val": 20}, progress=False)
    lines = []
    for folder, split in SPLITS.items():
        captions = captions_of(root, folder)
        for row, (image, own) in enumerate(captions):
            other = captions[(row + 1) % len(captions)][1]
            for label, hypothesis in (("entailment", own), ("contradiction", other), ("neutral", "it is Tuesday")):
                name = f"{split}-{row}-{label}"
                lines.append({"id": name, "image": image, "hypothesis": hypothesis, "label": label, "split": split})
        (root / f"{folder}.csv").write_text("".join(f"{image};{own}\n" for image, own in captions), encoding="utf-8")
    (root / "entailment.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
    return root


def captions_of(root: Path, folder: str) -> list[tuple[str, str]]:
    """The images of a split, named from the root, each with one of its captions."""
    annotations = json.loads((root / "annotations" / f"captions_{folder}.json").read_text(encoding="utf-8"))
    captions = {row["image_id"]: row["caption"] for row in annotations["annotations"]}
    return [(f"images/{folder}/{image['file_name']}", captions[image["id"]]) for image in annotations["images"]]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "my.yaml"
    path.write_text(SMALL, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def run(recipe: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the task, of four steps."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    assert main(["train", str(recipe), f"data.root={data}", f"out={out}"]) == 0
    return out


class Stop(Steps):
    """Asks the run to stop after its second step, as a cluster does."""

    def on_step_end(self, *, step: int, **told: Any) -> None:
        super().on_step_end(step=step, **told)
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_run_resumes_to_the_same_bits(run: Path, recipe: Path, data: Path, tmp_path: Path) -> None:
    words = [f"data.root={data}", f"out={tmp_path / 'run'}"]
    steps = Stop()
    assert train(load_config(recipe, words), callbacks=[steps]) is None
    assert len(steps.losses) == 2

    command = Path(sysconfig.get_path("scripts")) / "fiber"
    done = subprocess.run([command, "train", recipe, *words], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    for name in ("model/model.safetensors", "model/config.json", "evaluation.json"):
        assert (tmp_path / "run" / name).read_bytes() == (run / name).read_bytes(), name
    assert "accuracy" in done.stdout


def test_a_run_is_evaluated_and_its_predictions_scored(run: Path, data: Path, tmp_path: Path, capsys: Any) -> None:
    results, scores = tmp_path / "results.jsonl", tmp_path / "scores.json"
    words = ["--checkpoint", str(run), "--data", str(data), "--split", "dev", "--predictions", str(results)]
    assert main(["evaluate", *words, "data.num_workers=0"]) == 0
    reached = capsys.readouterr().out

    files = ["--annotations", str(data / "entailment.jsonl"), "--results", str(results), "--out", str(scores)]
    assert score(["entailment", *files, "split=dev"]) == 0

    assert f"{json.loads(scores.read_text())['accuracy']:.3f}" in reached


def test_fiber_eval_lists_the_metric(capsys: Any) -> None:
    assert score(["list"]) == 0
    listed = capsys.readouterr().out
    assert "entailment.jsonl, an object {id, image, hypothesis, label, split} a line" in listed
    assert "Visual Entailment, https://arxiv.org/abs/1901.06706" in listed


def test_a_run_is_loaded_again(run: Path, data: Path) -> None:
    model, _ = load_model(run, kind=FiberForEntailment)
    chances = model.judge(data / "images/val/000000.png", "a red square")
    assert list(chances) == ["entailment", "neutral", "contradiction"]
    assert sum(chances.values()) == pytest.approx(1)
    assert isinstance(AutoFiber.from_pretrained(run / "model"), FiberForEntailment)


def test_the_verb_is_a_verb_of_fiber(run: Path, data: Path, capsys: Any) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "say whether an image entails a hypothesis" in " ".join(capsys.readouterr().out.split())
    image = data / "images/val/000000.png"
    assert main(["entail", str(image), "a red square", "--checkpoint", str(run)]) == 0
    assert "contradiction" in capsys.readouterr().out


def test_the_recipe_comes_with_the_task(data: Path, tmp_path: Path) -> None:
    config = load_config("entailment", [f"data.root={data}", f"out={tmp_path}", "task.model.dropout=0.5"])
    assert config.task.model.dropout == 0.5
    with pytest.raises(ValueError, match=r"task\.model\.drop.*did you mean 'task\.model\.dropout'"):
        load_config("entailment", [f"data.root={data}", f"out={tmp_path}", "task.model.drop=0.5"])


def test_a_task_from_python_needs_no_entry_point(run: Path, recipe: Path, data: Path, tmp_path: Path) -> None:
    class Unheard(Entailment):
        """Not declared anywhere."""

    evaluation = train(
        load_config(recipe, [f"data.root={data}", f"out={tmp_path / 'run'}"], task=Unheard), task=Unheard
    )

    assert evaluation is not None
    assert 0 <= evaluation["accuracy"] <= 1
    for name in ("model/model.safetensors", "evaluation.json"):
        assert (tmp_path / "run" / name).read_bytes() == (run / name).read_bytes()


def captioning(recipe: Path, data: Path, out: Path, *more: str) -> Any:
    """A run of an existing task."""
    generation = ["task.model.generation.max_length=6", "task.model.generation.num_beams=1"]
    words = ["task.name=captioning", f"data.root={data}", f"out={out}", "trainer.max_steps=3"]
    return load_config(recipe, [*words, *generation, *more])


def test_an_existing_task_reads_a_format_and_counts_a_metric_of_ones_own(
    recipe: Path, data: Path, tmp_path: Path
) -> None:
    own = ["data.format=captions_table", "data.format_options.delimiter=;"]
    own += ["task.metrics=[visual_entailment.metrics:caption_length]", "data.eval_split=val"]
    evaluation = train(captioning(recipe, data, tmp_path / "run", *own))
    assert 0 <= evaluation["caption_length/words"] <= 6
    assert "CIDEr" in "".join(measure.name for measure in evaluation.measures)


class Rows:
    """As a `datasets.Dataset` with images: an image is decoded when its row is asked for, and never for a column."""

    def __init__(self, root: Path, folder: str) -> None:
        self.root, self.decoded = root, 0
        files, texts = zip(*captions_of(root, folder), strict=True)
        self.columns = {"id": list(range(len(files))), "image": files, "text": texts}

    def __len__(self) -> int:
        return len(self.columns["id"])

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            return self.columns[key]
        self.decoded += 1
        row = {name: values[key] for name, values in self.columns.items()}
        return row | {"image": Image.open(self.root / row["image"])}


def test_rows_optimizer_schedule_logger_and_callback_from_python(recipe: Path, data: Path, tmp_path: Path) -> None:
    rows = {"train": Rows(data, "train"), "dev": Rows(data, "val")}
    own = ["optim.optimizer=torch.optim.SGD", "optim.options.momentum=0.9", "optim.learning_rate=0.5"]
    own += ["optim.schedule=visual_entailment.training:inverse_square_root", "optim.schedule_options.flat=2"]
    steps, logger = Steps(), MemoryLogger()
    evaluation = train(
        captioning(recipe, data, tmp_path / "run", *own),
        samples={name: map_captions(each) for name, each in rows.items()},
        callbacks=[steps],
        loggers=[logger],
    )
    assert evaluation is not None
    assert rows["train"].decoded == 3 * 8, "only what was trained on"
    assert rows["dev"].decoded == 2 * 16, "two batches, the second one filled up"
    assert steps.evaluations[-1].to_json() == evaluation.to_json()
    assert [logger.numbers[step]["train/loss"] for step in (1, 2, 3)] == pytest.approx(steps.losses)
    state = load_training_state(tmp_path / "run/checkpoints/step-000003")
    assert {name for each in state["optimizer"]["state"].values() for name in each} == {"momentum_buffer"}
    assert state["optimizer"]["param_groups"][0]["lr"] == pytest.approx(0.5 * (2 / 3) ** 0.5)


def test_own_towers_and_fusion_pretrain_by_the_existing_task(recipe: Path, data: Path, tmp_path: Path) -> None:
    words = [f"data.root={data}", f"out={tmp_path / 'run'}", "task.name=pretraining", "trainer.max_steps=2"]
    words += ["model.overrides.image_settings.width=16", "data.eval_split=val"]
    assert main(["train", str(recipe), *words, *OWN_TOWERS]) == 0
    model, _ = load_model(tmp_path / "run", kind=FiberForPretraining)
    assert isinstance(model.backbone.image_stream, ConvolutionStream)
    for stream in (model.backbone.image_stream, model.backbone.text_stream):
        assert all(layer.project.weight.any() for layer in stream.cross_attention), "the fusion starts at zero"


def own_backbone(**settings: Any) -> FiberBackbone:
    parts = {"image_stream": "small_convolutions", "text_stream": "word_mixer", "fusion": "exchanged_means", **settings}
    return FiberBackbone.from_config(FiberConfig.from_preset("fiber_tiny", **parts)).eval()


def test_own_towers_and_fusion_are_saved_and_loaded(tmp_path: Path) -> None:
    backbone = own_backbone()
    backbone.save_pretrained(tmp_path)
    again = FiberBackbone.from_pretrained(tmp_path)
    pixels, ids = torch.randn(2, 3, 64, 64), torch.randint(5, 100, (2, 7))
    found, expected = again(pixels, ids), backbone(pixels, ids)
    assert torch.equal(found.pooled, expected.pooled)
    mask = torch.tensor([[1] * 7 + [0] * 3] * 2)
    padded = backbone(pixels, torch.cat([ids, torch.ones(2, 3, dtype=torch.int64)], dim=1), mask)
    torch.testing.assert_close(padded.pooled, expected.pooled)


def test_a_fusion_that_decodes_no_text_is_refused_by_captioning() -> None:
    with pytest.raises(ValueError, match="ExchangedMeans"):
        FiberForCaptioning(own_backbone(decoder_projections=True))


def test_an_import_path_in_a_folder_is_refused_until_it_is_repeated(
    run: Path, data: Path, tmp_path: Path, capsys: Any
) -> None:
    model, stream = "visual_entailment.model:FiberForEntailment", "visual_entailment.streams:ConvolutionStream"
    shutil.copytree(run / "model", tmp_path / "model")
    rename(tmp_path / "model", model_class=model)
    own_backbone().save_pretrained(tmp_path / "backbone")
    rename(tmp_path / "backbone", image_stream=stream)

    with pytest.raises(ValueError, match=f"names '{stream}'.*trust"):
        FiberBackbone.from_pretrained(tmp_path / "backbone")
    with pytest.raises(ValueError, match=f"names '{model}'.*trust"):
        load_model(tmp_path / "model", trusted=[stream])
    words = ["entail", str(data / "images/val/000000.png"), "a square", "--checkpoint", str(tmp_path / "model")]
    assert main(words) == 1
    assert f"--trust {model}" in capsys.readouterr().err

    assert main([*words, "--trust", model]) == 0
    loaded = FiberBackbone.from_pretrained(tmp_path / "backbone", trusted=[stream])
    assert isinstance(loaded.image_stream, ConvolutionStream)


def rename(folder: Path, **names: str) -> None:
    """Writes other names into a model's configuration."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert names.keys() <= config.keys()
    (folder / "config.json").write_text(json.dumps(config | names), encoding="utf-8")
