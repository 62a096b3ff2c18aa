"""Where named things are, with onnxruntime, tokenizers, numpy and Pillow only: no torch, nothing of FIBER.

fiber export --checkpoint runs/fine --out exported
python detect_onnx.py exported photo.jpg "person" "hot dog"
"""

import json
import sys
from pathlib import Path

import numpy as np
from onnxruntime import InferenceSession
from PIL import Image
from tokenizers import Tokenizer

THRESHOLD, LEAST_CHANCE, MOST_OVERLAP = 0.2, 0.05, 0.6


def overlaps(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of a box (4,) with others (N, 4), xyxy."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    common = (high - low).clip(0).prod(axis=1)
    areas = [(each[..., 2:] - each[..., :2]).prod(axis=-1) for each in (box, others)]
    return common / (areas[0] + areas[1] - common)


folder, photo, *names = sys.argv[1:]
settings = json.loads(Path(folder, "preprocessor_config.json").read_text(encoding="utf-8"))
stride = json.loads(Path(folder, "export.json").read_text(encoding="utf-8"))["config"]["head"]["strides"][-1]

image = Image.open(photo).convert("RGB")  # its shorter side gets a length, unless the longer one would be too long
short, long = sorted(image.size)
small = min(settings["shorter"], round(settings["longest"] * short / long))
large = min(settings["longest"], int(small * long / short))
size = (small, large) if image.width <= image.height else (large, small)
pixels = np.asarray(image.resize(size, Image.Resampling.BILINEAR), np.float32) / 255
padded = np.zeros((1, 3, -(-size[1] // stride) * stride, -(-size[0] // stride) * stride), np.float32)
padded[0, :, : size[1], : size[0]] = ((pixels - settings["mean"]) / settings["std"]).transpose(2, 0, 1)

encoded = Tokenizer.from_file(str(Path(folder, "tokenizer.json"))).encode(". ".join(names))
ends = np.cumsum([len(name) + 2 for name in names]) - 2
words = [[a < end and b > end - len(name) for a, b in encoded.offsets] for name, end in zip(names, ends, strict=True)]
if missing := [name for name, own in zip(names, words, strict=True) if not any(own)]:
    sys.exit(f"no room for {missing[0]!r} in one prompt; ask fewer names at a time")
given = {"pixel_values": padded, "image_sizes": np.array([size[::-1]])}
given |= {"input_ids": np.array([encoded.ids]), "attention_mask": np.array([encoded.attention_mask])}
outputs = InferenceSession(f"{folder}/detector.onnx").run(["boxes", "centerness", "token_scores"], given)
boxes, centerness, token_scores = (each[0] for each in outputs)

boxes = boxes.clip(0, [*size, *size])
share = np.array(words) / np.sum(words, axis=1, keepdims=True)
for name, chance in zip(names, share @ token_scores.T, strict=True):
    scores = np.sqrt(chance * centerness)
    left = np.flatnonzero((chance > LEAST_CHANCE) & (scores > THRESHOLD) & (boxes[:, :2] < boxes[:, 2:]).all(axis=1))
    left = left[np.argsort(-scores[left], kind="stable")]
    while len(left):
        best, left = left[0], left[1:]
        left = left[overlaps(boxes[best], boxes[left]) <= MOST_OVERLAP]
        found = boxes[best] * (np.array(image.size * 2) / np.array(size * 2))
        print(f"{scores[best]:.4f}  {name}  {' '.join(f'{each:.2f}' for each in found)}")
