"""`python -m fiber_scenes fine` prints the folder of a model, for `--checkpoint`."""

from __future__ import annotations

import argparse
import sys

from fiber_scenes import STAGES, model_folder

parser = argparse.ArgumentParser(prog="python -m fiber_scenes", description="Print the folder of a model.")
parser.add_argument("stage", choices=STAGES)
sys.stdout.write(f"{model_folder(parser.parse_args().stage)}\n")
