"""Image-text retrieval: fine-tuning by contrast or matching; for the search itself see `search`."""

from __future__ import annotations

from fiber_backbone import FiberBackbone

from fiber_heads.config import PretrainingConfig
from fiber_heads.pretraining import FiberForPretraining


class FiberForRetrieval(FiberForPretraining):
    """Finds texts for images and images for texts: the coarse stage's model without masked tokens.

    Trained by contrast (`objectives=("itc",)`), by matching (`("itm",)`; negatives are other pairs of the batch) or by
    both, where the contrast finds hard negatives for the matching. Search uses what the model has.

    Args:
        backbone: Any backbone with a joint projection.
        config: Objectives and queue; by default contrast and matching.

    Raises:
        ValueError: If the backbone has no joint projection, or masked tokens are among the objectives.
    """

    def __init__(self, backbone: FiberBackbone, config: PretrainingConfig | None = None) -> None:
        config = config or PretrainingConfig(objectives=("itc", "itm"))
        if "mlm" in config.objectives:
            raise ValueError(
                f"retrieval is trained by 'itc' and 'itm', objectives are {config.objectives}; leave out 'mlm', or use "
                "FiberForPretraining"
            )
        super().__init__(backbone, config)
