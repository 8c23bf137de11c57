"""Writes self-contained HTML pages. A page is a single file that makes no network requests. It supports a light and a
dark mode.

Pages extend ``base.html.j2``, which contains the style and a content security policy that forbids network requests.
Texts are untrusted, so all of them are escaped, and templates must never mark a text as safe.
"""

from __future__ import annotations

import base64
import io
from pathlib import Path
from types import BuiltinMethodType, MethodType
from typing import TYPE_CHECKING, Any

from scramble.pixels import upright_rgb
from scramble.storage.files import write_text

if TYPE_CHECKING:
    from PIL import Image

TEMPLATE_FOLDER = Path(__file__).parent / "templates"
PALETTE = (
    ("#7b7f86", "#9aa0a8"),
    ("#d1661f", "#f09a5c"),
    ("#2a6fdb", "#78a9ff"),
    ("#16856a", "#4cc3a3"),
    ("#9445b8", "#cf94ea"),
    ("#a87a00", "#dcb544"),
    ("#c2345b", "#f57f9f"),
    ("#0d7fa5", "#5fc1e3"),
)
"""Colours of methods in light and dark mode, for the CSS variables ``--c0`` to ``--c7``. The first colour is for the
base model.
"""


def write_page(path: str | Path, templates: Path, name: str, **values: Any) -> None:
    """Render ``templates/name`` with ``values`` and write it to ``path`` atomically."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

    environment = Environment(
        loader=FileSystemLoader([templates, TEMPLATE_FOLDER]),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_not_a_method,
    )
    write_text(path, environment.get_template(name).render(palette=PALETTE, **values))


def _not_a_method(value: Any) -> Any:
    """Return ``value``. Raise TypeError if ``value`` is a method, because jinja2 resolves ``{{ row.items }}``
    to the method of the dictionary.
    """
    if isinstance(value, BuiltinMethodType | MethodType):
        raise TypeError(
            f"the template prints the method {value.__name__} instead of a value: rename the key, because jinja2 "
            f"resolves row.{value.__name__} to the method"
        )
    return value


def thumbnail(image: Image.Image | None) -> str:
    """Return a ``data:`` URL of an image, reduced to at most 160 pixels per side. Return "" for None."""
    if image is None:
        return ""
    data, kind = encoded(image, 160)
    return f"data:image/{kind};base64," + base64.b64encode(data).decode()


def encoded(image: Image.Image, pixels: int) -> tuple[bytes, str]:
    """Return the bytes and the format of an image, reduced to at most ``pixels`` pixels per side. The format is
    ``png``, which is lossless, for images of at most 96 pixels per side, and ``jpeg`` for larger images.
    """
    small = upright_rgb(image)
    lossless = max(small.size) <= 96
    small.thumbnail((pixels, pixels))
    buffer = io.BytesIO()
    small.save(buffer, "PNG" if lossless else "JPEG", **({} if lossless else {"quality": 80}))
    return buffer.getvalue(), "png" if lossless else "jpeg"
