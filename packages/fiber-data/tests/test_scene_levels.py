"""Every text of every level against the geometry of its scene, by a reader of its own, and the geometry against pixels."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from fiber_data.cli import main
from fiber_data.scenes import LEVELS, UNSEEN, Scene, SceneObject, audit_scenes, generate_scenes
from fiber_data.scenes.write import sample_scenes

SPLITS = {"train": 240, "val": 120, "unseen": 120}
NUMBERS = ("no", "one", "two", "three", "four", "five", "six")
COLORS = {"red", "green", "blue", "yellow", "purple", "black", "orange", "pink"}
TEXTURES = {"plain", "striped", "dotted", "checkered"}
SIZES = {"small": "small", "little": "small", "large": "large", "big": "large"}
SHAPES = {
    "circle": "circle",
    "circles": "circle",
    "disc": "circle",
    "square": "square",
    "squares": "square",
    "triangle": "triangle",
    "triangles": "triangle",
    "cross": "cross",
    "crosses": "cross",
    "plus_sign": "cross",
    "star": "star",
    "stars": "star",
    "diamond": "diamond",
    "diamonds": "diamond",
    "rhombus": "diamond",
    "heart": "heart",
    "hearts": "heart",
    "crescent": "crescent",
    "crescents": "crescent",
    "moon": "crescent",
}
RELATION = "to the left of|left of|to the right of|right of|above|over|below|under|in front of|partly covering|behind|partly covered by"  # fmt: skip


class Written(NamedTuple):
    level: str
    split: str
    folder: Path
    scenes: list[Scene]

    def read(self, name: str):
        return json.loads((self.folder / "annotations" / name.format(self.split)).read_text())

    def first_id(self) -> int:
        return 1 + sum(SPLITS[name] for name in list(SPLITS)[: list(SPLITS).index(self.split)])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def make(level: str) -> Path:
        if level not in made:
            splits = {name: count for name, count in SPLITS.items() if level != "easy" or name != UNSEEN}
            out = tmp_path_factory.mktemp(level) / "set"
            made[level] = generate_scenes(out, splits, seed=4, level=level, image_size=24, progress=False)
        return made[level]

    return make


@pytest.fixture(
    params=[(level, split) for level in LEVELS for split in SPLITS if level != "easy" or split != UNSEEN],
    ids=lambda pair: "-".join(pair),
)
def written(request: pytest.FixtureRequest, folders: Callable[[str], Path]) -> Written:
    level, split = request.param
    number = list(SPLITS).index(split)
    scenes = sample_scenes(LEVELS[level].of_split(split), SPLITS[split], seed=4, number=number)
    return Written(level, split, folders(level), scenes)


# A reader of the texts that knows words and geometry, and nothing of how texts are made.


def looks(words: str) -> dict[str, set[str]]:
    """Attributes that a noun phrase asks for; every word of it must be known."""
    wanted: dict[str, set[str]] = {}
    for word in words.replace("plus sign", "plus_sign").split():
        if word in SIZES:
            wanted["size"] = {SIZES[word]}
        elif word in SHAPES:
            wanted["shape"] = {SHAPES[word]}
        elif word not in ("thing", "things"):
            wanted["color" if word in COLORS else "texture"] = {word}
            assert word in COLORS | TEXTURES, f"{word!r} of {words!r}"
    return wanted


def fitting(scene: Scene, words: str) -> list[SceneObject]:
    """What a noun phrase fits, such as "large red thing" or "star that is not red"."""
    noun, _, lacking = words.partition(" that is not ")
    wanted, unwanted = looks(noun), {lacking} - {""}
    return [
        item
        for item in scene.objects
        if all(getattr(item, key) in values for key, values in wanted.items())
        and not {item.color, item.texture} & unwanted
    ]


def only(scene: Scene, words: str) -> SceneObject:
    found = fitting(scene, words)
    assert len(found) == 1, f"{words!r} fits {len(found)}"
    return found[0]


def stands(scene: Scene, one: SceneObject, words: str, other: SceneObject) -> bool:
    """Whether a relation holds at all, however slightly."""
    if words in ("in front of", "partly covering", "behind", "partly covered by"):
        front, back = (one, other) if words in ("in front of", "partly covering") else (other, one)
        later = scene.objects.index(front) > scene.objects.index(back)
        return later and (front != back) and bool((silhouette(front) & silhouette(back)).any())
    (x1, y1), (x2, y2) = (one.x, one.y), (other.x, other.y)
    word = {"over": "above", "under": "below"}.get(words, words.removeprefix("to the ").removesuffix(" of"))
    return {"left": x1 < x2, "right": x1 > x2, "above": y1 < y2, "below": y1 > y2}[word]


def silhouette(item: SceneObject, side: int = 100) -> np.ndarray:
    """Which points of a grid are within an object's outline: a ray to the right crosses it an odd number of times."""
    axis = (np.arange(side) + 0.5) / side
    x, y = axis[None, :, None], axis[:, None, None]
    (x1, y1), (x2, y2) = item.outline().T, np.roll(item.outline(), -1, axis=0).T
    spans = (y1 > y) != (y2 > y)
    return (spans & (x < x1 + (y - y1) * (x2 - x1) / np.where(y2 == y1, 1, y2 - y1))).sum(-1) % 2 == 1


def is_between(middle: SceneObject, one: SceneObject, other: SceneObject) -> bool:
    """Seen from what is between them, two things are in nearly opposite directions."""
    a, b = (np.array([end.x - middle.x, end.y - middle.y]) for end in (one, other))
    return bool(a @ b / np.linalg.norm(a) / np.linalg.norm(b) < -0.7)


def is_there(item: SceneObject, place: str, slack: float = 0.0) -> bool:
    sides = {
        "left": item.x < 0.4 + slack,
        "right": item.x > 0.6 - slack,
        "top": item.y < 0.4 + slack,
        "bottom": item.y > 0.6 - slack,
    }
    if place == "in the middle":
        return max(abs(item.x - 0.5), abs(item.y - 0.5)) <= 0.1 + slack
    return all(sides[word] for word in place.split()[2:])


def check_expression(scene: Scene, text: str, level: str) -> SceneObject:
    """The one object that an expression fits."""
    slack = 0.0 if level == "easy" else 0.03
    text = re.sub(r" of the (image|picture)$", "", text.removeprefix("the "))
    if related := re.fullmatch(rf"(.+?) that is ({RELATION}) the (.+)", text):
        noun, relation, landmark = related.groups()
        mark = only(scene, landmark)
        found = [i for i in fitting(scene, noun) if i != mark and stands(scene, i, relation, mark)]
    elif between := re.fullmatch(r"(.+) between the (.+) and the (.+)", text):
        ends = [only(scene, words) for words in between.groups()[1:]]
        found = [i for i in fitting(scene, between[1]) if i not in ends and is_between(i, *ends)]
    elif extreme := re.fullmatch(r"(leftmost|rightmost|topmost|lowest) (.+)", text):
        axis, sign = {"l": ("x", 1), "r": ("x", -1), "t": ("y", 1)}.get(extreme[1][0], ("y", -1))
        axis, sign = ("y", -1) if extreme[1] == "lowest" else (axis, sign)
        found = [min(fitting(scene, extreme[2]), key=lambda item: sign * getattr(item, axis))]
    elif place := re.fullmatch(r"(.+?) ((?:in|at|on) the .+)", text):
        found = [item for item in fitting(scene, place[1]) if is_there(item, place[2], slack)]
        assert all(is_there(item, place[2]) for item in found)
    else:
        found = fitting(scene, text)
    assert len(found) == 1, f"{text!r} fits {len(found)} of {scene}"
    return found[0]


def answer(scene: Scene, question: str) -> str:
    text = question.rstrip("?")
    yes_no = {True: "yes", False: "no"}
    if there := re.fullmatch(r"is there an? (.+)", text):
        return yes_no[bool(fitting(scene, there[1]))]
    if none := re.fullmatch(r"are there no (.+)", text):
        return yes_no[not fitting(scene, none[1])]
    if every := re.fullmatch(r"are all (.+) (\w+)", text):
        return yes_no[all(every[2] in (item.color, item.texture) for item in fitting(scene, every[1]))]
    if lacking := re.fullmatch(r"how many things are not (\w+)", text):
        return str(len(fitting(scene, f"thing that is not {lacking[1]}")))
    if many := re.fullmatch(r"how many (.+) are there", text):
        return str(len(fitting(scene, many[1])))
    if asked := re.fullmatch(r"what (colou?r|shape) is the (.+)", text):
        return getattr(only(scene, asked[2]), "shape" if asked[1] == "shape" else "color")
    if choice := re.fullmatch(r"is the (.+) (large or small|plain, striped, dotted or checkered)", text):
        return getattr(only(scene, choice[1]), "size" if choice[2] == "large or small" else "texture")
    if between := re.fullmatch(r"is the (.+) between the (.+) and the (.+)", text):
        return yes_no[is_between(*(only(scene, words) for words in between.groups()))]
    related = re.fullmatch(rf"is the (.+?) ({RELATION}) the (.+)", text)
    assert related, question
    return yes_no[stands(scene, only(scene, related[1]), related[2], only(scene, related[3]))]


def claim_holds(sentence: str, left: Scene, right: Scene) -> bool:
    text = sentence.rstrip(".").replace("picture", "image")

    def number(scene: Scene, words: str) -> int:
        return len(fitting(scene, re.sub(r"^an? ", "", words)))

    for pattern, holds in {
        r"both images show (.+)": lambda x: number(left, x) > 0 and number(right, x) > 0,
        r"only one of the images shows (.+)": lambda x: (number(left, x) > 0) + (number(right, x) > 0) == 1,
        r"neither image shows (.+)": lambda x: number(left, x) + number(right, x) == 0,
        r"the left image shows (an? .+) and the right one does not": lambda x: number(left, x) > 0 == number(right, x),
        r"the left image (?:holds|shows) more (.+) than the right one": lambda x: number(left, x) > number(right, x),
        r"the two images hold equally many (things)": lambda x: number(left, x) == number(right, x),
        r"each image shows at least two (.+)": lambda x: min(number(left, x), number(right, x)) >= 2,
    }.items():
        if match := re.fullmatch(pattern, text):
            return holds(match[1])
    together = re.fullmatch(r"there (?:is|are) exactly (\w+) (.+) in the two images together", text)
    assert together, sentence
    assert text.startswith("there is") == (together[1] == "one")
    return number(left, together[2]) + number(right, together[2]) == NUMBERS.index(together[1])


def check_tail(scene: Scene, words: str) -> None:
    """What a caption says beside its phrases and their relations: a place, or what is not there."""
    if lacking := re.fullmatch(r", but no (.+)", words):
        assert not fitting(scene, lacking[1])
    elif none := re.fullmatch(r", none of them (\w+)", words):
        assert all(none[1] not in (item.color, item.texture) for item in scene.objects)
    else:
        assert words in ("", " and ", ", ", "; also "), words


def check_caption(scene: Scene, text: str, spans: dict[tuple[int, int], list[SceneObject]]) -> None:
    assert sorted(map(id, (item for named in spans.values() for item in named))) == sorted(map(id, scene.objects))
    ordered = sorted(spans)
    for start, end in ordered:
        count, words = text[start:end].split(" ", 1)
        assert {id(item) for item in fitting(scene, words)} == {id(item) for item in spans[start, end]}, text
        assert len(spans[start, end]) == (1 if count in ("a", "an") else NUMBERS.index(count))
        assert count not in ("a", "an") or (count == "an") == (words[0] in "aeiou")
    intro = text[: ordered[0][0]]
    if counted := re.fullmatch(r"(\w+) (?:things?|shapes?): ", intro):
        assert NUMBERS.index(counted[1]) == len(scene.objects)
    else:
        assert intro in ("", "we see ", "there is ", "a picture of ", "an image of ")
    ends = [start for start, _ in ordered[1:]] + [len(text)]
    gaps = [text[span[1] : end] for span, end in zip(ordered, ends, strict=True)]
    first = spans[ordered[0]][0]
    for position, gap in enumerate(gaps):
        here = spans[ordered[position]][0]
        place = re.match(r" (in the (?:top|bottom) (?:left|right)|(?:at|on|in) the \w+)(?=,|;| and |$)", gap)
        if gap == " between ":
            assert is_between(here, *(spans[ordered[position + step]][0] for step in (1, 2)))
        elif relation := re.fullmatch(rf"(?: and)? ({RELATION}) ", gap):
            assert stands(scene, first, relation[1], spans[ordered[position + 1]][0]), text
        elif place:
            assert is_there(here, place[1])
            check_tail(scene, gap[place.end() :])
        else:
            check_tail(scene, gap)


def named_pairs(text: str) -> Iterator[tuple[str, str]]:
    """Every color or texture that a text says together with a shape, as there or as lacking."""
    shapes = "|".join(sorted(SHAPES, key=len, reverse=True))
    text = text.replace("plus sign", "plus_sign")
    for match in re.finditer(rf"((?:\w+ )*)\b({shapes})\b(?: that is not (\w+))?", text):
        adjectives = []
        for word in reversed(match[1].split()):
            if word not in COLORS | TEXTURES | set(SIZES):
                break
            adjectives.append(word)
        yield from ((word, SHAPES[match[2]]) for word in [*adjectives, match[3]] if word in COLORS | TEXTURES)
    if every := re.fullmatch(r"are all (\w+) (\w+)\?", text):
        yield every[2], SHAPES[every[1]]


def test_captions_are_true_and_their_phrases_fit_what_they_point_at(written: Written) -> None:
    content, captions = written.read("final_scenes_{}.json"), written.read("captions_{}.json")["annotations"]
    assert [entry["caption"] for entry in content["images"]] == [row["caption"] for row in captions]
    rows: dict[int, list[dict]] = {}
    for row in content["annotations"]:
        rows.setdefault(row["image_id"], []).append(row)
    said: Counter[str] = Counter()
    for entry, caption in zip(content["images"], captions, strict=True):
        assert entry["original_id"] == caption["image_id"]
        scene = written.scenes[entry["original_id"] - written.first_id()]
        spans: dict[tuple[int, int], list[SceneObject]] = {}
        for item, row in zip(scene.objects, rows[entry["id"]], strict=True):
            x1, y1, x2, y2 = (24 * value for value in item.box())
            assert row["bbox"] == pytest.approx([x1, y1, x2 - x1, y2 - y1], abs=0.01)
            for start, end in row["tokens_positive"]:
                spans.setdefault((start, end), []).append(item)
        check_caption(scene, entry["caption"], spans)
        said.update(word for word in ("between", "no", "none", "five", "front", "striped") if word in entry["caption"])
    if written.level != "easy":
        assert min(said[word] for word in ("between", "no", "none", "five", "striped")) > 10, said
        assert (said["front"] > 0) == (written.level == "hard")


def test_questions_have_the_answers_of_their_scenes(written: Written) -> None:
    questions = written.read("v2_OpenEnded_scenes_{}_questions.json")["questions"]
    kinds: Counter[tuple[str, str]] = Counter()
    for question, row in zip(questions, written.read("v2_scenes_{}_annotations.json")["annotations"], strict=True):
        scene = written.scenes[question["image_id"] - written.first_id()]
        assert row["multiple_choice_answer"] == answer(scene, question["question"]), question["question"]
        kinds[row["question_type"], row["multiple_choice_answer"]] += 1
        if written.split == UNSEEN and row["question_type"] in ("exist", "negation"):
            assert set(named_pairs(question["question"])) <= LEVELS[written.level].held_out
    for kind in {"exist", "relation"} | ({"negation", "between"} if written.level != "easy" else set()):
        assert min(kinds[kind, "yes"], kinds[kind, "no"]) > 10, kind
    if written.level != "easy" and written.split == "train":
        assert min(kinds["count", number] for number in "012345") >= 5, "counting goes to five"
    assert (kinds["front", "yes"] > 10) == (written.level == "hard")


def test_expressions_fit_the_object_of_their_box_alone(written: Written) -> None:
    forms: Counter[str] = Counter()
    for dialect in ("refcoco", "refcoco+", "refcocog"):
        content = written.read(f"finetune_{dialect}_{{}}.json")
        for entry, row in zip(content["images"], content["annotations"], strict=True):
            scene = written.scenes[entry["original_id"] - written.first_id()]
            item = check_expression(scene, entry["caption"], written.level)
            x1, y1, x2, y2 = (24 * value for value in item.box())
            assert row["bbox"] == pytest.approx([x1, y1, x2 - x1, y2 - y1], abs=0.01), entry["caption"]
            (span,) = row["tokens_positive"]
            assert item in fitting(scene, entry["caption"][slice(*span)].split(" in the ")[0].split(" at the ")[0].split(" on the ")[0].removeprefix("leftmost ").removeprefix("rightmost ").removeprefix("topmost ").removeprefix("lowest "))  # fmt: skip
            assert written.split != UNSEEN or held_out_looks(item, written.level)
            forms.update(words for words in (" not ", " between ", "covered by") if words in entry["caption"])
    assert (min(forms[" not "], forms[" between "]) > 5) == (written.level != "easy")


def test_sentences_are_true_of_one_pair_and_false_of_another(written: Written) -> None:
    """The images of a pair are files: they are known by their bytes."""
    images = {path.read_bytes(): int(path.stem) for path in (written.folder / "images" / written.split).iterdir()}
    pairs = written.folder / "nlvr2" / "images" / written.split
    lines = [json.loads(line) for line in (written.folder / "nlvr2" / f"{written.split}.json").read_text().splitlines()]
    for row in lines:
        files = [pairs / f"{row['identifier'].removesuffix('-0')}-img{side}.png" for side in (0, 1)]
        scenes = [written.scenes[images[file.read_bytes()]] for file in files]
        assert claim_holds(row["sentence"], *scenes) == (row["label"] == "True"), row["sentence"]
    assert Counter(row["label"] for row in lines)["True"] * 2 == len(lines)


def held_out_looks(item: SceneObject, level: str) -> bool:
    return bool({(item.color, item.shape), (item.texture, item.shape)} & LEVELS[level].held_out)


def test_training_neither_shows_nor_names_what_the_unseen_split_is_about(written: Written) -> None:
    held_out = LEVELS[written.level].held_out
    shown = [sum(held_out_looks(item, written.level) for item in scene.objects) for scene in written.scenes]
    assert set(shown) == ({1} if written.split == UNSEEN else {0})
    texts = [row["caption"] for row in written.read("captions_{}.json")["annotations"]]
    texts += [row["question"] for row in written.read("v2_OpenEnded_scenes_{}_questions.json")["questions"]]
    for dialect in ("refcoco", "refcoco+", "refcocog"):
        texts += [entry["caption"] for entry in written.read(f"finetune_{dialect}_{{}}.json")["images"]]
    lines = (written.folder / "nlvr2" / f"{written.split}.json").read_text().splitlines()
    texts += [json.loads(line)["sentence"] for line in lines]
    named = {pair for text in texts for pair in named_pairs(text)}
    assert len(named) > 15
    assert named & held_out == (held_out if written.split == UNSEEN else set())


@pytest.mark.parametrize("level", ["medium", "hard"])
def test_no_level_is_solved_blindly(folders: Callable[[str], Path], level: str) -> None:
    for split in ("val", UNSEEN):
        findings = audit_scenes(folders(level), measure=split)
        assert len(findings) >= 12
        assert not [finding for finding in findings if finding.leaks]


def test_the_command_and_what_it_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["scenes", "--out", str(tmp_path / "set"), "--train", "30", "--val", "20", "--image-size", "16"]
    assert main([*words, "--level", "hard"]) == 0
    assert "30 training and 20 validation scenes, and 20 of unseen combinations," in capsys.readouterr().out
    assert json.loads((tmp_path / "set" / "manifest.json").read_text())["level"] == "hard"
    assert main([*words, "--level", "harsh"]) == 1
    assert "expected a level of easy, medium, hard, not 'harsh'" in capsys.readouterr().err
    assert main([*words, "--unseen", "20"]) == 1
    assert "level 'easy' holds no combinations out, so it has no split 'unseen'" in capsys.readouterr().err
