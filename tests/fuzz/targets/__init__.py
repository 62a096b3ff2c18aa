"""Our targets; `all_targets` collects them."""

from __future__ import annotations

from collections.abc import Sequence

from fuzz.target import Target


def all_targets() -> dict[str, Target]:
    """Every target by its name; none of what they read is imported yet."""
    from fuzz.targets import (
        benchmarks,
        box_readers,
        caption_readers,
        configurations,
        images,
        index,
        plain_readers,
        question_readers,
        settings,
        table_readers,
        tokenizers,
        web_readers,
        weights,
    )

    kinds: Sequence[Sequence[Target]] = (
        caption_readers.TARGETS,
        question_readers.TARGETS,
        box_readers.TARGETS,
        plain_readers.TARGETS,
        web_readers.TARGETS,
        table_readers.TARGETS,
        index.TARGETS,
        benchmarks.TARGETS,
        settings.TARGETS,
        configurations.TARGETS,
        weights.TARGETS,
        tokenizers.TARGETS,
        images.TARGETS,
    )
    return {target.name: target for kind in kinds for target in kind}
