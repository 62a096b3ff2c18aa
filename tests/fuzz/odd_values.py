"""What files hold in place of the value that a format prescribes."""

from __future__ import annotations

from typing import Any

from fuzz.documents import RAW

RAW_TEXTS = {
    "nan": "NaN",
    "infinity": "Infinity",
    "minusinfinity": "-Infinity",
    "overflow": "1e999",
    "long_number": "9" * 5000,  # more digits than Python turns to a number
    "deep_list": "[" * 100_000 + "]" * 100_000,
    "deep_object": '{"a":' * 100_000 + "1" + "}" * 100_000,
    "rather_deep": "[" * 500 + "]" * 500,
    "surrogate": '"\\ud800"',
    "yaml_nan": ".nan",
    "yaml_infinity": "-.inf",
    "yaml_tag": "!!python/object/apply:os.getcwd []",
    "yaml_unknown_tag": "!thing 1",
    "yaml_alias": "*nothing",
    "yaml_date": "2001-01-01",
    "bare_word": "nothing",
}
"""By name, text that no serializer writes."""

_EXACT: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 3, 0.5, -0.0, 1.0, 1e50, -1e50, 1e-320, 2**31, 2**63, -(2**63), 10**30),
    *("", " ", "x", "0", "-1", "null", "nan", "1e5", "None", "\t", "a\nb", "\x00", "\u2028", "\ufeff", "e\u0301"),
    *("../../a.jpg", "/etc/hostname", "a\\b.jpg", "http://localhost/a.jpg", "~", ".", "..", "${oc.env:HOME}", "${x}"),
    *("x" * 300, "x/" * 600, "word " * 20_000, "\u72d7", "\U0001f415", "%s{}%d", "[a", "a: b", "a #2"),
    *([], {}, [None], [[]], [0], [0, 0, 0, 0], [1, 2], [[0, 5]], ["a"], {"a": 1}, {"id": 1}, {"": None}, [[[[1]]]]),
]
ODD_VALUES: list[Any] = [*_EXACT, *(RAW + name for name in RAW_TEXTS)]
