"""How well a pre-trained model does on held-out pairs, beside what it would reach without looking."""

from __future__ import annotations

from typing import Any

import torch
from fiber_data import CaptionSample, FiberProcessor, derive_seed
from fiber_eval import RetrievalRecall
from lightning_fabric import Fabric

from fiber_train.config import DataConfig
from fiber_train.data import build_evaluation_loader, on_device


def evaluate_pretraining(
    model: Any,
    samples: list[CaptionSample],
    processor: FiberProcessor,
    fabric: Fabric,
    data: DataConfig,
    batch_size: int = 50,
    seed: int = 0,
) -> dict[str, float]:
    """Retrieval over all pictures and captions; matching against hard negatives; masked words.

    Args:
        model: A `FiberForPretraining`, set up by Fabric or not.
        samples: Held-out pictures with their captions.
        processor: The model's tokenizer and image settings.
        fabric: Devices; every process takes its share.
        data: Loading processes and masking probability.
        batch_size: Pictures of a batch in each process, among which hard negatives are sought.
        seed: Of the captions, masks and negatives that are drawn.

    Returns:
        Fractions in 0..1 and, where named so, ranks: `image_to_text_recall@1` and the like (see `fiber_eval`), with
        `chance_recall@K` of a random order; `itm_accuracy` and `mlm_accuracy`, each with `..._constant`, what the best
        constant guess reaches on the same decisions; and `num_images`, `num_texts`.
    """
    module = getattr(model, "module", model)
    module.eval()
    results: dict[str, float] = {"num_images": len(samples), "num_texts": sum(len(s["captions"]) for s in samples)}
    with torch.no_grad(), fabric.autocast(), torch.random.fork_rng():
        if module.contrastive_head is not None:
            results |= _retrieval(module, samples, processor, fabric, data, batch_size)
        if module.matching_head is not None or module.word_head is not None:
            results |= _decisions(module, samples, processor, fabric, data, batch_size, seed)
    return results


def _retrieval(
    model: Any,
    samples: list[CaptionSample],
    processor: FiberProcessor,
    fabric: Fabric,
    data: DataConfig,
    batch_size: int,
) -> dict[str, float]:
    metric = RetrievalRecall().to(fabric.device)
    loader = build_evaluation_loader(data, samples, processor, fabric, batch_size, captions="all")
    for batch in on_device(loader, fabric):
        metric.update(
            image_features=model.encode_images(batch["pixel_values"]),
            image_ids=batch["image_ids"],
            text_features=model.encode_texts(batch["input_ids"], batch["attention_mask"]),
            text_ids=batch["text_ids"],
            text_image_ids=batch["text_image_ids"],
        )
    results = {name: float(value) for name, value in metric.compute().items()}
    for k in metric.ks:
        results[f"chance_recall@{k}"] = min(1.0, k / len(samples))
    return results


def _decisions(
    model: Any,
    samples: list[CaptionSample],
    processor: FiberProcessor,
    fabric: Fabric,
    data: DataConfig,
    batch_size: int,
    seed: int,
) -> dict[str, float]:
    """Accuracies of the objectives' own decisions, counted over all processes."""
    loader = build_evaluation_loader(data, samples, processor, fabric, batch_size, captions="random", seed=seed)
    words = torch.zeros(model.backbone.config.vocab_size, device=fabric.device)
    right = {name: torch.zeros((), device=fabric.device) for name in ("itm", "mlm")}
    matches = torch.zeros(2, device=fabric.device)
    for number, batch in enumerate(on_device(loader, fabric)):
        torch.manual_seed(derive_seed(seed, number, fabric.global_rank))
        output = model(batch)
        for name in right.keys() & output.losses.keys():
            right[name] += (output.metrics[f"{name}_accuracy"] * output.metrics[f"{name}_count"]).round()
        if output.mlm_logits is not None:
            words += torch.bincount(batch["mlm_labels"][batch["mlm_labels"] != -100], minlength=len(words))
        if output.itm_logits is not None:
            matches += torch.bincount(output.itm_labels[output.itm_labels != -100], minlength=2)
    results = {}
    for name, counts in (("itm", matches), ("mlm", words)):
        total, good = (torch.as_tensor(fabric.all_reduce(part, reduce_op="sum")) for part in (counts, right[name]))
        if total.sum() > 0:
            results[f"{name}_accuracy"] = float(good / total.sum())
            results[f"{name}_constant"] = float(total.max() / total.sum())
    return results


def as_table(results: dict[str, float]) -> str:
    """The results for people: each number beside what chance or the best constant guess gives."""
    lines = [f"{int(results['num_images']):,} pictures, {int(results['num_texts']):,} captions"]
    for direction in ("image_to_text", "text_to_image"):
        prefix = f"{direction}_recall@"
        ks = [name.removeprefix(prefix) for name in results if name.startswith(prefix)]
        if ks:
            shown = "   ".join(
                f"R@{k} {results[prefix + k]:.3f} (chance {results[f'chance_recall@{k}']:.3f})" for k in ks
            )
            lines.append(f"{direction.replace('_', ' '):14} {shown}")
    for name, title in (("itm", "matching"), ("mlm", "masked words")):
        if f"{name}_accuracy" in results:
            accuracy, constant = results[f"{name}_accuracy"], results[f"{name}_constant"]
            lines.append(f"{title:14} accuracy {accuracy:.3f} (best constant guess {constant:.3f})")
    return "\n".join(lines)
