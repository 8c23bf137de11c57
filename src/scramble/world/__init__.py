"""The embedded world consists of fully annotated scenes of coloured shapes, which are generated without a download.

``build_world`` writes a world as records, ``holds`` decides whether a caption is true, and ``parse_clauses`` parses a
caption.
"""

from scramble.world.build import build_world
from scramble.world.grammar import GrammarError, parse_clauses
from scramble.world.judge import holds
from scramble.world.scenes import WorldError

__all__ = ["GrammarError", "WorldError", "build_world", "holds", "parse_clauses"]
