"""The contrast, its queue and the negatives that it draws."""

from __future__ import annotations

import os
import socket

import pytest
import torch
from fiber_heads import ContrastiveHead, FeatureQueue, sample_negatives
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

DIM = 16


def features(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(normalize(torch.randn(count, DIM, generator=generator), dim=1) for _ in range(2))


def head(**options) -> ContrastiveHead:
    torch.manual_seed(0)
    return ContrastiveHead(DIM, DIM, **options)


def test_loss_is_the_symmetric_cross_entropy_of_the_batch() -> None:
    image, text = features(5)
    contrast = head()(image, text)
    logits, target = image @ text.T / 0.07, torch.arange(5)
    expected = (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2
    assert contrast.loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_an_empty_queue_changes_nothing_and_an_original_one_adds_its_noise() -> None:
    image, text = features(5)
    alone = head()(image, text).loss
    torch.manual_seed(1)
    queue = FeatureQueue(8, DIM)
    assert torch.equal(head()(image, text, queue).loss, alone)
    assert head(original=True)(image, text, queue).loss > alone + 1


def test_a_filled_queue_is_contrasted_with() -> None:
    queue = FeatureQueue(3, DIM)
    queue.push(*features(3, seed=1))
    image, text = features(5)
    logits = image @ torch.cat([text, queue.text]).T / 0.07
    back = text @ torch.cat([image, queue.image]).T / 0.07
    expected = (cross_entropy(logits, torch.arange(5)) + cross_entropy(back, torch.arange(5))) / 2
    assert head()(image, text, queue).loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_a_caption_of_the_same_picture_is_no_negative_in_batch_or_queue() -> None:
    queue = FeatureQueue(4, DIM, inputs="float32")
    texts = torch.ones(4, 3, dtype=torch.int64)
    queue.push(*features(4, seed=1), torch.tensor([9, 1, 8, 7]), (torch.rand(4, 3, 8, 8), texts, texts))
    image, text = features(3)
    ids = torch.tensor([1, 1, 2])
    contrast = head()(image, text, queue, ids)
    forbidden = ids[:, None] == torch.cat([ids, queue.image_ids])
    for weights in (contrast.image_to_text, contrast.text_to_image):
        assert not weights[forbidden].any()
        assert (weights[~forbidden] > 0).all()
        assert torch.allclose(weights.sum(dim=1), torch.ones(3))
    # The loss of the first picture sees its own text and what is not of its picture.
    logits = (image @ torch.cat([text, queue.text]).T / 0.07)[0, [0, 2, 3, 5, 6]]
    single = cross_entropy(logits[None], torch.tensor([0]))
    others = head()(image, text, queue, torch.tensor([1, 1, 2]))
    rows = image @ torch.cat([text, queue.text]).T / 0.07
    rows = rows.masked_fill(forbidden & ~torch.eye(3, 7).bool(), -torch.inf)
    assert single.item() == pytest.approx(cross_entropy(rows[:1], torch.tensor([0])).item(), rel=1e-6)
    back = (text @ torch.cat([image, queue.image]).T / 0.07).masked_fill(
        forbidden & ~torch.eye(3, 7).bool(), -torch.inf
    )
    expected = (cross_entropy(rows, torch.arange(3)) + cross_entropy(back, torch.arange(3))) / 2
    assert others.loss.item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("temperature", [0.0001, 0.07, 5.0])
def test_the_temperature_stays_in_bounds_and_weights_stay_valid(temperature: float) -> None:
    """At the lowest temperature an easy pair takes all of the softmax; what is left must still be a distribution."""
    one = head(temperature=temperature)
    image, text = features(6)
    contrast = one(text, text)  # every pair is perfect
    assert 0.001 <= one.temperature.item() <= 1
    for weights in (contrast.image_to_text, contrast.text_to_image, one(image, text).image_to_text):
        assert torch.isfinite(weights).all()
        assert torch.allclose(weights.sum(dim=1), torch.ones(6))
        index, exists = sample_negatives(weights)
        assert exists.all()
        assert (index != torch.arange(6)).all()


def test_a_queue_that_cannot_be_encoded_takes_no_share_of_the_draw() -> None:
    """However near its features are: at a low temperature nothing would be left for the batch."""
    queue, (image, text) = FeatureQueue(6, DIM), features(6)
    queue.push(text, image)
    weights = head(temperature=0.001)(image, text, queue).image_to_text
    assert weights.shape == (6, 6)
    assert torch.allclose(weights.sum(dim=1), torch.ones(6))


def test_without_any_candidate_nothing_is_claimed() -> None:
    image, text = features(3)
    contrast = head()(image, text, image_ids=torch.tensor([4, 4, 4]))
    index, exists = sample_negatives(contrast.image_to_text)
    assert not exists.any()
    assert ((index >= 0) & (index < 3)).all()
    assert torch.isfinite(contrast.loss)


def test_half_precision_is_compared_in_float32() -> None:
    image, text = features(5)
    with torch.autocast("cpu", torch.bfloat16):
        contrast = head()(image.bfloat16(), text.bfloat16())
    assert contrast.loss.dtype == contrast.image_to_text.dtype == torch.float32
    exact = head()(image.bfloat16().float(), text.bfloat16().float())
    assert torch.equal(contrast.loss, exact.loss)


def test_gradients_reach_anchors_and_temperature_only() -> None:
    image, text = (part.requires_grad_() for part in features(4))
    one = head()
    one(image, text.detach()).loss.backward()
    assert image.grad is not None
    assert one.temperature.grad is not None
    logits = image.detach().clone().requires_grad_()
    expected = cross_entropy(logits @ text.detach().T / 0.07, torch.arange(4)) / 2
    expected.backward()  # the other direction's gradient would come through the detached candidates
    assert torch.allclose(image.grad, logits.grad, atol=1e-6)


@pytest.mark.parametrize("count", [2, 3, 5, 9])
def test_the_queue_keeps_the_newest_and_wraps_around(count: int) -> None:
    queue, history = FeatureQueue(5, DIM), []
    for step in range(4):
        image, text = features(count, seed=step)
        queue.push(image, text, torch.arange(count) + 100 * step)
        history += list(zip(image, text, range(100 * step, 100 * step + count), strict=True))
    newest = history[-5:]
    assert queue.filled == min(5, len(history))
    assert queue.pointer == (4 * count) % 5
    assert sorted(queue.image_ids.tolist()) == sorted(number for *_, number in newest)
    for image, text, number in newest:
        slot = queue.image_ids.tolist().index(number)
        assert torch.equal(queue.image[slot], image)
        assert torch.equal(queue.text[slot], text)


def test_pictures_come_back_from_uint8_exactly() -> None:
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
    pixels = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    normalised = (pixels / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    ids, mask = torch.tensor([[0, 5, 2], [0, 6, 2]]), torch.ones(2, 3, dtype=torch.int64)
    queue = FeatureQueue(4, DIM, inputs="uint8", mean=mean, std=std)
    queue.push(*features(2), inputs=(normalised, ids, mask))
    assert queue.pixels.dtype == torch.uint8
    assert torch.equal(queue.pixels[:2], pixels)
    back, back_ids, back_mask = queue.get_inputs(torch.tensor([1]), normalised)
    assert torch.allclose(back, normalised[1:], atol=1e-6)
    assert torch.equal(back_ids, ids[1:])
    assert torch.equal(back_mask, mask[1:])


def test_a_queue_goes_on_where_it_was() -> None:
    sizes, options = (6, DIM), {"inputs": "uint8", "mean": (0.5,) * 3, "std": (0.5,) * 3}
    inputs = (torch.rand(4, 3, 8, 8), torch.ones(4, 3, dtype=torch.int64), torch.ones(4, 3, dtype=torch.int64))
    first, second = FeatureQueue(*sizes, **options), FeatureQueue(*sizes, **options)
    first.push(*features(4), torch.arange(4), inputs)
    second.load_training_state(first.training_state())
    for queue in (first, second):
        queue.push(*features(4, seed=1), torch.arange(4, 8), inputs)
    for name, value in first.training_state().items():
        assert torch.equal(value, second.training_state()[name]), name
    assert not list(first.state_dict()), "a queue is no part of the weights"


def test_messages() -> None:
    queue = FeatureQueue(4, DIM, inputs="uint8", mean=(0.5,) * 3, std=(0.5,) * 3)
    with pytest.raises(ValueError, match="push needs pixel_values, input_ids and attention_mask"):
        queue.push(*features(2))
    inputs = (torch.rand(2, 3, 8, 8), torch.ones(2, 3, dtype=torch.int64), torch.ones(2, 3, dtype=torch.int64))
    queue.push(*features(2), inputs=inputs)
    with pytest.raises(ValueError, match=r"images of shape \(3, 8, 8\) and texts of 3 tokens, got \(3, 8, 4\)"):
        queue.push(*features(2), inputs=(torch.rand(2, 3, 8, 4), *inputs[1:]))
    with pytest.raises(ValueError, match="no inputs; build it with inputs='uint8'"):
        FeatureQueue(4, DIM).get_inputs(torch.tensor([0]), inputs[0])
    with pytest.raises(ValueError, match=r"of a queue of \(4, 16\).*set the queue_size that the run began with"):
        FeatureQueue(5, DIM).load_training_state(queue.training_state())


def _one_of_two(rank: int, port: int) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    share = slice(3 * rank, 3 * rank + 3)
    image, text = features(6)
    ids = torch.tensor([1, 2, 3, 1, 5, 6])
    queue = FeatureQueue(8, DIM)
    queue.push(*(part[share] for part in features(6, seed=1)), ids[share] + 10)
    assert queue.filled == 6
    mine = head()(image[share].clone().requires_grad_(), text[share], queue, ids[share])
    loss = mine.loss.detach().clone()
    torch.distributed.all_reduce(loss)
    whole_queue = FeatureQueue(8, DIM)
    torch.distributed.destroy_process_group()
    whole_queue.push(*features(6, seed=1), ids + 10)
    whole = head()(image, text, whole_queue, ids)
    assert torch.allclose(loss / 2, whole.loss, atol=1e-6)
    assert torch.equal(queue.image, whole_queue.image.new_tensor(queue.image.tolist()))
    assert torch.equal(queue.image[:6], whole_queue.image[:6])
    assert torch.equal(queue.image_ids, whole_queue.image_ids)
    assert torch.allclose(mine.image_to_text, whole.image_to_text[share], atol=1e-6)  # over the global batch
    assert torch.allclose(mine.text_to_image, whole.text_to_image[share], atol=1e-6)


def test_two_processes_are_one() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.start_processes(_one_of_two, (port,), nprocs=2, start_method="fork")
