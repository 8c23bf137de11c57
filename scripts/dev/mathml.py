"""Equations of the documentation: fences with the language ``math`` become MathML, which browsers render themselves."""

from __future__ import annotations

from typing import Any

from latex2mathml.converter import convert


def fence(source: str, language: str, css_class: str, options: dict[str, Any], md: Any, **kwargs: Any) -> str:
    """Return the HTML of an equation in LaTeX. It is a formatter of the Markdown extension ``pymdownx.superfences``."""
    return f'<div class="{css_class}">{convert(source, display="block")}</div>'
