"""How a result shows itself: in a terminal by `str`, in a notebook as a table, in JSON by `to_dict`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from html import escape
from typing import Any


@dataclass(frozen=True)
class Result:
    """What one question found: a few plain values, such as a text and its probability."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values by name, for JSON."""
        return asdict(self)

    def show(self) -> None:
        """Prints it."""
        print(self)  # noqa: T201 -- showing is what was asked for

    def _repr_html_(self) -> str:
        rows = (
            f"<tr><th>{name}</th><td>{escape(f'{value:.3f}' if isinstance(value, float) else str(value))}</td></tr>"
            for name, value in self.to_dict().items()
            if value is not None
        )
        return f"<table>{''.join(rows)}</table>"
