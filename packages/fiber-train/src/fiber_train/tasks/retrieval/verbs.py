"""`fiber retrieve`, `fiber index`, `fiber embed`, `fiber classify`."""

from __future__ import annotations

import shlex
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fiber_train.asking import IMAGES_HELP, add_batch_size, add_images, add_inputs, ask
from fiber_train.listing import Found, add_listing, listing
from fiber_train.options import add_checkpoint, check_option, load_checkpoint
from fiber_train.outputs import claim_file

if TYPE_CHECKING:
    from fiber_heads import Match, SearchModel, TextMatch

    from fiber_train.inputs import InputImage

BATCH_SIZE = 32  # of what is encoded alone


def retrieve(parser: ArgumentParser) -> Callable[[Namespace], int]:
    """Rank images by a text, or texts by how well they fit an image."""
    add_checkpoint(parser)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--images", nargs="+", metavar="image", help=IMAGES_HELP)
    where.add_argument("--index", type=Path, help="folder that fiber index has written")
    asked = parser.add_mutually_exclusive_group()
    asked.add_argument(
        "--query", help="what to look for; without it, each line of standard input is a query (with --index)"
    )
    asked.add_argument(
        "--texts", type=Path, help="file of texts, one to a line: rank them for each image (with --images)"
    )
    parser.add_argument("--top", type=int, default=5, help="how many to print (%(default)s)")
    parser.add_argument("--rerank", type=int, default=0, help="re-rank so many of the best, with the matcher")
    add_batch_size(parser, BATCH_SIZE)
    add_listing(parser)
    return _retrieve


def _retrieve(options: Namespace) -> int:
    from fiber_train.inputs import find_inputs
    from fiber_train.tasks.retrieval.folder import retrieve as search
    from fiber_train.tasks.retrieval.image_index import ImageIndex

    check_option("--top", options.top, least=1)
    check_option("--rerank", options.rerank, least=0)
    if options.texts:
        return _retrieve_texts(options)
    if options.out:
        claim_file(options.out, "--out")
    queries: Iterable[str] = [options.query]
    if options.index is None:
        if options.query is None:
            raise ValueError(
                "--query: say what to look for, or give --texts; several queries are for an index (fiber index)"
            )
        names, model = find_inputs(options.images), _load(options)
        find = partial(search, model, names)
    else:
        find = partial(ImageIndex.load(options.index).search, _load(options))
        if options.query is None:
            queries = (line.strip() for line in sys.stdin if line.strip())
    with listing(options, several=options.query is None) as written:
        for query in queries:
            found = find(query, top=options.top, rerank=options.rerank, batch_size=options.batch_size)
            written.add(_ranked(query, found))
    return 0


def _retrieve_texts(options: Namespace) -> int:
    from fiber_heads.matches import best_texts
    from fiber_heads.ranking import rerank_candidates
    from fiber_heads.search import SearchModel

    if options.index:
        raise ValueError("--texts needs --images: an index is searched by texts")
    texts = _lines(options.texts)
    features: Any = None

    def find(model: Any, batch: list[InputImage]) -> list[Found]:
        nonlocal features
        features = model.encode_texts(texts) if features is None else features
        images = model.begin_images([image.pixels for image in batch], batch_size=len(batch))
        scores = model.image_features(images) @ features.T
        if options.rerank:
            wanted = rerank_candidates(scores, max(options.rerank, options.top), "images")
            scores = model.score_texts(images, **model.prepare(text=texts), wanted=wanted)
        ranks = (best_texts(texts, row, options.top) for row in scores)
        return [_ranked_texts(image.name, found) for image, found in zip(batch, ranks, strict=True)]

    return ask(options, SearchModel, find)


def _ranked_texts(image: str, matches: Sequence[TextMatch]) -> Found:
    rows = [{"rank": rank, "score": round(each.score, 5), "text": each.text} for rank, each in enumerate(matches, 1)]
    text = "\n".join(f"{row['rank']:>3}  {row['score']:7.3f}  {row['text']}" for row in rows)
    return Found({"image": image, "texts": rows}, [{"image": image} | row for row in rows], text)


def _lines(path: Path) -> list[str]:
    """The texts of a file.

    Raises:
        ValueError: It holds none.
    """
    found = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not found:
        raise ValueError(f"{path} holds no text; write one to a line")
    return found


def _load(options: Namespace) -> SearchModel:
    """The model of `--checkpoint`, once the options are in order."""
    from fiber_heads.search import SearchModel

    check_option("--batch-size", options.batch_size, least=1)
    return load_checkpoint(options, SearchModel)[0]


def _ranked(query: str, matches: Sequence[Match]) -> Found:
    rows = [
        {"rank": rank, "score": round(each.score, 5), "image": str(each.image)} for rank, each in enumerate(matches, 1)
    ]
    text = "\n".join(f"{row['rank']:>3}  {row['score']:7.3f}  {row['image']}" for row in rows)
    return Found({"query": query, "images": rows}, [{"query": query} | row for row in rows], text)


def index(parser: ArgumentParser) -> Callable[[Namespace], int]:
    """Encode images once, to be searched in milliseconds."""
    add_inputs(parser, BATCH_SIZE)
    parser.add_argument(
        "--out", type=Path, required=True, help="folder to write; of one that is there, only what changed is encoded"
    )
    return _index


def _index(options: Namespace) -> int:
    from fiber_train.inputs import find_inputs
    from fiber_train.tasks.retrieval.image_index import INDEX_FILE, ImageIndex, make_index

    old = ImageIndex.load(options.out) if (options.out / INDEX_FILE).is_file() else None
    names = find_inputs(options.images)
    made = make_index(_load(options), names, old, options.batch_size)
    made.save(options.out)
    words = ["fiber", "retrieve", "--index", str(options.out), "--checkpoint", str(options.checkpoint), "--query"]
    sys.stdout.write(f"{len(made.names):,} images in {options.out}; to search them:\n{shlex.join(words)} '...'\n")
    return 0


def embed(parser: ArgumentParser) -> Callable[[Namespace], int]:
    """Write the features of images or texts as a NumPy file."""
    add_inputs(parser, BATCH_SIZE, nargs="*")
    parser.add_argument("--texts", type=Path, help="file of texts, one to a line, in place of images")
    parser.add_argument(
        "--out", type=Path, required=True, help="such as features.npy: (N, D) float32; features.txt names the rows"
    )
    return _embed


def _embed(options: Namespace) -> int:
    import numpy as np

    from fiber_train.inputs import encode_inputs, find_inputs
    from fiber_train.writing import explained

    if bool(options.images) == bool(options.texts):
        raise ValueError("give images, or --texts FILE")
    if options.out.suffix != ".npy":
        raise ValueError(f"--out: {options.out} must end in .npy")
    listed = options.out.with_suffix(".txt")
    claim_file(options.out, "--out")
    claim_file(listed, "--out")
    if options.texts:
        names = _lines(options.texts)
        features = _load(options).encode_texts(names, batch_size=options.batch_size).float().cpu()
    else:
        inputs = find_inputs(options.images)
        names, features = encode_inputs(_load(options), inputs, options.batch_size)
    table = features.numpy()
    with explained(options.out):
        np.save(options.out, table)
        listed.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    sys.stdout.write(
        f"{table.shape[0]} features of {table.shape[1]} numbers in {options.out}, their names in {listed}\n"
    )
    return 0


def classify(parser: ArgumentParser) -> Callable[[Namespace], int]:
    """Say which of several classes an image is of, by their names alone."""
    add_images(parser, batch_size=32)
    parser.add_argument(
        "--classes",
        help="'cat, dog'; a file with a line for each; by default the names of the subfolders of the folder that is "
        "given, for which accuracy is told",
    )
    parser.add_argument(
        "--template",
        action="append",
        help="sentence with {} for the class ('a photo of a {}'); of several, features are averaged",
    )
    parser.add_argument("--top", type=int, default=1, help="classes of each image (%(default)s)")
    return _classify


def _classify(options: Namespace) -> int:
    from fiber_heads.search import SearchModel

    check_option("--top", options.top, least=1)
    classes, folder = _classes(options)
    templates = options.template or ["a photo of a {}"]
    if wrong := [each for each in templates if "{}" not in each]:
        raise ValueError(f"--template: {wrong[0]!r} has no {{}} for the name of a class")
    texts: Any = None
    right = counted = 0

    def find(model: Any, batch: list[InputImage]) -> list[Found]:
        nonlocal texts, right, counted
        from torch.nn.functional import normalize

        if texts is None:
            rows = model.encode_texts([each.replace("{}", name) for name in classes for each in templates])
            texts = normalize(rows.unflatten(0, (len(classes), len(templates))).mean(dim=1), dim=1)
        cosines = model.encode_images([image.pixels for image in batch], batch_size=len(batch)) @ texts.T
        chances = (cosines / model.contrastive_head.temperature).softmax(dim=1)
        found = []
        for image, row in zip(batch, chances, strict=True):
            best = row.topk(min(options.top, len(classes)))
            pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
            named = [{"class": classes[place], "probability": round(chance, 5)} for place, chance in pairs]
            if folder is not None:
                counted += 1
                right += Path(image.name).relative_to(folder).parts[0] == named[0]["class"]
            text = "\n".join(f"{each['probability']:6.3f}  {each['class']}" for each in named)
            found.append(
                Found({"image": image.name, "classes": named}, [{"image": image.name} | each for each in named], text)
            )
        return found

    def tell() -> None:
        if folder is not None:
            sys.stderr.write(
                f"accuracy {right / counted:.3f} of {counted} images in {len(classes)} classes "
                f"(chance {1 / len(classes):.3f})\n"
            )

    return ask(options, SearchModel, find, tell)


def _classes(options: Namespace) -> tuple[list[str], Path | None]:
    """Names, and the folder whose subfolders are called so."""
    if options.classes is None:
        folder = Path(options.images[0])
        names = sorted(each.name for each in folder.iterdir() if each.is_dir()) if folder.is_dir() else []
        if len(options.images) != 1 or not names:
            raise ValueError("--classes: name the classes, or give one folder with a subfolder for each")
        return names, folder
    path = Path(options.classes)
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else options.classes.split(",")
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise ValueError("--classes: there is no name")
    return names, None
