"""What a photo shows in words, with onnxruntime, tokenizers, numpy and Pillow only: no torch, nothing of FIBER.

fiber export --checkpoint runs/captions --out exported
python caption_onnx.py exported photo.jpg
"""

import json
import sys
from pathlib import Path

import numpy as np
from onnxruntime import InferenceSession
from PIL import Image
from tokenizers import Tokenizer

folder, photo = sys.argv[1:]
settings = json.loads(Path(folder, "preprocessor_config.json").read_text(encoding="utf-8"))
config = json.loads(Path(folder, "export.json").read_text(encoding="utf-8"))["config"]
backbone, generation = config["backbone"], config["head"]["generation"]
side = settings["image_size"]
image = Image.open(photo).convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
pixels = (np.asarray(image, np.float32) / 255 - settings["mean"]) / settings["std"]
pixel_values = pixels.transpose(2, 0, 1)[None].astype(np.float32)

names = ("image_keys", "image_values")
read = InferenceSession(f"{folder}/decoder_image.onnx").run(names, {"pixel_values": pixel_values})
step = InferenceSession(f"{folder}/decoder_step.onnx")
heads = backbone["num_attention_heads"]
keys = np.zeros((backbone["num_hidden_layers"], 1, 1, heads, 0, backbone["hidden_size"] // heads), np.float32)
values, written, token = keys, [], generation["begin_token_id"]
barred = {*generation["forbidden_token_ids"], generation["begin_token_id"], generation["pad_token_id"]}
barred = [each for each in barred if each < backbone["vocab_size"]]
while len(written) < generation["max_length"]:  # always the likeliest token; FIBER's beam search keeps several texts
    given = {"tokens": np.array([[token]]), **dict(zip(names, read, strict=True)), "keys": keys, "values": values}
    logits, keys, values = step.run(["logits", "new_keys", "new_values"], given)
    logits[..., barred] = -np.inf
    if len(written) < generation["min_length"]:
        logits[..., generation["end_token_id"]] = -np.inf
    token = int(logits[0, 0].argmax())
    if token == generation["end_token_id"]:
        break
    written.append(token)
print(Tokenizer.from_file(str(Path(folder, "tokenizer.json"))).decode(written).strip())
