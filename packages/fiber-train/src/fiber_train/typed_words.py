"""Settings as people type them: `key=value`, where text is the value itself and anything else is YAML."""

from __future__ import annotations

import re
from collections.abc import Sequence

from omegaconf import DictConfig, OmegaConf

from fiber_train.recipe_files import literal, parse_yaml
from fiber_train.schema import Schema, Setting, find_setting

SOURCE = "the command line"
_WORD = re.compile(r"[^=\[\]]+=")
NONE = ("null", "")  # how None is typed for a setting that may be None


def read_words(words: Sequence[str], schema: Schema) -> DictConfig:
    """A layer of settings from typed words; later ones win.

    The value of a setting whose type is text (`str`, all paths among them) is what stands behind the `=`, to the
    letter: `out=a #2` means a folder of that name. Where the setting may be None, `null` or nothing means that.

    Args:
        words: Such as `"trainer.max_steps=100"`.
        schema: Which settings there are; values of others are not parsed.

    Raises:
        ValueError: A word has no `=`, or its value is no YAML.
    """
    if malformed := [word for word in words if not _WORD.match(word)]:
        raise ValueError(f"overrides are written key=value, such as trainer.max_steps=100; got {malformed[0]!r:.80}")
    layer = OmegaConf.create()
    for word in words:
        key, _, text = word.partition("=")
        setting = find_setting(schema, key)
        if setting is None or (isinstance(setting, Setting) and setting.is_text):
            is_none = setting is not None and setting.is_optional and text in NONE
            OmegaConf.update(layer, key, None if is_none else literal(text))
        else:
            made = parse_yaml(OmegaConf.from_dotlist, [word], SOURCE, key)
            layer.merge_with(literal(OmegaConf.to_container(made)))
    return layer
