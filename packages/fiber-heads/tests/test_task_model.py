"""What every task model shares: its folder, weights from elsewhere, groups of parameters, backbones of any parts."""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fiber_heads
import pytest
import torch
from fiber_backbone import FiberBackbone, FiberConfig, KeyMap, fiber_tiny
from fiber_heads import (
    AnsweringConfig,
    AutoFiber,
    CaptioningConfig,
    ClassificationHead,
    FiberForCaptioning,
    FiberForGrounding,
    FiberForPretraining,
    FiberForQuestionAnswering,
    FiberForRetrieval,
    FiberForVisualReasoning,
    GroundingConfig,
    PretrainingConfig,
    TaskModel,
    TaskOutput,
)
from torch import Tensor, nn

from .conftest import make_model

SMALL = GroundingConfig(channels=16, num_blocks=1, norm_groups=4, strides=(4, 8, 16, 32, 64))
PLAIN = {"image_stream": "vit", "text_stream": "bert", "patch_size": 8, "depths": (4,), "image_num_heads": (4,)}
PLAIN |= {"pad_token_id": 0, "type_vocab_size": 2, "num_fusion_blocks": 2}


@dataclass
class LabelsConfig:
    labels: tuple[str, ...] = ("yes", "no")

    def __post_init__(self) -> None:
        self.labels = tuple(self.labels)


class Stranger(TaskModel):
    """Somebody's model with a head that the original does not have."""

    config_class = LabelsConfig

    def __init__(self, backbone: FiberBackbone, config: LabelsConfig | None = None) -> None:
        super().__init__(backbone, config)
        self.own_head = ClassificationHead(2 * backbone.text_dim, 8, len(self.config.labels))

    def forward(self, *, pixel_values: Tensor, **_: Any) -> TaskOutput:
        raise NotImplementedError


def make_grounding() -> FiberForGrounding:
    return FiberForGrounding(FiberBackbone.from_config(fiber_tiny().config.fine_stage()), SMALL)


def original_tensors(model: TaskModel) -> dict[str, Tensor]:
    """The model's weights under the original's names."""
    parameters = dict(model.named_parameters())
    pairs = [(f"backbone.{ours}", names) for ours, names in model.backbone.original_map().pairs]
    tensors: dict[str, Tensor] = {}
    for ours, names in [*pairs, *model.original_head_map().pairs]:
        value = parameters[ours].detach()
        tensors |= zip(names, value.chunk(len(names)) if len(names) > 1 else [value], strict=True)
    return tensors


@pytest.mark.parametrize(
    "make",
    [
        make_model,
        lambda: FiberForRetrieval(fiber_tiny()),
        lambda: FiberForQuestionAnswering(fiber_tiny(), AnsweringConfig(("yes", "no"))),
        lambda: FiberForVisualReasoning(fiber_tiny()),
        lambda: FiberForCaptioning(fiber_tiny(decoder_projections=True), CaptioningConfig("gold")),
        make_grounding,
    ],
)
def test_the_folder_says_which_model_it_holds(make: Any, tmp_path: Path) -> None:
    model = make()
    model.save_pretrained(tmp_path)
    again = AutoFiber.from_pretrained(tmp_path)
    assert type(again) is type(model)
    assert again.config == model.config
    assert again.to_config() == model.to_config()
    assert all(torch.equal(again.state_dict()[name], value) for name, value in model.state_dict().items())


def test_a_class_of_somebody_else_is_imported_only_if_the_user_names_it(tmp_path: Path) -> None:
    model = Stranger(fiber_tiny(), LabelsConfig(("a", "b", "c")))
    model.save_pretrained(tmp_path)
    name = f"{Stranger.__module__}:Stranger"
    with pytest.raises(ValueError, match=r"names .*:Stranger', which to load would run; .*trusted=\["):
        AutoFiber.from_pretrained(tmp_path)
    again = AutoFiber.from_pretrained(tmp_path, trusted=[name])
    assert type(again).__name__ == "Stranger"
    assert again.config.labels == ("a", "b", "c")
    (tmp_path / "config.json").write_text('{"model_class": "collections:OrderedDict"}')
    with pytest.raises(ValueError, match="'collections:OrderedDict', which is no PretrainedModel"):
        AutoFiber.from_pretrained(tmp_path, trusted=["collections:OrderedDict"])
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="has no model_class; save the model again"):
        AutoFiber.from_pretrained(tmp_path)


def test_a_start_from_another_task_says_what_became_of_each_tensor() -> None:
    source = make_model()
    model = FiberForRetrieval(fiber_tiny(image_size=96, window_size=6))
    report = model.start_from(source)
    assert report.fresh == []
    tables = [name for name in source.state_dict() if name.endswith("relative_position_bias_table")]
    assert report.resized == tables
    assert report.left == [name for name in source.state_dict() if name.startswith("word_head.")]
    assert sorted(report.taken + report.left) == sorted(source.state_dict())
    assert torch.equal(model.matching_head.classifier.weight, source.matching_head.classifier.weight)
    assert str(report).endswith("left over, 0 without effect, 0 parameters fresh")


def test_a_head_of_another_size_is_another_head() -> None:
    source = FiberForQuestionAnswering(fiber_tiny(), AnsweringConfig(("yes", "no")))
    model = FiberForQuestionAnswering(fiber_tiny(), AnsweringConfig(("yes", "no", "two")))
    report = model.start_from(source)
    assert report.fresh == report.left == ["answer_head.decoder.weight", "answer_head.decoder.bias"]
    assert torch.equal(model.answer_head.dense.weight, source.answer_head.dense.weight)
    with pytest.raises(ValueError, match=r"FiberConfig.num_hidden_layers = 4, this model has 3; build it from"):
        make_model().__class__(fiber_tiny(num_hidden_layers=3)).start_from(source)


def test_a_checkpoint_of_another_model_is_named_as_such() -> None:
    with pytest.raises(
        ValueError, match=r"the state dict is a checkpoint of another model: .* first is 'layer1.weight'"
    ):
        make_model().load_original_checkpoint({"layer1.weight": torch.ones(2)})


def test_a_head_that_the_original_has_not_stays_fresh_or_brings_its_own_map() -> None:
    tensors = original_tensors(make_model())
    model = Stranger(fiber_tiny())
    with pytest.raises(ValueError, match=r"\(for Stranger\) does not fit the model: 6 keys missing \(first: own_head"):
        model.load_original_checkpoint(tensors)
    report = model.load_original_checkpoint(tensors, partial=True)
    assert report.fresh == [name for name in dict(model.named_parameters()) if name.startswith("own_head.")]
    assert "mlm_score.bias" in report.left

    class WithMap(Stranger):
        def original_head_map(self) -> KeyMap:
            names = (name for name in dict(self.named_parameters()) if name.startswith("own_head."))
            return dataclasses.replace(
                super().original_head_map(), pairs=[(name, [f"snli_classifier.{name}"]) for name in names]
            )

    own = {
        f"snli_classifier.{name}": torch.ones_like(value)
        for name, value in model.named_parameters()
        if name.startswith("own_head.")
    }
    model = WithMap(fiber_tiny())
    report = model.load_original_checkpoint(tensors | own)
    assert set(own) < set(report.taken)
    assert (model.own_head.dense.weight == 1).all()


def test_the_detector_takes_a_coarse_checkpoint_without_its_head_but_no_head_in_part() -> None:
    coarse = fiber_tiny()
    tensors = original_tensors(FiberForRetrieval(coarse))
    model = make_grounding()
    head = {name for name, _ in model.named_parameters() if name.startswith("grounding_head.")}
    pyramid = {name for name, _ in model.named_parameters() if ".pyramid_norms." in name}
    report = model.load_original_checkpoint(tensors, partial=True)
    assert set(report.fresh) == head | pyramid
    assert not model.config.flat_offsets
    assert not model.config.inclusive_boxes
    with pytest.raises(ValueError, match=r"for FiberForGrounding\) does not fit the model: .* keys missing"):
        model.load_original_checkpoint(tensors)
    whole = original_tensors(model)
    report = model.load_original_checkpoint(whole, partial=True)
    assert report.fresh == []
    assert model.config.flat_offsets
    assert model.config.inclusive_boxes
    assert model.loss.margin == 0.5
    other = make_grounding()
    other.start_from(model)
    assert other.config.flat_offsets
    assert other.config.inclusive_boxes
    assert model.config is model.grounding_head.config
    assert not SMALL.flat_offsets
    del whole["rpn.head.scales.1.scale"]
    with pytest.raises(ValueError, match=r"1 keys missing \(first: rpn.head.scales.1.scale\)"):
        model.load_original_checkpoint(whole, partial=True)
    with pytest.raises(ValueError, match=r"1 keys unknown \(first: rpn.head.new\)"):
        model.load_original_checkpoint(
            whole | {"rpn.head.scales.1.scale": torch.ones(1), "rpn.head.new": torch.ones(1)}
        )


def test_what_does_not_decay_and_what_the_original_decays_all_the_same() -> None:
    for model in (make_model(), make_grounding()):
        free = model.no_weight_decay()
        for name, parameter in model.named_parameters():
            assert (name in free) == (parameter.ndim < 2 or "bias" in name.rpartition(".")[2]), name
    model = make_model()
    oversights = {name for name in model.no_weight_decay() if model.decayed_by_original(name)}
    gates = {name for name, _ in model.named_parameters() if name.endswith(".gate")}
    norms = {f"backbone.image_stream.cross_attention.{index}.norm.weight" for index in range(3)}
    assert oversights == gates | norms | {"contrastive_head.temperature"}
    detector = make_grounding()
    assert detector.decayed_by_original("backbone.text_stream.embeddings.LayerNorm.weight")
    assert not detector.decayed_by_original("grounding_head.alignment.text_bias")
    texts = {name for name, _ in detector.named_parameters() if name.startswith("backbone.text_stream.")}
    assert detector.language_parameter_names() == texts


@pytest.mark.parametrize("parts", [PLAIN, PLAIN | {"fusion": "late"}, {"fusion": "merged"}])
def test_heads_stand_on_any_streams_and_fusion(parts: dict[str, Any], batch: dict[str, Tensor], tmp_path: Path) -> None:
    model = FiberForPretraining(fiber_tiny(**parts), PretrainingConfig(queue_size=4)).train()
    output = model(**{**batch, "input_ids": batch["input_ids"].clamp(max=511)})
    output.loss.backward()
    assert torch.isfinite(output.loss)
    model.save_pretrained(tmp_path)
    again = AutoFiber.from_pretrained(tmp_path)
    assert again.to_config() == model.to_config()
    model.eval()
    pixels = batch["pixel_values"]
    assert torch.equal(again.encode_images(pixels), model.encode_images(pixels))


@pytest.mark.parametrize("parts", [PLAIN, {"fusion": "late"}])
def test_grounding_refuses_a_backbone_without_a_pyramid(parts: dict[str, Any]) -> None:
    config = dataclasses.replace(fiber_tiny().config, **parts, fused_text_norm=True, joint_projection=False)
    with pytest.raises(
        ValueError, match="grounding needs a feature pyramid, which this backbone's image stream or fus"
    ):
        FiberForGrounding(FiberBackbone.from_config(config))


def configurations(kind: type[Any]) -> set[type[Any]]:
    """The dataclass of settings and those within it."""
    hints = typing.get_type_hints(kind)
    inner = {hint for hint in hints.values() if dataclasses.is_dataclass(hint)}
    return {kind}.union(*(configurations(each) for each in inner))


def test_settings_are_of_types_that_a_configuration_library_takes() -> None:
    """OmegaConf.structured: plain values, literals, tuples and dataclasses."""
    public = (getattr(fiber_heads, name) for name in fiber_heads.__all__)
    kinds = {kind for each in public if isinstance(each, type) for kind in [each, getattr(each, "config_class", None)]}
    kinds = {kind for kind in kinds if kind is not None and kind.__name__.endswith(("Config", "Settings"))}
    assert len(kinds) == 6
    for kind in set().union(*map(configurations, kinds)):
        for name, hint in typing.get_type_hints(kind).items():
            plain = hint in (bool, int, float, str) or dataclasses.is_dataclass(hint)
            literal = typing.get_origin(hint) is typing.Literal
            many = typing.get_origin(hint) is tuple and typing.get_args(hint)[1:] == (...,)
            assert plain or literal or many, f"{kind.__name__}.{name}: {hint}"


def test_a_model_without_settings_has_no_head_in_its_description() -> None:
    model = FiberForVisualReasoning(fiber_tiny())
    assert model.to_config().keys() == {"backbone"}
    assert Stranger(fiber_tiny()).to_config()["head"] == {"labels": ("yes", "no")}
    assert isinstance(Stranger.from_config(Stranger(fiber_tiny()).to_config()).own_head, nn.Module)
    assert FiberConfig(**model.to_config()["backbone"]) == model.backbone.config
