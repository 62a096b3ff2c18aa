"""The recipes are the original's, and say where not."""

from __future__ import annotations

import pytest
from fiber_train.recipe_files import find_recipes

from .recipe_page import PAGE, ours, read_original, write_page

NOT_THE_ORIGINAL_S = {"quickstart", "quickstart_fine", "small", "gpu_12gb", "gpu_24gb", "vqa_genome"}
NOT_THE_ORIGINAL_S |= {"own_captions", "own_vqa", "own_detect", "own_large"}


def test_the_page_is_what_the_recipes_give() -> None:
    if not PAGE.is_file():
        pytest.fail(f"{PAGE}: no such file; nox -s recipes")
    assert PAGE.read_text(encoding="utf-8") == write_page(), "write it anew: nox -s recipes"


@pytest.mark.parametrize("recipe", read_original())
def test_what_differs_has_a_reason_and_nothing_else_has(recipe: str) -> None:
    entry = read_original()[recipe]
    mine = ours(entry)
    differ = {key for key, value in entry["settings"].items() if mine[key] != value}
    assert differ == {key for key, reason in entry.get("why", {}).items() if reason}


def test_every_recipe_stands_beside_the_original() -> None:
    known = {layer for entry in read_original().values() for layer in entry["layers"]}
    own = {name for name, paths in find_recipes().items() if any("fiber_train" in path.parts for path in paths)}
    assert known | NOT_THE_ORIGINAL_S == own
