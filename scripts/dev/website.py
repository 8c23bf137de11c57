"""Extends the documentation's website (``mkdocs.yml``) with support for equations and for the roles in docstrings."""

from __future__ import annotations

import re
from typing import Any

import griffe
from latex2mathml.converter import convert


def equation(source: str, language: str, css_class: str, options: dict[str, Any], md: Any, **kwargs: Any) -> str:
    """Return the MathML of an equation in LaTeX. This function is a fence formatter for ``pymdownx.superfences``."""
    return f'<div class="{css_class}">{convert(source, display="block")}</div>'


class Roles(griffe.Extension):
    """Shows ``:class:`trl.DPOConfig``` in a docstring as code, because the website's docstrings are Markdown."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Replace the roles in the docstring of an object."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r":[a-z]+:`~?([^`]+)`", r"`\1`", obj.docstring.value)
