"""Which text fits which image, with onnxruntime, tokenizers, numpy and Pillow only: no torch, nothing of FIBER.

fiber export --checkpoint runs/coarse --out exported
python search_onnx.py exported photo.jpg "two dogs on a beach" "a red bus"
"""

import json
import sys
from pathlib import Path

import numpy as np
from onnxruntime import InferenceSession
from PIL import Image
from tokenizers import Tokenizer

folder, photo, *texts = sys.argv[1:]
settings = json.loads(Path(folder, "preprocessor_config.json").read_text(encoding="utf-8"))
side = settings["image_size"]
image = Image.open(photo).convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
pixels = (np.asarray(image, np.float32) / 255 - settings["mean"]) / settings["std"]
pixel_values = pixels.transpose(2, 0, 1)[None].astype(np.float32)

tokenizer = Tokenizer.from_file(str(Path(folder, "tokenizer.json")))
tokenizer.enable_truncation(settings["max_length"])
tokenizer.enable_padding(
    pad_id=json.loads(Path(folder, "export.json").read_text())["config"]["backbone"]["pad_token_id"]
)
encoded = tokenizer.encode_batch(texts)
ids, mask = (np.array([getattr(each, name) for each in encoded]) for name in ("ids", "attention_mask"))

(image_vector,) = InferenceSession(f"{folder}/image.onnx").run(["unit_vectors"], {"pixel_values": pixel_values})
(text_vectors,) = InferenceSession(f"{folder}/text.onnx").run(
    ["unit_vectors"], {"input_ids": ids, "attention_mask": mask}
)
for text, cosine in zip(texts, text_vectors @ image_vector[0], strict=True):
    print(f"{cosine:.4f}  {text}")
