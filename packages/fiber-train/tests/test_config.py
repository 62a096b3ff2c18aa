"""Recipes and overrides: what is right is read, what is wrong is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from fiber_train.config import load_config, to_yaml
from fiber_train.recipe_files import find_recipes

GIVEN = ["data.root=d", "out=o"]


@pytest.mark.parametrize(
    "name", sorted(name for name, paths in find_recipes().items() if all("fiber_train" in path.parts for path in paths))
)
def test_every_recipe_loads_and_survives_a_round_trip(name: str, tmp_path: Path) -> None:
    config = load_config(name, GIVEN)
    (tmp_path / "again.yaml").write_text(to_yaml(config))
    assert load_config(tmp_path / "again.yaml") == config


def test_the_coarse_recipe_is_the_published_one() -> None:
    config = load_config("coarse", GIVEN)
    assert (config.trainer.max_steps, config.trainer.batch_size, config.data.max_length) == (100_000, 4096, 40)
    assert (config.optim.learning_rate, config.optim.weight_decay, config.optim.warmup) == (1e-5, 0.01, 0.1)
    assert (config.optim.cross_modal_multiplier, config.optim.head_multiplier, tuple(config.optim.betas)) == (
        5,
        5,
        (0.9, 0.98),
    )
    assert config.data.augment is False


def test_later_overrides_win_and_types_are_converted(tmp_path: Path) -> None:
    config = load_config(
        "coarse", [*GIVEN, "trainer.devices=2", "trainer.devices=4", "optim.max_norm=1", "data.augment=true"]
    )
    assert (config.trainer.devices, config.optim.max_norm, config.data.augment) == (4, 1.0, True)
    (tmp_path / "mine.yaml").write_text("data:\n  root: d\nout: o\nmodel:\n  overrides:\n    depths: [2, 2, 2]\n")
    assert load_config(tmp_path / "mine.yaml").model.overrides == {"depths": [2, 2, 2]}


@pytest.mark.parametrize(("override", "message"), [
    ("trainer.max_step=5", r"no setting is called 'trainer.max_step'; did you mean 'trainer.max_steps'\?"),
    ("optim.lr=1e-3", "no setting is called 'optim.lr'"),
    ("learning_rate=1e-3", r"no setting is called 'learning_rate'; did you mean 'optim.learning_rate'\?"),
    ("trainr.devices=2", r"no setting is called 'trainr'; did you mean 'trainer'\?"),
    ("trainer=5", r"trainer is a group of settings, not one; write trainer.NAME="),
    ("trainer.max_steps=many", "trainer.max_steps: .*many.*"),
    ("optim.schedule=steps", "optim.schedule must be 'linear', 'cosine', 'step', 'constant' or 'plateau', is 'steps'"),
    ("trainer.batch_size=4095", r"trainer.batch_size \(4095\) must be a multiple of .*\(64 x 2 x 1\)"),
    ("trainer.log_every=0", "trainer.log_every must be at least 1, is 0"),
    ("model.text_weights=null", "model.image_weights and model.text_weights go together"),
    ("devices", "overrides are written key=value"),
])  # fmt: skip
def test_what_is_wrong_is_named(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_config("coarse", [*GIVEN, "trainer.devices=2", "trainer.accumulate=64", override])


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.root is not set; give it as data.root="):
        load_config("coarse", ["out=o"])
    with pytest.raises(
        FileNotFoundError, match=r"corse: no such recipe or file; the recipes are caption_cider, .*coarse, .*vqa"
    ):
        load_config("corse")
    (tmp_path / "bad.yaml").write_text("optim:\n  learning_rat: 1\n")
    with pytest.raises(ValueError, match=r"bad.yaml: no setting is called 'optim.learning_rat'; did you mean"):
        load_config(tmp_path / "bad.yaml", GIVEN)
