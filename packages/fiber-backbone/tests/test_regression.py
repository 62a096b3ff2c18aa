"""The numbers of today's code equal those that it made when they were last meant to change."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

FOLDER = Path(__file__).parent / "regression"
MAKE = runpy.run_path(str(FOLDER / "make.py"))


@pytest.mark.parametrize("name", MAKE["CONFIGS"])
def test_numbers_stay(name: str) -> None:
    expected = load_file(FOLDER / f"{name}.safetensors")
    found = MAKE["outputs"](MAKE["CONFIGS"][name])
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        tolerance = 2e-5 * value.abs().max().item()  # float32 of other library versions sums in another order
        torch.testing.assert_close(found[key].float(), value, rtol=0, atol=tolerance, msg=f"{name} {key}")
