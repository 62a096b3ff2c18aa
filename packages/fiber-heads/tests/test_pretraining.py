"""The coarse stage's model: one step, its parts, its weights, its messages."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from fiber_backbone import FiberConfig, fiber_tiny, original_backbone_map
from fiber_heads import FiberForPretraining, Negatives, PretrainingConfig
from fiber_heads.share import Pairs, Share
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeCopyMode, FakeTensorMode

from .conftest import make_model


def negatives(text: list[int], image: list[int]) -> Negatives:
    exists = torch.ones(len(text), dtype=torch.bool)
    return Negatives(torch.tensor(text), torch.tensor(image), exists, exists)


def test_a_shared_step_equals_its_objectives_one_by_one(batch: dict[str, Tensor]) -> None:
    model = make_model()
    drawn = negatives([2, 3, 0, 1], [3, 2, 1, 0])
    output = model(**batch, negatives=drawn)
    pixels, ids, mask = batch["pixel_values"], batch["input_ids"], batch["attention_mask"]

    words = model.word_head(model.backbone(pixels, batch["mlm_input_ids"], mask).text_features)
    contrast = model.contrastive_head(
        model.encode_images(pixels), model.encode_texts(ids, mask), None, batch["image_ids"]
    )
    images, texts = torch.cat([pixels, pixels, pixels[drawn.image]]), torch.cat([ids, ids[drawn.text], ids])
    fused = model.backbone(images, texts, torch.cat([mask, mask[drawn.text], mask]))
    logits = model.matching_head(fused.pooled)
    labels = torch.tensor([1] * 4 + [0] * 8)

    assert torch.allclose(output.mlm_logits, words, atol=1e-5)
    assert torch.allclose(output.itm_logits, logits, atol=1e-5)
    assert torch.equal(output.itm_labels, labels)
    assert output.losses["itc"].item() == pytest.approx(contrast.loss.item(), rel=1e-5)
    assert output.losses["itm"].item() == pytest.approx(
        torch.nn.functional.cross_entropy(logits, labels).item(), rel=1e-4
    )
    assert output.loss.item() == pytest.approx(sum(loss.item() for loss in output.losses.values()), rel=1e-5)
    assert output.metrics["itm_accuracy"].item() == pytest.approx((logits.argmax(1) == labels).float().mean().item())


def test_losses_of_samples_make_up_the_losses(batch: dict[str, Tensor]) -> None:
    model, drawn = make_model(), negatives([2, 3, 0, 1], [3, 2, 1, 0])
    assert model(**batch, negatives=drawn).sample_losses is None
    output = model(**batch, negatives=drawn, source=torch.zeros(4, dtype=torch.int64))
    assert output.sample_losses.keys() == output.losses.keys() == {"itc", "itm", "mlm"}
    for name, (sums, counts) in output.sample_losses.items():
        assert len(sums) == 4 and not sums.requires_grad
        assert (sums.sum() / counts.sum()).item() == pytest.approx(output.losses[name].item(), rel=1e-5)
    pair = torch.nn.functional.cross_entropy(output.itm_logits[1::4], output.itm_labels[1::4], reduction="sum")
    assert output.sample_losses["itm"][0, 1].item() == pytest.approx(pair.item(), rel=1e-5)


def test_each_picture_and_text_is_begun_once(batch: dict[str, Tensor]) -> None:
    model, counted = make_model(), {"image": 0, "text": 0}

    def count(name: str) -> None:
        module = {"image": model.backbone.image_stream.patch_embed, "text": model.backbone.text_stream.embeddings.word_embeddings}[name]  # fmt: skip
        module.register_forward_hook(lambda _m, inputs, _o: counted.__setitem__(name, counted[name] + len(inputs[0])))

    count("image"), count("text")
    model(**batch)
    assert counted == {"image": 4, "text": 8}  # the texts, and the texts with masked words


def test_every_parameter_learns_once_the_gates_are_open(batch: dict[str, Tensor]) -> None:
    model = make_model().train()
    model(**batch).loss.backward()
    idle = [name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert idle == []


@pytest.mark.parametrize("objectives", [("itc", "itm"), ("itm",)])
def test_hard_negatives_never_share_the_picture(batch: dict[str, Tensor], objectives: tuple[str, ...]) -> None:
    """And each one that could be drawn is, by seeds and by torch's generator."""
    model = make_model(objectives=objectives, temperature=1.0)
    pairs = Pairs(batch["pixel_values"], batch["input_ids"], batch["attention_mask"])
    share, ids, contrast = (
        Share(model.begin(pairs), batch["attention_mask"], batch["image_ids"]),
        batch["image_ids"],
        None,
    )
    if model.contrastive_head is not None:
        features = share.begun["image_features"], share.begun["text_features"]
        contrast = model.contrastive_head(*features, None, ids)
    for seeds in (None, torch.arange(4)):
        drawn_of_first = set()
        for step in range(100):
            drawn = model._draw(contrast, share, slice(None), None if seeds is None else seeds + 4 * step)
            assert (ids[drawn.text] != ids).all()
            assert (ids[drawn.image] != ids).all()
            drawn_of_first |= {drawn.text[0].item(), drawn.image[0].item() + 4}
        assert drawn_of_first == {2, 3, 6, 7}


def test_a_batch_of_one_has_nothing_to_mismatch(batch: dict[str, Tensor]) -> None:
    model = make_model()
    output = model(**{key: value[:1] for key, value in batch.items()})
    assert output.itm_labels.tolist() == [1, -100, -100]
    assert torch.isfinite(output.loss)


@pytest.mark.parametrize("objectives", [("itc",), ("itm",), ("mlm",), ("itc", "itm"), ("itm", "mlm")])
def test_any_objectives_train(batch: dict[str, Tensor], objectives: tuple[str, ...]) -> None:
    model = make_model(objectives=objectives).train()
    output = model(**batch)
    assert set(output.losses) == set(objectives)
    output.loss.backward()
    assert all(head is None or name in objectives for name, head in (("itc", model.contrastive_head), ("itm", model.matching_head), ("mlm", model.word_head)))  # fmt: skip


def test_queued_pictures_are_negatives_too(batch: dict[str, Tensor]) -> None:
    """A negative from the queue counts as if its picture and text stood in the batch."""
    model = make_model(queue_size=6, queue_inputs="float32")
    model.training = True  # the queue fills; nothing else of the model is random
    model(**batch)
    model.training = False
    assert model.queue.filled == 4
    other = {key: value[[3, 2]] for key, value in batch.items()}
    from_queue = model(**other, negatives=negatives([2 + 2, 2 + 0], [2 + 0, 2 + 2]))
    joined = {key: torch.cat([value[[3, 2]], value]) for key, value in batch.items()}
    pixels, ids, mask = joined["pixel_values"], joined["input_ids"], joined["attention_mask"]
    backbone = model.backbone
    expected = model.match(
        backbone.begin_image(pixels[[0, 1, 0, 1, 2, 4]]),
        backbone.begin_text(ids[[0, 1, 4, 2, 0, 1]], mask[[0, 1, 4, 2, 0, 1]]),
    )
    assert torch.allclose(from_queue.itm_logits, expected, atol=1e-5)


def test_weights_and_settings_come_back(tmp_path: Path, batch: dict[str, Tensor]) -> None:
    model = make_model(objectives=("itc", "itm"), queue_size=3)
    model.save_pretrained(tmp_path)
    again = FiberForPretraining.from_pretrained(tmp_path)
    assert again.config == model.config
    assert torch.equal(again.encode_images(batch["pixel_values"]), model.encode_images(batch["pixel_values"]))
    names = {path.name for path in tmp_path.iterdir()}
    assert {"config.json", "model.safetensors"} <= names
    assert not any("queue" in name for name in model.state_dict())


def test_training_in_bfloat16(batch: dict[str, Tensor]) -> None:
    model = make_model().train()
    with torch.autocast("cpu", torch.bfloat16):
        output = model(**batch)
    output.loss.backward()
    assert output.loss.item() == pytest.approx(make_model()(**batch).loss.item(), rel=0.2)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_no_value_leaves_the_device_in_a_step() -> None:
    """Fake tensors have no values: any read of one raises."""
    real, mode = make_model(queue_size=8).train(), FakeTensorMode()
    with FakeCopyMode(mode):
        model = copy.deepcopy(real)
    with mode:
        ids = torch.ones(2, 7, dtype=torch.int64)
        batch = dict.fromkeys(("input_ids", "attention_mask", "mlm_input_ids", "mlm_labels"), ids)
        batch |= {"pixel_values": torch.empty(2, 3, 64, 64), "image_ids": torch.ones(2, dtype=torch.int64)}
        for _ in range(2):  # the second step has a queue to contrast with
            output = model(**batch)
            output.loss.backward()
        with pytest.raises(DataDependentOutputException):
            output.loss.item()


def test_parameter_names_of_the_groups() -> None:
    model = make_model()
    cross, heads = model.cross_modal_parameter_names(), model.head_parameter_names()
    everything = {name for name, _ in model.named_parameters()}
    assert cross < everything
    assert heads < everything
    assert not cross & heads
    assert "contrastive_head.text_pooler.weight" in cross
    assert "contrastive_head.temperature" not in cross | heads


def test_a_stale_ranking_vector_is_noticed(tmp_path: Path) -> None:
    model = make_model()
    parameters = dict(model.named_parameters())
    tensors: dict[str, Tensor] = {}
    for ours, names in original_backbone_map(model.backbone.config).pairs:
        tensors |= dict(zip(names, parameters[f"backbone.{ours}"].detach().chunk(len(names)), strict=True))
    for ours, (name,) in model.original_head_map().pairs:
        tensors[name] = parameters[ours].detach()
    tensors |= {"rank_output.weight": tensors["itm_score.fc.weight"][1:], "rank_output.bias": tensors["itm_score.fc.bias"][1:]}  # fmt: skip
    assert model.load_original_checkpoint(tensors).notes == []
    tensors["rank_output.bias"] = tensors["rank_output.bias"] + 1
    with pytest.warns(UserWarning, match="rank_output differs from row 1 of itm_score.fc"):
        report = model.load_original_checkpoint(tensors)
    assert report.notes == [
        "rank_output differs from row 1 of itm_score.fc, which it should copy; itm_score.fc is used"
    ]
    assert str(report).endswith(report.notes[0])
    assert torch.equal(model.matching_head.classifier.bias, tensors["itm_score.fc.bias"])
    torch.save({"state_dict": tensors}, tmp_path / "original.ckpt")
    with pytest.warns(UserWarning, match="rank_output"):
        assert "0 left over" in str(model.load_original_checkpoint(tmp_path / "original.ckpt"))
    del tensors["temp"]
    with pytest.raises(
        ValueError,
        match=r"\(for FiberForPretraining\) does not fit the model: 1 keys missing \(first: temp\); build the model",
    ):
        model.load_original_checkpoint(tensors)


def test_messages(batch: dict[str, Tensor]) -> None:
    with pytest.raises(ValueError, match="objectives must be some of itc, itm, mlm, are \\('itx',\\)"):
        PretrainingConfig(objectives=("itx",))
    with pytest.raises(ValueError, match="queue_inputs must be 'none', 'uint8' or 'float32', is 'int4'"):
        PretrainingConfig(queue_inputs="int4")
    with pytest.raises(ValueError, match="joint_projection=True"):
        FiberForPretraining(fiber_tiny(joint_projection=False))
    with pytest.raises(KeyError, match="the batch lacks mlm_labels; it has"):
        make_model()(**{key: value for key, value in batch.items() if key != "mlm_labels"})
    matcher, contraster = make_model(objectives=("itm",)), make_model(objectives=("itc",))
    with pytest.raises(ValueError, match="without the 'itc' objective"):
        matcher.encode_images(batch["pixel_values"])
    backbone = contraster.backbone
    with pytest.raises(ValueError, match="without the 'itm' objective"):
        contraster.match(backbone.begin_image(batch["pixel_values"]), backbone.begin_text(batch["input_ids"]))
    assert FiberConfig().joint_projection
