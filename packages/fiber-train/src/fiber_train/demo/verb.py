"""`fiber demo`."""

from __future__ import annotations

import os
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from fiber_train.options import add_original, add_trust, check_option


def demo(parser: ArgumentParser) -> Callable[[Namespace], int]:
    """Open a local page on which models are asked about images, side by side."""
    what = "as of the other commands; can be given again, for models side by side"
    parser.add_argument("--checkpoint", type=Path, action="append", required=True, help=what)
    parser.add_argument(
        "--images", type=Path, metavar="FOLDER", help="images to begin with and to search; else generated scenes"
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen at; 0.0.0.0 lets others in (%(default)s)"
    )
    parser.add_argument("--port", type=int, default=7860, help="(%(default)s)")
    parser.add_argument("--max-upload", type=int, default=20, help="MB of an image that is uploaded (%(default)s)")
    parser.add_argument("--max-pixels", type=int, default=25, help="millions of pixels of an image (%(default)s)")
    add_original(parser)
    add_trust(parser)
    return _demo


def _demo(options: Namespace) -> int:
    for option, value in (("--max-upload", options.max_upload), ("--max-pixels", options.max_pixels)):
        check_option(option, value, least=1)
    check_option("--port", options.port, least=1, most=65535)
    if find_spec("gradio") is None:
        raise ValueError("fiber demo needs Gradio, which is not installed; pip install 'fiber-train[demo]'")
    # before Gradio is imported: nothing is reported, nothing is fetched
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}
    from fiber_train.demo.asked import load_asked
    from fiber_train.demo.folder import Folder
    from fiber_train.demo.page import build_page, serve

    with tempfile.TemporaryDirectory(prefix="fiber-demo-") as scratch:
        os.environ["GRADIO_TEMP_DIR"] = str(Path(scratch) / "uploads")
        folder = Folder.open(options.images, Path(scratch))
        given = {"trusted": options.trust, "tokenizer": options.tokenizer, "answers": options.answers}
        models = [load_asked(path, **given) for path in options.checkpoint]
        page = build_page(models, folder, options.max_pixels * 1_000_000)
        serve(page, options.host, options.port, options.max_upload)
    return 0
