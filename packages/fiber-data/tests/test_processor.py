"""What a user holds becomes what a model takes, and the settings travel with the model."""

import io
import json
import sys

import numpy as np
import pytest
import torch
from fiber_data import (
    BrokenImageError,
    CaptionDataset,
    FiberProcessor,
    Processor,
    build_evaluation_transform,
    load_processor,
)
from PIL import Image


@pytest.fixture
def processor(tokenizer):
    return FiberProcessor(tokenizer, image_size=24, max_length=12)


def test_path_pil_array_tensor_and_bytes_give_the_same_pixels(processor, samples):
    path = samples[0]["image"]
    image = Image.open(path)
    array = np.array(image)
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    sources = [path, str(path), path.read_bytes(), image, array, tensor, tensor / 255]
    first, *others = (processor(source)["pixel_values"] for source in sources)
    assert first.shape == (1, 3, 24, 24) and first.dtype == torch.float32 and type(first) is torch.Tensor
    assert all(torch.equal(first, other) for other in others)


def test_a_model_sees_the_pixels_and_tokens_that_it_was_trained_on(tokenizer, samples):
    item = CaptionDataset(samples, build_evaluation_transform(24))[0]
    batch = FiberProcessor(tokenizer, image_size=24, max_length=40)(samples[0]["image"], item["text"])
    assert torch.equal(batch["pixel_values"][0], item["pixel_values"])
    assert batch["input_ids"][0].tolist() == tokenizer(item["text"])["input_ids"]


def test_several_images_and_texts(processor, samples):
    paths = [sample["image"] for sample in samples[:3]]
    batch = processor(paths, ["a cat", "the red dog on a mat"])
    assert {key: tuple(value.shape) for key, value in batch.items()} == {
        "pixel_values": (3, 3, 24, 24),
        "input_ids": (2, batch["input_ids"].shape[1]),
        "attention_mask": (2, batch["input_ids"].shape[1]),
    }
    assert processor(text="a cat").keys() == {"input_ids", "attention_mask"}
    stack = np.zeros((2, 30, 20, 3), np.uint8)
    assert processor(stack)["pixel_values"].shape == (2, 3, 24, 24)
    assert processor(torch.from_numpy(stack).permute(0, 3, 1, 2))["pixel_values"].shape == (2, 3, 24, 24)


class Column:
    """As a column of `datasets`: rows are asked for one by one."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


def test_images_as_people_hold_them(processor, samples):
    path = samples[0]["image"]
    expected = processor(path)["pixel_values"]
    one = [path.open("rb"), io.BytesIO(path.read_bytes()), {"bytes": path.read_bytes(), "path": None}]
    for source in one:
        assert torch.equal(processor(source)["pixel_values"], expected)
    several = [path, Image.open(path), io.BytesIO(path.read_bytes()), {"bytes": None, "path": str(path)}]
    for sources in (several, tuple(several), Column(several), iter(several)):
        found = processor(sources)["pixel_values"]
        assert torch.equal(found, expected.expand(4, -1, -1, -1))
        several[2].seek(0)
    one[0].close()


def test_saved_and_loaded_it_is_the_same(tokenizer, samples, tmp_path):
    processor = FiberProcessor(tokenizer, 20, 10, mean=(0.4, 0.5, 0.6), std=(0.1, 0.2, 0.3))
    processor.save_pretrained(tmp_path / "deep" / "model")
    loaded = FiberProcessor.from_pretrained(tmp_path / "deep" / "model")
    assert (loaded.image_size, loaded.max_length, loaded.mean, loaded.std) == (20, 10, (0.4, 0.5, 0.6), (0.1, 0.2, 0.3))
    first, second = (each(samples[0]["image"], "a red cat") for each in (processor, loaded))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_pixels_are_normalized_with_the_processors_own_numbers(tokenizer):
    processor = FiberProcessor(tokenizer, 4, 10, mean=(0.5, 0.5, 0.2), std=(0.5, 0.25, 1.0))
    pixels = processor(Image.new("RGB", (10, 20), (255, 0, 51)))["pixel_values"]
    assert torch.allclose(pixels[0, :, 0, 0], torch.tensor([1.0, -2.0, 0.0]), atol=1e-6)


def test_a_folder_without_or_with_half_a_processor_is_named(processor, tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"preprocessor_config\.json: no such file; expected a folder written by"
    ):
        FiberProcessor.from_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_size": 24, "mean": [0, 0, 0]}))
    with pytest.raises(KeyError, match=r"preprocessor_config\.json: no max_length, std; expected a file written by"):
        FiberProcessor.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": "24"}, "expected image_size as a whole number of at least 2, found '24'"),
        ({"image_size": 1}, "expected image_size as a whole number of at least 2, found 1"),
        ({"max_length": True}, "expected max_length as a whole number of at least 3, found True"),
        ({"max_length": 2}, "expected max_length as a whole number of at least 3, found 2"),
        ({"mean": [0.5, 0.5]}, r"expected mean as three numbers from 0 to 1, found \[0\.5, 0\.5\]; divide"),
        ({"mean": [123.7, 116.3, 103.5]}, r"expected mean as three numbers from 0 to 1, found \[123.*by 255"),
        ({"mean": [0.5, float("nan"), 0.5]}, "expected mean as three numbers"),
        ({"std": [0.2, 0, 0.2]}, "expected std as three positive numbers"),
        ({"std": {"r": 1, "g": 1, "b": 1}}, "expected std as three positive numbers"),
        ({"processor_class": ["a"] * 900}, "expected processor_class as the name of a class, found"),
    ],
)
def test_a_setting_of_a_file_that_cannot_be_used_is_named_with_the_file(processor, tmp_path, change, message):
    processor.save_pretrained(tmp_path)
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(ValueError, match=rf"preprocessor_config\.json: {message}") as caught:
        load_processor(tmp_path)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not valid JSON"),
        (b"[]", "expected an object with settings, found list"),
        (b"[" * 100_000, "not valid JSON .nested too deeply"),
        ('{"a": "ü"}'.encode("latin-1"), "line 1: expected text in UTF-8"),
    ],
)
def test_a_file_of_settings_that_cannot_be_read_is_named(processor, tmp_path, content, message):
    processor.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_bytes(content)
    with pytest.raises(ValueError, match=rf"preprocessor_config\.json: {message}"):
        load_processor(tmp_path)


def test_settings_may_be_floats_and_follow_a_byte_order_mark(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    file = tmp_path / "preprocessor_config.json"
    file.write_text(file.read_text().replace('"image_size": 24,', '"image_size": 24.0,'), encoding="utf-8-sig")
    assert load_processor(tmp_path)(np.zeros((3, 5, 3), np.uint8))["pixel_values"].shape == (1, 3, 24, 24)


def test_what_cannot_be_prepared_is_refused(processor, tmp_path):
    with pytest.raises(ValueError, match="give images, text or both"):
        processor()
    with pytest.raises(ValueError, match="images is empty"):
        processor([])
    with pytest.raises(ValueError, match="text is empty"):
        processor(text=[])
    with pytest.raises(BrokenImageError, match=r"a\.jpg: no such file"):
        processor(tmp_path / "a.jpg")


class GrayProcessor(Processor):
    """A stranger's: the mean of each image in one number, times a setting of its own."""

    settings = ("gain", *Processor.settings)

    def __init__(self, tokenizer, gain, max_length=8, **channels):
        super().__init__(tokenizer, max_length, **channels)
        self.gain = gain

    def prepare_images(self, images):
        return {"pixel_values": torch.stack([image.float().mean() * self.gain for image in images])}


NO_PROCESSOR = "no processor"


def test_a_processor_of_ones_own_is_saved_and_loads_if_it_is_trusted(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "strangers.gray", sys.modules[__name__])
    monkeypatch.setattr(GrayProcessor, "__module__", "strangers.gray")
    GrayProcessor(tokenizer, 2.0, std=(1, 1, 2)).save_pretrained(tmp_path)
    name = "strangers.gray:GrayProcessor"
    settings = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert settings == {
        "processor_class": name,
        "gain": 2.0,
        "max_length": 8,
        "mean": [0.485, 0.456, 0.406],
        "std": [1, 1, 2],
    }
    with pytest.raises(ValueError, match=r"config\.json: a file from elsewhere names 'strangers.*repeat it"):
        load_processor(tmp_path)
    loaded = load_processor(tmp_path, trusted=[name])
    assert type(loaded).__name__ == "GrayProcessor" and loaded.std == (1, 1, 2)
    batch = loaded(Image.new("RGB", (3, 4), (10, 20, 30)), "a cat")
    assert batch["pixel_values"].tolist() == [40.0] and batch["input_ids"].shape[0] == 1
    wrong = "strangers.gray:NO_PROCESSOR"
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**settings, "processor_class": wrong}))
    with pytest.raises(ValueError, match=r"NO_PROCESSOR' is not a class that derives from fiber_data\.Processor"):
        load_processor(tmp_path, trusted=[wrong])


def test_our_own_are_written_by_name(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert list(written) == ["processor_class", "image_size", "max_length", "mean", "std"]
    assert written["processor_class"] == "FiberProcessor" and type(load_processor(tmp_path)) is FiberProcessor
