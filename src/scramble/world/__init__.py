"""The embedded world consists of fully annotated scenes of coloured shapes, which are generated without a download.

``generate`` writes a world as records, ``holds`` decides whether a caption is true, and ``parse`` parses a caption.
"""

from scramble.world.build import generate
from scramble.world.grammar import GrammarError, parse
from scramble.world.judge import holds
from scramble.world.scenes import WorldError

__all__ = ["GrammarError", "WorldError", "generate", "holds", "parse"]
