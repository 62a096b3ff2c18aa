"""What lies beside weights: the settings of processors and the answers that a model chooses from."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fuzz.target import Documents, Target

_LARGE = 1000  # pixels
_SETTINGS = "preprocessor_config.json"
_STATISTICS = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


class ProcessorTarget(Target):
    """A processor of `fiber.processors`, read and used once: what it cannot use it has to refuse when it is read.

    Args:
        name: Of the entry point.
        settings: What its file holds beside the name.
    """

    def __init__(self, name: str, settings: Mapping[str, Any]) -> None:
        content = json.dumps({"processor_class": name, **settings, **_STATISTICS}, indent=2)
        super().__init__(name, {_SETTINGS: content}, covers=(f"fiber.processors:{name}",), share=0.2)

    def write(self, folder: Path) -> None:
        from fiber_data import train_tokenizer

        train_tokenizer(["a dog runs"], 300).save_pretrained(str(folder))
        super().write(folder)

    def read(self, folder: Path) -> Any:
        import numpy as np
        from fiber_data import load_processor

        processor = load_processor(folder)
        sizes = [getattr(processor, key, 0) for key in ("image_size", "shorter", "longest", "size_divisor")]
        if any(isinstance(size, int) and size > _LARGE for size in sizes):  # right, if somebody has the memory
            return processor, {}
        return processor, processor(np.zeros((6, 8, 3), np.uint8), "a dog runs")

    def parts(self, result: Any) -> Counter[str]:
        processor, _ = result
        return Counter(f"{key}={getattr(processor, key)}" for key in processor.settings)

    def breaches(self, result: Any) -> list[str]:
        _, batch = result
        return [f"numbers that are not finite: {key}" for key, value in batch.items() if not value.isfinite().all()]

    def budget(self, documents: Documents, touched: int) -> int | None:
        return None  # the order of a mean's numbers means something


class AnswerTarget(Target):
    """A vocabulary of answers."""

    def read(self, folder: Path) -> Any:
        from fiber_data import AnswerVocabulary

        return AnswerVocabulary.load(folder / "answers.json")

    def parts(self, result: Any) -> Counter[str]:
        return Counter(result.answers)

    def expected(self, documents: Documents) -> Mapping[str, int]:
        content = documents["answers.json"]
        return {"answers": len(content)} if isinstance(content, list) else {}

    def found(self, result: Any) -> Mapping[str, int]:
        return {"answers": len(result)}


TARGETS = [
    ProcessorTarget("FiberProcessor", {"image_size": 24, "max_length": 12}),
    ProcessorTarget("GroundingProcessor", {"shorter": 24, "longest": 48, "max_length": 16, "size_divisor": 8}),
    AnswerTarget("answers", {"answers.json": json.dumps(["yes", "no", "2", "überall"], ensure_ascii=False)}),
]
