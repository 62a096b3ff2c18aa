"""The page: one image, a tab for each thing that some of the models can be asked, each model's answer in a card.

Nothing of one person's is kept where another can reach it: what a page remembers is in its session (`gr.State`), and
models are asked by one thread at a time. The browser is forbidden to fetch anything from elsewhere.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import Any, cast

import gradio as gr
from torch import Tensor

from fiber_train.demo import questions, shown
from fiber_train.demo.asked import AskedModel
from fiber_train.demo.folder import Folder
from fiber_train.demo.uploads import read_upload
from fiber_train.stopping import Stopped, say

_WAITING = 32  # questions in the queue, before people are asked to come back
_SESSIONS = 256  # whose found boxes are kept, the newest
_FORGOTTEN = (600, 3600)  # seconds: how often uploads are deleted, and how old those are
_OWN = "'self' data: blob:"
_POLICY = f"default-src {_OWN}; style-src {_OWN} 'unsafe-inline'; script-src {_OWN} 'unsafe-inline' 'unsafe-eval'"
ONE_AT_A_TIME: dict[str, Any] = {"concurrency_id": "models", "concurrency_limit": 1}
Load = Callable[[str | None], Tensor]


def build_page(models: Sequence[AskedModel], folder: Folder, max_pixels: int) -> gr.Blocks:
    """The page of some models.

    Args:
        models: Each is on the tabs of what it can be asked.
        folder: The images to begin with and to search.
        max_pixels: Most pixels of an image that is given.

    Raises:
        ValueError: There is nothing that any of them can be asked.
    """

    def load(path: str | None) -> Tensor:
        return read_upload(path, max_pixels)

    tabs = {
        "Boxes": ("ground", lambda own, image: _boxes(own, image, load)),
        "Answers": ("answer", lambda own, image: _answers(own, image, load)),
        "Captions": ("caption", lambda own, image: _captions(own, image, load)),
        "Search": ("search", lambda own, image: _search(own, image, load, folder)),
        "Two images": ("judge", lambda own, image: _judge(own, image, load, folder)),
    }
    suited = {name: ([each for each in models if each.can(way)], build) for name, (way, build) in tabs.items()}
    if not any(own for own, _ in suited.values()):
        raise ValueError("there is nothing on the page that these models can be asked")
    with gr.Blocks(title="FIBER demo", analytics_enabled=False, delete_cache=_FORGOTTEN) as page:
        gr.Markdown("# Ask FIBER\nOne image, many questions: each model looks at it once.")
        with gr.Row():
            with gr.Column(scale=2, min_width=260):
                first = folder.examples()
                image = _image_input(first[0], "image", 300, load)
                gr.Examples([[str(path)] for path in first], image, label="examples", cache_examples=False)
            with gr.Column(scale=5, min_width=300):
                for name, (own, build) in suited.items():
                    if own:
                        with gr.Tab(name):
                            build(own, image)
        with gr.Accordion("What the models know", open=False):
            for each in models:
                gr.Markdown(f"### {each.name}\n\n{each.about}")
    return page


def _image_input(path: Path, label: str, height: int, load: Load) -> gr.Image:
    """Where an image is uploaded, beginning with one; below it, why what was uploaded cannot be read."""

    def checked(given: str | None) -> str:
        if given:
            load(given)
        return ""

    image = gr.Image(
        str(path),
        type="filepath",
        sources=["upload"],
        label=label,
        buttons=[],
        height=height,
        elem_classes="fiber-image",
    )
    # the file as it came: Gradio would decode it whole, whatever its size, and say what is wrong with its path
    cast(Any, image).preprocess = lambda payload: payload and payload.path
    told = gr.HTML(elem_classes="fiber-told")
    image.change(_told(checked), image, told, show_progress="hidden", **ONE_AT_A_TIME)
    return image


def serve(page: gr.Blocks, host: str, port: int, max_upload: int) -> None:
    """Serves the page until it is interrupted; `max_upload` is in MB."""
    try:
        launch(page, host, port, max_upload)
        say(f"open http://{host}:{port}; Ctrl-C ends it")
        with suppress(Stopped):
            threading.Event().wait()
    finally:
        page.close(verbose=False)


def launch(page: gr.Blocks, host: str, port: int, max_upload: int) -> None:
    """Begins to serve the page, and returns."""
    page.queue(max_size=_WAITING, default_concurrency_limit=1)
    page.launch(
        prevent_thread_lock=True,
        server_name=host,
        server_port=port,
        share=False,
        quiet=True,
        ssr_mode=False,
        enable_monitoring=False,
        footer_links=[],
        max_file_size=f"{max_upload}mb",
        state_session_capacity=_SESSIONS,
        app_kwargs={"middleware": [(_OnlyOwn, (), {})], "docs_url": None, "redoc_url": None},
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        css=shown.STYLE,
    )


class _OnlyOwn:
    """ASGI middleware that tells the browser to fetch from this server only."""

    def __init__(self, app: Callable[..., Any]) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Callable[[Any], Any]) -> None:
        async def send_with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", _POLICY.encode())]
            await send(message)

        await self.app(scope, receive, send_with_policy)


def _told(function: Callable[..., Any], outputs: int = 1) -> Callable[..., Any]:
    """A function whose errors of input are shown on the page, in place of its first output."""

    @wraps(function)
    def shown_or_told(*given: Any) -> Any:
        try:
            return function(*given)
        except (ValueError, KeyError) as error:
            told = shown.error(str(error))
            return told if outputs == 1 else (told, *[gr.skip()] * (outputs - 1))

    return shown_or_told


def _boxes(models: Sequence[AskedModel], image: gr.Image, load: Load) -> None:
    found = gr.State([])
    with gr.Row(equal_height=True):
        text = gr.Textbox("a black triangle and a yellow square", label="text", scale=4, max_length=2000)
        kind = gr.Dropdown(list(questions.BOXES), label="as", scale=2, min_width=230)
        button = gr.Button("Find", variant="primary", scale=1, min_width=90)
    threshold = gr.Slider(0.05, 0.95, 0.3, step=0.01, label="threshold of the score")
    result = gr.HTML(elem_id="boxes")

    def find(path: str | None, words: str, how: str, least: float) -> tuple[str, list[shown.Boxes]]:
        boxes = questions.find_boxes(models, load(path), words, how)
        return questions.boxes_html(boxes, least), boxes

    ask = [image, text, kind, threshold]
    for event in (button.click, text.submit):
        event(_told(find, 2), ask, [result, found], **ONE_AT_A_TIME)
    # no model: what was found is in the session
    threshold.change(questions.boxes_html, [found, threshold], result, show_progress="hidden")
    _looks(models, image, load, text, "Where does a word look?")


def _answers(models: Sequence[AskedModel], image: gr.Image, load: Load) -> None:
    with gr.Row(equal_height=True):
        text = gr.Textbox("how many shapes are there?", label="question", scale=5, max_length=2000)
        button = gr.Button("Ask", variant="primary", scale=1, min_width=90)
    result = gr.HTML(elem_id="answers")
    why = gr.Radio([], label="Why this answer?", visible=False, elem_id="why")
    reasons = gr.HTML(elem_id="reasons")

    def ask(path: str | None, question: str) -> tuple[Any, ...]:
        html, named = questions.answers(models, load(path), question)
        return html, gr.Radio(named, value=None, visible=True), ""

    def reason(path: str | None, question: str, answer: str | None) -> str:
        if answer is None:
            return ""
        return questions.looks(models, load(path), question, None, answer)

    for event in (button.click, text.submit):
        event(_told(ask, 3), [image, text], [result, why, reasons], **ONE_AT_A_TIME)
    why.input(_told(reason), [image, text, why], reasons, **ONE_AT_A_TIME)


def _captions(models: Sequence[AskedModel], image: gr.Image, load: Load) -> None:
    with gr.Row(equal_height=True):
        number = gr.Slider(1, 10, 3, step=1, label="captions", scale=5)
        button = gr.Button("Describe", variant="primary", scale=1, min_width=90)
    result = gr.HTML(elem_id="captions")
    text = gr.Dropdown([], label="caption", visible=False, allow_custom_value=True)

    def describe(path: str | None, count: float) -> tuple[Any, ...]:
        html, written = questions.captions(models, load(path), int(count))
        return html, gr.Dropdown(written, value=written[0] if written else None, visible=True)

    button.click(_told(describe, 2), [image, number], [result, text], **ONE_AT_A_TIME)
    _looks(models, image, load, text, "Where did a word come from?")


def _search(models: Sequence[AskedModel], image: gr.Image, load: Load, folder: Folder) -> None:
    with gr.Row(equal_height=True):
        text = gr.Textbox("a large red circle", label="text", scale=5, max_length=2000)
        match = gr.Button("Match with the image", scale=2, min_width=120)
        search = gr.Button("Search", variant="primary", scale=1, min_width=90)
    result = gr.HTML(elem_id="search")

    def matched(path: str | None, words: str) -> str:
        return questions.match(models, load(path), words)

    def found(words: str) -> str:
        return questions.search(models, folder, words)

    match.click(_told(matched), [image, text], result, **ONE_AT_A_TIME)
    for event in (search.click, text.submit):
        event(_told(found), text, result, **ONE_AT_A_TIME)


def _judge(models: Sequence[AskedModel], image: gr.Image, load: Load, folder: Folder) -> None:
    examples = folder.examples()
    second = _image_input(examples[-1], "second image", 220, load)
    with gr.Row(equal_height=True):
        text = gr.Textbox("both images show a circle", label="statement", scale=5, max_length=2000)
        button = gr.Button("Judge", variant="primary", scale=1, min_width=90)
    result = gr.HTML(elem_id="judge")

    def judged(first: str | None, other: str | None, statement: str) -> str:
        return questions.judge(models, load(first), load(other), statement)

    for event in (button.click, text.submit):
        event(_told(judged), [image, second, text], result, **ONE_AT_A_TIME)


def _looks(models: Sequence[AskedModel], image: gr.Image, load: Load, text: Any, label: str) -> None:
    """Words of a text to choose from, and where the chosen one looks."""
    with gr.Accordion(label, open=True):
        word = gr.Radio(
            questions.words(text.value or ""), show_label=False, container=False, elem_classes="fiber-choice"
        )
        result = gr.HTML(elem_classes="fiber-look")

    def choices(words: str | None) -> tuple[Any, str]:
        return gr.Radio(questions.words(words or ""), value=None), ""

    def look(path: str | None, words: str, chosen: str | None) -> str:
        return questions.looks(models, load(path), words, chosen) if chosen else ""

    gr.on([text.change], choices, text, [word, result], show_progress="hidden")
    word.input(_told(look), [image, text, word], result, **ONE_AT_A_TIME)
