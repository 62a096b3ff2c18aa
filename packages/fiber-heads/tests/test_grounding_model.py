"""The whole detector against the original: losses, gradients, detections; and what it promises beyond."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fiber_backbone import FiberBackbone, FiberConfig, fiber_tiny, original_backbone_map
from fiber_heads import FiberForGrounding, GroundingConfig
from fiber_heads.grounding.boxes import box_sizes
from fiber_heads.grounding.checkpoints import original_grounding_map
from fiber_heads.grounding.config import DetectionSettings
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import pad
from transformers import RobertaTokenizerFast

from .golden import full_size_tensors
from .grounding_golden import fine_folder, half_open, read_targets


@pytest.fixture(scope="module", params=["v2", "v3"])
def case(request: pytest.FixtureRequest) -> Path:
    return fine_folder(request.param)


@pytest.fixture(scope="module")
def tensors(case: Path) -> dict[str, Tensor]:
    stored = load_file(case / "state_dict.safetensors")
    return {name: value.float() if value.is_floating_point() else value for name, value in stored.items()}


@pytest.fixture(scope="module")
def model(case: Path, tensors: dict[str, Tensor]) -> FiberForGrounding:
    """The case's model, as the original would compute it."""
    meta = json.loads((case / "meta.json").read_text())
    swin, text = meta["swin"], meta["text"]
    names = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    names += ("max_position_embeddings", "type_vocab_size", "pad_token_id", "layer_norm_eps")
    config = FiberConfig(
        embed_dim=swin["embed_dim"],
        depths=swin["depths"],
        image_num_heads=swin["num_heads"],
        window_size=swin["window_size"],
        **{name: text[name] for name in names},
    ).fine_stage(normalize_image_query=meta["version"] == "v3")
    head = GroundingConfig.as_original(
        channels=meta["dyhead_channels"], norm_groups=meta["group_norm_groups"], max_tokens=meta["max_query_len"]
    )
    model = FiberForGrounding(FiberBackbone.from_config(config), head)
    report = model.load_original_checkpoint(tensors)
    assert report.left == []
    assert model.to_config()["head"]["flat_offsets"]  # so that a saved copy reads offsets and boxes alike
    assert model.to_config()["head"]["inclusive_boxes"]
    return model.eval()


@pytest.fixture(scope="module")
def inputs(case: Path) -> dict[str, Tensor]:
    stored = load_file(case / "forward.safetensors")
    return {
        "pixel_values": stored["images_q"].float().flip(1) / 32,  # the original's pictures are blue, green, red
        "image_sizes": stored["image_sizes"],
        "input_ids": stored["input_ids"],
        "attention_mask": stored["attention_mask"],
    }


def phrases(case: Path, name: str) -> dict:
    """The caption of an end-to-end case, and the tokens of its labels."""
    given = json.loads((case / "post.json").read_text())[name]
    folder = case.parent / "tokenizer"
    tokenizer = RobertaTokenizerFast(str(folder / "vocab.json"), str(folder / "merges.txt"))
    encoded = tokenizer(given["caption"], return_tensors="pt")
    maps = torch.zeros(len(given["positive_map"]), encoded["input_ids"].shape[1], dtype=torch.bool)
    for row, tokens in zip(maps, given["positive_map"].values(), strict=True):
        row[tokens] = True
    labels = torch.tensor([int(label) for label in given["positive_map"]])
    settings = DetectionSettings(given["pre_nms_thresh"], given["pre_nms_top_n"], max_detections=given.get("detections_per_img", 100))  # fmt: skip
    return {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"], "maps": maps, "labels": labels, "settings": settings}  # fmt: skip


@pytest.mark.parametrize("which", [0, 1])
def test_losses(case: Path, model: FiberForGrounding, inputs: dict[str, Tensor], which: int) -> None:
    name = ["train", "one_each" if case.name == "v2" else "no_box"][which]
    boxes, maps, _ = read_targets(case, name)
    targets = [{"boxes": own.float(), "positive_map": rows.bool()} for own, rows in zip(boxes, maps, strict=True)]
    with torch.no_grad():
        output = model(**inputs, targets=targets)
    expected = json.loads((case / "loss.json").read_text())[name]
    for ours, original in (("box", "loss_reg"), ("centerness", "loss_centerness"), ("token", "loss_dot_product_token")):
        assert output.losses[ours].item() == pytest.approx(expected[original], rel=2e-5), ours
    assert output.loss.item() == pytest.approx(expected["total"], rel=2e-5)
    assert (output.matched >= 0).sum() == expected["num_pos"]


def test_gradients(case: Path, model: FiberForGrounding, inputs: dict[str, Tensor]) -> None:
    boxes, maps, _ = read_targets(case, "train")
    targets = [{"boxes": own.float(), "positive_map": rows.bool()} for own, rows in zip(boxes, maps, strict=True)]
    model.zero_grad()
    model(**inputs, targets=targets).loss.backward()
    expected = json.loads((case / "grad_norms.json").read_text())
    total = json.loads((case / "loss.json").read_text())["train"]["global_grad_norm"]
    parameters = dict(model.named_parameters())
    pairs = [(f"backbone.{ours}", names) for ours, names in original_backbone_map(model.backbone.config).pairs]
    pairs += [(f"grounding_head.{ours}", names) for ours, names in original_grounding_map(model.config).pairs]
    compared = 0
    for ours, names in pairs:
        gradient = parameters[ours].grad
        for name, part in zip(names, [None] * len(names) if gradient is None else gradient.chunk(len(names)), strict=True):  # fmt: skip
            for coarse, fine in (("vit_model.", "fusion_backbone.backbone.body."), ("text_transformer.", "fusion_backbone.language_backbone.body.model.")):  # fmt: skip
                name = fine + name.removeprefix(coarse) if name.startswith(coarse) else name
            if expected[name] is None:  # frozen there: the first stage in v2
                continue
            norm = 0.0 if part is None else part.norm().item()
            # float32 gradients through some 40 layers; keys' biases are zero in exact arithmetic
            assert abs(norm - expected[name][0]) < max(1e-3 * expected[name][0], 1e-4 * total), name
            compared += 1
    assert compared > 500


def test_detection_from_the_pixels(case: Path, model: FiberForGrounding, inputs: dict[str, Tensor]) -> None:
    given, reference = phrases(case, "e2e_detection"), load_file(case / "post.safetensors")
    prompts = {name: given[name] for name in ("input_ids", "attention_mask")}
    prompts |= {"phrase_maps": [given["maps"]], "phrase_labels": [given["labels"]]}
    pictures = {name: inputs[name] for name in ("pixel_values", "image_sizes")}
    for row, found in enumerate(model.find_categories(pictures, prompts, given["settings"])):
        assert_stable_found(found, reference, "e2e_detection", row)


def test_grounding_from_the_pixels(case: Path, model: FiberForGrounding, inputs: dict[str, Tensor]) -> None:
    given, reference = phrases(case, "e2e_grounding"), load_file(case / "post.safetensors")
    height, width = inputs["image_sizes"][0].tolist()
    canvas = [-(-side // 32) * 32 for side in (height, width)]
    batch = {"pixel_values": inputs["pixel_values"][:1, :, : canvas[0], : canvas[1]], "image_sizes": inputs["image_sizes"][:1]}  # fmt: skip
    batch |= {"input_ids": given["input_ids"], "attention_mask": given["attention_mask"]}
    found = model.find({**batch, "phrase_maps": [given["maps"]], "phrase_labels": [given["labels"]]}, given["settings"])
    assert_stable_found(found[0], reference, "e2e_grounding", 0)


def assert_stable_found(found: dict[str, Tensor], reference: dict[str, Tensor], name: str, row: int) -> None:
    """Every detection that the original also makes in float64 is there."""
    boxes, scores, labels = (reference[f"{name}.{part}{row}"] for part in ("boxes", "scores", "labels"))
    boxes = half_open(boxes)
    stable = reference[f"{name}.stable{row}"].bool()
    near = (found["boxes"] - boxes[:, None]).abs().amax(dim=2) < 0.05
    near &= (found["scores"] - scores[:, None]).abs() < 5e-4
    near &= found["labels"] == labels[:, None]
    assert near.any(dim=1)[stable].all()
    assert abs(len(found["scores"]) - len(scores)) <= 2


@pytest.mark.parametrize("version", ["v2", "v3"])
def test_every_key_of_a_released_checkpoint_is_used_or_without_effect(version: str) -> None:
    folder = fine_folder(version).parent
    given = full_size_tensors(folder, f"fine_{version}")
    with torch.device("meta"):
        config = FiberConfig().fine_stage(normalize_image_query=version == "v3")
        model = FiberForGrounding(FiberBackbone.from_config(config), GroundingConfig.as_original())
        report = model.load_original_checkpoint(given)
    assert report.left == []
    assert set(given) == {*report.taken, *report.dead}


# Beyond the original


@pytest.fixture(scope="module")
def small() -> FiberForGrounding:
    """A small model with every parameter random, in float64."""
    torch.manual_seed(0)
    config = fiber_tiny().config.fine_stage()
    head = GroundingConfig(channels=16, num_blocks=2, norm_groups=4, strides=(4, 8, 16, 32, 64), anchor_scale=4)
    model = FiberForGrounding(FiberBackbone.from_config(replace(config, window_size=6)), head).double().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3 if parameter.ndim < 2 else 0.1)
    return model


def make_batch(sizes: list[tuple[int, int]]) -> dict:
    generator = torch.Generator().manual_seed(1)
    pictures = [torch.randn(3, *size, generator=generator, dtype=torch.float64) for size in sizes]
    height, width = (max(side) for side in zip(*sizes, strict=True))
    height, width = -(-height // 16) * 16, -(-width // 16) * 16
    stacked = [pad(picture, (0, width - picture.shape[2], 0, height - picture.shape[1])) for picture in pictures]
    ids = torch.randint(5, 500, (len(sizes), 6), generator=generator)
    targets = [
        {
            "boxes": torch.tensor([[4.0, 4, 30, 30], [10, 20, 40, 44]], dtype=torch.float64),
            "positive_map": torch.eye(2, 6).bool(),
        },
        {"boxes": torch.zeros(0, 4, dtype=torch.float64), "positive_map": torch.zeros(0, 6).bool()},
    ]
    return {
        "pixel_values": torch.stack(stacked),
        "image_sizes": torch.tensor(sizes),
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "targets": targets[: len(sizes)],
    }


def test_a_picture_does_not_see_how_far_its_batch_was_padded(small: FiberForGrounding) -> None:
    together = make_batch([(64, 96), (112, 160)])
    alone = {name: value[:1] for name, value in together.items()}
    alone["pixel_values"] = alone["pixel_values"][:, :, :64, :96]
    maps = {"phrase_maps": [torch.eye(2, 6).bool()] * 2, "phrase_labels": [torch.arange(2)] * 2}
    settings = DetectionSettings(score_threshold=0.0)
    ours = small.find({**together, **maps}, settings)[0]
    theirs = small.find({**alone, **{name: value[:1] for name, value in maps.items()}}, settings)[0]
    assert len(ours["scores"]) > 5
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-5, atol=1e-5)
    one, two = small(**together), small(**alone)
    own = one.predictions.valid[0]
    torch.testing.assert_close(one.predictions.token_logits[0][own], two.predictions.token_logits[0], rtol=1e-9, atol=1e-9)  # fmt: skip
    assert torch.equal(one.matched[0][own], two.matched[0])


def test_chunks_share_the_picture_and_change_nothing(small: FiberForGrounding) -> None:
    batch = make_batch([(64, 64), (64, 64)])
    prompts = {
        "input_ids": batch["input_ids"],
        "attention_mask": batch["attention_mask"],
        "phrase_maps": [torch.eye(3, 6).bool(), torch.eye(2, 6).bool()],
        "phrase_labels": [torch.tensor([0, 1, 2]), torch.tensor([3, 4])],
    }
    settings = DetectionSettings(score_threshold=0.0, max_detections=1000)
    found = small.find_categories(batch, prompts, settings)
    for row in range(2):
        apart = []
        for number in range(2):
            single = {name: value[row : row + 1] for name, value in batch.items() if name != "targets"}
            single |= {name: prompts[name][number : number + 1] for name in prompts}
            apart.append(small.find(single, settings)[0])
        scores = torch.cat([each["scores"] for each in apart]).sort(descending=True).values
        torch.testing.assert_close(found[row]["scores"], scores, rtol=1e-5, atol=1e-6)
        assert set(found[row]["labels"].tolist()) <= {0, 1, 2, 3, 4}
        assert (found[row]["labels"] > 2).any()


def test_gradient_checkpointing_keeps_less_and_changes_no_gradient(small: FiberForGrounding) -> None:
    """Of the backbone and of the dynamic head; regularisation drops the same again."""
    batch, model, found = make_batch([(64, 96), (112, 160)]), copy.deepcopy(small).train(), []
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    for enable in (False, True):
        model.set_gradient_checkpointing(enable)
        kept: dict[int, int] = {}

        def note(tensor: Tensor, kept: dict[int, int] = kept) -> Tensor:
            kept[tensor.data_ptr()] = tensor.numel()
            return tensor

        torch.manual_seed(0)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            output = model(**batch)
        gradients = torch.autograd.grad(output.loss, list(model.parameters()), allow_unused=True)
        found.append((sum(kept.values()), output.losses, gradients))
    (plain, losses, gradients), (less, again, others) = found
    assert less < plain / 2
    assert losses == again
    for name, one, two in zip(names, gradients, others, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-12, msg=name)


@pytest.mark.parametrize("inclusive", [False, True])
def test_no_box_is_empty_in_an_image_of_a_single_row(small: FiberForGrounding, inclusive: bool) -> None:
    """6000 x 20 pixels become 107 x 1; the backbone's canvas has 15 rows more, where the network finds boxes too."""
    model = copy.deepcopy(small)
    model.grounding_head.read_as(GroundingConfig(inclusive_boxes=inclusive))
    batch = make_batch([(1, 107)]) | {"original_sizes": torch.tensor([[20, 6000]])}
    batch |= {"phrase_maps": [torch.eye(2, 6).bool()], "phrase_labels": [torch.arange(2)]}
    (found,) = model.find(batch, DetectionSettings(score_threshold=0.0))
    assert len(found["boxes"]) > 5
    assert (box_sizes(found["boxes"]) > 0).all()
    assert (found["boxes"] >= 0).all()
    assert (found["boxes"][:, 2:] <= torch.tensor([6000, 20])).all()


def test_inclusive_boxes_are_taught_by_the_pixels_of_the_image_as_it_came(small: FiberForGrounding) -> None:
    """The original takes the last pixel off, then resizes: of half the size the box is half a pixel longer than here."""
    model, batch = copy.deepcopy(small), make_batch([(64, 64)])
    model.grounding_head.read_as(GroundingConfig(inclusive_boxes=True))
    half = model(**batch, original_sizes=torch.tensor([[128, 128]])).losses["box"].item()
    longer = copy.deepcopy(batch)
    longer["targets"][0]["boxes"][:, 2:] += 0.5
    assert half == pytest.approx(model(**longer).losses["box"].item(), rel=1e-6)
    assert half != pytest.approx(model(**batch).losses["box"].item(), rel=1e-3)
    plain = [small(**batch, original_sizes=sizes).losses for sizes in (None, torch.tensor([[128, 128]]))]
    assert plain[0] == plain[1]


def test_it_learns_two_boxes_by_their_words(small: FiberForGrounding) -> None:
    torch.manual_seed(0)
    head = GroundingConfig(channels=16, num_blocks=1, norm_groups=4, strides=(4, 8, 16, 32, 64), anchor_scale=4, drop_block=0)  # fmt: skip
    config = replace(fiber_tiny().config.fine_stage(), hidden_dropout=0.0, attention_dropout=0.0, drop_path_rate=0.0)
    model = FiberForGrounding(FiberBackbone.from_config(config), head)
    batch = make_batch([(64, 64)])
    batch["pixel_values"] = batch["pixel_values"].float()
    batch["targets"][0]["boxes"] = torch.tensor([[4.0, 4, 30, 30], [34, 30, 60, 60]])
    slow = [parameter for name, parameter in model.named_parameters() if "text_stream" in name]
    fast = [parameter for name, parameter in model.named_parameters() if "text_stream" not in name]
    optimizer = torch.optim.Adam([{"params": slow, "lr": 1e-4}, {"params": fast}], lr=3e-3)
    for _ in range(100):
        optimizer.zero_grad()
        model.train()(**batch).loss.backward()
        optimizer.step()
    phrases_of = {"phrase_maps": [torch.eye(2, 6).bool()], "phrase_labels": [torch.tensor([7, 8])]}
    found = model.eval().find({**batch, **phrases_of})[0]
    for label, box in ((7, [4, 4, 30, 30]), (8, [34, 30, 60, 60])):
        best = found["boxes"][found["labels"] == label][0]
        assert (best - torch.tensor(box)).abs().max() < 4


def test_a_saved_model_is_the_same(small: FiberForGrounding, tmp_path: Path) -> None:
    small.float().save_pretrained(tmp_path)
    again = FiberForGrounding.from_pretrained(tmp_path)
    assert again.to_config() == small.to_config()
    batch = make_batch([(64, 64)])
    batch["pixel_values"] = batch["pixel_values"].float()
    assert torch.equal(again(**batch).loss, small(**batch).loss)
    small.double()


def test_messages(small: FiberForGrounding) -> None:
    with pytest.raises(ValueError, match="a backbone of the fine stage"):
        FiberForGrounding(fiber_tiny())
    with pytest.raises(ValueError, match=r"strides \(4, 8, 16\), but the head reads \(8, 16, 32\)"):
        FiberForGrounding(FiberBackbone.from_config(fiber_tiny().config.fine_stage()))
    with pytest.raises(ValueError, match="categories must be names, at least one and none empty"):
        small.detect(["photo.jpg"], ["dog", " "])
    with pytest.raises(ValueError, match=r"fiber_data.GroundingProcessor.from_pretrained"):
        small.detect(["photo.jpg"], ["dog"])
    with pytest.raises(KeyError, match="the batch lacks image_sizes"):
        small(pixel_values=torch.zeros(1))
