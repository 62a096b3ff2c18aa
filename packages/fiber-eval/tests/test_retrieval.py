"""Image-text retrieval equals the official evaluators, whatever the batches, duplicates and processes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from fiber_eval import RetrievalRecall, retrieval_recall, retrieval_recall_in_blocks
from safetensors.torch import load_file

EXACT = {"rtol": 0, "atol": 1e-9}


def percents(result: dict, direction: str) -> list[float]:
    return [100 * result[f"{direction}_recall@{k}"].item() for k in (1, 5, 10)]


def samples(num_images: int = 30, seed: int = 0) -> dict[str, torch.Tensor]:
    """Images with 1 to 6 captions each, ids that are no row numbers, and captions in mixed order."""
    generator = torch.Generator().manual_seed(seed)
    counts = torch.randint(1, 7, (num_images,), generator=generator)
    owner = torch.arange(num_images).repeat_interleave(counts)
    owner = owner[torch.randperm(len(owner), generator=generator)]
    images = torch.randn(num_images, 8, generator=generator)
    image_ids = torch.randperm(10_000, generator=generator)[:num_images]
    return {
        "image_features": images,
        "image_ids": image_ids,
        "text_features": images[owner] + 1.5 * torch.randn(len(owner), 8, generator=generator),
        "text_ids": torch.randperm(10_000, generator=generator)[: len(owner)],
        "text_image_ids": image_ids[owner],
        "owner": owner,
    }


def update(metric: RetrievalRecall, data: dict[str, torch.Tensor], images: slice, texts: slice) -> None:
    metric.update(image_features=data["image_features"][images], image_ids=data["image_ids"][images])
    metric.update(**{name: data[name][texts] for name in ("text_features", "text_ids", "text_image_ids")})


def from_scores(data: dict[str, torch.Tensor], **options) -> dict[str, torch.Tensor]:
    return retrieval_recall(data["image_features"] @ data["text_features"].T, data["owner"], **options)


# Equal to the official evaluators


@pytest.mark.parametrize("entrance", ["features", "scores"])
def test_embeddings_equal_albef_and_vsepp(retrieval_reference: Path, entrance: str):
    golden = json.loads((retrieval_reference / "golden.json").read_text())["golden"]
    data = np.load(retrieval_reference / "data.npz")
    images, texts = torch.from_numpy(data["image_emb"]), torch.from_numpy(data["text_emb"])
    owner = torch.arange(len(images)).repeat_interleave(5)
    if entrance == "scores":
        result = retrieval_recall(images @ texts.T, owner)
    else:
        metric = RetrievalRecall()
        for start in range(0, 200, 64):
            few, many = slice(start, start + 64), slice(5 * start, 5 * start + 320)
            metric.update(
                image_features=images[few],
                image_ids=range(200)[few],
                text_features=texts[many],
                text_ids=range(1000)[many],
                text_image_ids=owner[many],
            )
        result = metric.compute()

    for direction, name in (("image_to_text", "i2t(r1,r5,r10,medr,meanr)"), ("text_to_image", "t2i")):
        ranks = [result[f"{direction}_{kind}_rank"].item() for kind in ("median", "mean")]
        np.testing.assert_allclose(percents(result, direction) + ranks, golden["embeddings_vsepp"][name], **EXACT)
    albef = golden["embeddings_albef"]
    np.testing.assert_allclose(percents(result, "image_to_text"), [albef[f"txt_r{k}"] for k in (1, 5, 10)], **EXACT)
    np.testing.assert_allclose(percents(result, "text_to_image"), [albef[f"img_r{k}"] for k in (1, 5, 10)], **EXACT)
    np.testing.assert_allclose(100 * result["mean_recall"].item(), albef["r_mean"], **EXACT)


@pytest.mark.parametrize("ties", ["optimistic", "pessimistic"])
def test_ragged_scores_with_ties(retrieval_reference: Path, ties: str):
    golden = json.loads((retrieval_reference / "golden.json").read_text())["golden"][f"ragged_ties_{ties}"]
    data = np.load(retrieval_reference / "data.npz")
    owner = torch.from_numpy(data["ragged_text_to_image"])
    result = retrieval_recall(torch.from_numpy(data["ragged_scores"]), owner, ties=ties)
    for direction, name in (("image_to_text", "i2t"), ("text_to_image", "t2i")):
        np.testing.assert_allclose(percents(result, direction), [golden[name][f"R@{k}"] for k in (1, 5, 10)], **EXACT)


@pytest.mark.parametrize("head", ["itc", "itm"])
def test_equal_to_the_original_evaluation_loops(coarse_reference: Path, head: str):
    golden = json.loads((coarse_reference / "retrieval.json").read_text())[head]
    tensors = load_file(coarse_reference / "retrieval.safetensors")
    result = retrieval_recall(tensors[f"{head}_scores"], tensors["text_owner"])
    for k in (1, 5, 10):
        # these goldens went through float32
        assert result[f"image_to_text_recall@{k}"].item() == pytest.approx(golden[f"tr_r{k}"], abs=1e-6)
        assert result[f"text_to_image_recall@{k}"].item() == pytest.approx(golden[f"ir_r{k}"], abs=1e-6)


# What counts


def test_constant_scorer_gets_no_credit():
    result = retrieval_recall(torch.zeros(20, 100), torch.arange(20).repeat_interleave(5))
    assert percents(result, "image_to_text") == percents(result, "text_to_image") == [0, 0, 0]
    assert result["image_to_text_mean_rank"] == 96  # behind the 95 captions of others
    assert result["text_to_image_mean_rank"] == 20


def test_equal_captions_tie_whatever_their_place():
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, 768, generator=generator)
    images = torch.cat([image, -image])
    captions = torch.randn(1, 768, generator=generator).expand(37, -1)  # all images' captions are the same words
    metric = RetrievalRecall(ks=(1,))
    metric.update(image_features=images, image_ids=[0, 1])
    metric.update(text_features=captions, text_ids=range(37), text_image_ids=[0] * 36 + [1])
    result = metric.compute()
    assert result["image_to_text_recall@1"] == 0
    assert result["image_to_text_mean_rank"] == (2 + 37) / 2


def test_negative_scores_count():
    data = samples()
    scores = data["image_features"] @ data["text_features"].T
    shifted = retrieval_recall(scores.double() - 1000, data["owner"])
    assert shifted == retrieval_recall(scores.double(), data["owner"])
    assert shifted["image_to_text_recall@5"] > 0.5


def test_unscored_pairs_come_last():
    scores = torch.full((2, 2), -torch.inf)
    scores[0, 0] = -5.0
    result = retrieval_recall(scores, [0, 1], ks=(1,))
    assert result["image_to_text_recall@1"] == 0.5
    assert result["text_to_image_mean_rank"] == 1.5


def test_k_above_the_number_of_candidates():
    result = retrieval_recall(torch.tensor([[0, 1], [1, 0]]), [0, 1], ks=(1, 2, 10))
    assert [result[f"text_to_image_recall@{k}"].item() for k in (1, 2, 10)] == [0, 1, 1]
    assert [result[f"image_to_text_recall@{k}"].item() for k in (1, 2, 10)] == [0, 1, 1]


def test_image_without_text_is_a_candidate_only():
    scores = torch.tensor([[0.5, 0.1], [0.2, 0.6], [0.9, 0.3]])
    result = retrieval_recall(scores, [0, 1], ks=(1,))
    assert result["image_to_text_recall@1"] == 1  # of two questions
    assert result["text_to_image_recall@1"] == 0.5  # the third image takes the first text


@pytest.mark.parametrize("chunk_size", [1, 7, 1000])
def test_chunks_change_nothing(chunk_size: int):
    data = samples()
    expected = from_scores(data)
    assert from_scores(data, chunk_size=chunk_size) == expected
    metric = RetrievalRecall(chunk_size=chunk_size)
    update(metric, data, slice(None), slice(None))
    assert metric.compute() == expected


@pytest.mark.parametrize("ties", ["pessimistic", "optimistic"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_blocks_of_rows_in_any_order_give_what_the_matrix_gives(ties: str, dtype: torch.dtype):
    data = samples()
    scores = (data["image_features"] @ data["text_features"].T).round(decimals=1).to(dtype)
    order = torch.randperm(len(scores), generator=torch.Generator().manual_seed(3))

    def blocks():
        return ((rows, scores[rows]) for rows in order.split(7))

    found = retrieval_recall_in_blocks(blocks, data["owner"], num_images=len(scores), ties=ties)
    assert found == retrieval_recall(scores, data["owner"], ties=ties)


def test_rows_that_are_lacking_or_come_twice_are_told():
    scores, owner = torch.randn(3, 3), [0, 1, 2]
    for rows, message in (([0, 2], "image 1 came 0 times"), ([0, 1, 2, 2], "image 2 came 2 times")):
        with pytest.raises(ValueError, match=message):
            retrieval_recall_in_blocks(lambda rows=rows: [(torch.tensor(rows), scores[rows])], owner, num_images=3)
    with pytest.raises(ValueError, match=r"\[its images, all texts\] = \(2, 3\), but is \(2, 2\)"):
        retrieval_recall_in_blocks(lambda: [(torch.arange(2), scores[:2, :2])], owner, num_images=3)


def test_batches_order_and_repeats_change_nothing():
    data = samples()
    metric = RetrievalRecall()
    for start in range(0, 200, 23):  # texts first, and backwards
        update(metric, data, slice(0, 0), slice(max(0, 177 - start), 200 - start))
    update(metric, data, slice(10, None), slice(0, 40))
    update(metric, data, slice(0, 13), slice(30, 31))
    assert metric.compute() == from_scores(data)


def test_repeats_in_bfloat16_are_the_same_image():
    data = samples()
    metric = RetrievalRecall()
    update(metric, data, slice(None), slice(None))
    metric.update(image_features=data["image_features"].bfloat16(), image_ids=data["image_ids"])
    assert metric.compute() == from_scores(data)


def test_autocast_changes_nothing():
    data = samples()
    metric = RetrievalRecall()
    update(metric, data, slice(None), slice(None))
    with torch.autocast("cpu", torch.bfloat16):
        result = metric.compute()
    assert result == from_scores(data)


def test_reset_and_forward():
    data, other = samples(), samples(seed=1)
    metric = RetrievalRecall()
    update(metric, other, slice(None), slice(None))
    metric.reset()
    whole = {name: value for name, value in data.items() if name != "owner"}
    assert metric(**whole) == from_scores(data)
    assert metric.compute() == from_scores(data)


# Errors


def test_text_whose_image_never_came():
    metric = RetrievalRecall()
    metric.update(image_features=torch.eye(3), image_ids=[1, 2, 9])
    metric.update(text_features=torch.eye(3), text_ids=[10, 20, 30], text_image_ids=[1, 4, 10])
    with pytest.raises(ValueError, match=r"2 of 3 texts .* text id 20 of image id 4; update with every image"):
        metric.compute()


def test_ids_that_are_places_in_the_batch():
    metric = RetrievalRecall()
    metric.update(image_features=torch.eye(4)[:2], image_ids=[0, 1])
    metric.update(image_features=torch.eye(4)[2:], image_ids=[0, 1])
    metric.update(text_features=torch.eye(4), text_ids=range(4), text_image_ids=[0, 1, 0, 1])
    with pytest.raises(ValueError, match="image id 0 came with two different features"):
        metric.compute()


def test_text_id_of_two_images():
    metric = RetrievalRecall()
    metric.update(image_features=torch.eye(2), image_ids=[7, 8])
    metric.update(text_features=torch.ones(2, 2), text_ids=[3, 3], text_image_ids=[8, 7])
    with pytest.raises(ValueError, match="text id 3 came with the image ids 8 and 7"):
        metric.compute()


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_nothing_to_rank():
    metric = RetrievalRecall()
    with pytest.raises(ValueError, match="0 images and 0 texts came"):
        metric.compute()
    metric.update(image_features=torch.eye(2), image_ids=[7, 8])
    with pytest.raises(ValueError, match="2 images and 0 texts came"):
        metric.compute()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "update got nothing"),
        ({"image_features": torch.eye(2)}, "image_ids did not come"),
        ({"text_features": torch.eye(2), "text_ids": [0, 1]}, "text_image_ids did not come"),
        ({"image_features": torch.eye(2), "image_ids": [0, 1, 2]}, r"image_ids must have shape \(2,\).* has \(3,\)"),
        ({"image_features": torch.eye(2), "image_ids": ["a", "b"]}, "image_ids must be integers"),
        (
            {"image_features": torch.eye(2), "image_ids": torch.rand(2)},
            "image_ids must be integers, but is torch.float32",
        ),
        (
            {"image_features": torch.ones(2), "image_ids": [0, 1]},
            r"must be a floating-point tensor .* torch.float32 \(2,\)",
        ),
        ({"image_features": torch.eye(3), "image_ids": [4, 5, 6]}, r"equally wide, but widths \[2, 3\]"),
    ],
)
def test_update_refuses(given: dict, message: str):
    metric = RetrievalRecall(ks=(1,))
    metric.update(text_features=torch.eye(2), text_ids=[0, 1], text_image_ids=[0, 1])
    with pytest.raises(ValueError, match=message):
        metric.update(**given)
    metric.update(image_features=torch.eye(2), image_ids=[0, 1])  # nothing of the refused batch stayed
    assert metric.compute()["image_to_text_recall@1"] == 1


@pytest.mark.parametrize(
    ("scores", "owner", "options", "message"),
    [
        (torch.zeros(2), [0, 1], {}, r"its shape is \(2,\)"),
        (torch.zeros(2, 0), [], {}, r"its shape is \(2, 0\)"),
        (torch.zeros(2, 3), [0, 1], {}, r"text_image_index must have shape \(3,\)"),
        (torch.zeros(2, 2), [1, 2], {}, r"must lie in 0\.\.1.* from 1 to 2"),
        (torch.tensor([[1.0, torch.nan], [0, 0]]), [0, 1], {}, "hold NaN"),
        (torch.eye(2), [0, 1], {"ks": (0,)}, r"ks must be whole numbers from 1 on, but is \(0,\)"),
        (torch.eye(2), [0, 1], {"ties": "fair"}, "pessimistic, optimistic, but is 'fair'"),
        (torch.eye(2), [0, 1], {"chunk_size": 0}, "chunk_size must be at least 1"),
    ],
)
def test_scores_refused(scores: torch.Tensor, owner: list, options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        retrieval_recall(scores, owner, **options)


# Several processes


def work(rank: int, folder: str) -> None:
    """Uneven shards: in the first case everything is spread and overlaps, in the second process 1 has nothing."""
    data = samples()
    spread, idle = RetrievalRecall(), RetrievalRecall()
    if rank == 0:
        update(spread, data, slice(0, 5), slice(50, 200))
        update(idle, data, slice(None), slice(None))
    else:
        for start in range(4, 30, 7):
            spread.update(image_features=data["image_features"][start:][:7], image_ids=data["image_ids"][start:][:7])
        update(spread, data, slice(0, 0), slice(0, 60))
    results = [spread.compute(), idle.compute()]
    counts = [sum(map(len, spread.image_ids)), sum(map(len, idle.image_ids))]  # its own again, after the exchange
    torch.save((results, counts), f"{folder}/{rank}.pt")


def test_two_processes_equal_one(tmp_path: Path, two_processes: Callable[..., None]):
    two_processes(work)
    expected = from_scores(samples())
    for rank, own in ((0, [5, 30]), (1, [26, 0])):
        results, counts = torch.load(tmp_path / f"{rank}.pt")
        assert results == [expected, expected]
        assert counts == own
