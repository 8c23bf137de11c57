"""Lists all families. To add a family, write a subclass of Family in its own file and add the subclass here."""

from __future__ import annotations

from scramble.models.families.any_model import AnyModel, PaliGemma
from scramble.models.families.cohere_vision import AyaVision, Cohere2Vision
from scramble.models.families.gemma3 import Gemma3
from scramble.models.families.gemma4 import Gemma4
from scramble.models.families.glm4v import Glm4v, Glm4vMoe
from scramble.models.families.idefics import Idefics
from scramble.models.families.internvl import InternVL
from scramble.models.families.llava import Llava, LlavaNext, LlavaOnevision
from scramble.models.families.mistral3 import Mistral3
from scramble.models.families.molmo2 import Molmo2
from scramble.models.families.ovis2 import Ovis2
from scramble.models.families.qwen_vl import Qwen2VL, Qwen3VL, Qwen25VL, Qwen35
from scramble.models.family import Family, ModelError
from scramble.models.molmo.family import Molmo

FAMILIES: tuple[type[Family], ...] = (
    InternVL,
    Molmo,
    Molmo2,
    Llava,
    LlavaNext,
    LlavaOnevision,
    Ovis2,
    Mistral3,
    AyaVision,
    Cohere2Vision,
    Idefics,
    Qwen2VL,
    Qwen25VL,
    Qwen3VL,
    Qwen35,
    Gemma3,
    Gemma4,
    Glm4v,
    Glm4vMoe,
)
# Families without a trie that need special prompts. All other types in transformers' mapping use AnyModel.
WITHOUT_TRIE: tuple[type[AnyModel], ...] = (PaliGemma,)


def family_of(model_type: str) -> Family:
    """Return the family of a config's ``model_type``, or ``AnyModel`` for other image-text-to-text models.

    Raises ModelError if transformers has no image-text-to-text class for the type.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    for family in (*FAMILIES, *WITHOUT_TRIE):
        if model_type in family.model_types:
            return family()
    if model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return AnyModel(model_type)
    raise ModelError(
        f"models of type {model_type!r} are not supported, because transformers has no image-text-to-text class for "
        "this type: choose another model"
    )


def family_named(name: str) -> Family:
    """Return the family named ``name``. Raises ModelError if there is no such family."""
    for family in FAMILIES:
        if family.name == name:
            return family()
    raise ModelError(f"there is no family {name!r}: choose one of {', '.join(f.name for f in FAMILIES)}")


def check_version(version: str) -> None:
    """Raise ModelError if the families do not support ``version`` of transformers."""
    from packaging.version import Version

    if not Version("5.20") <= Version(version) < Version("6"):
        raise ModelError(
            f"transformers >= 5.20, < 6 is needed, but version {version} is installed: run pip install "
            "'transformers>=5.20,<6'"
        )
