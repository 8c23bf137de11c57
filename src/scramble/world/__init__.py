"""The embedded world: scenes of coloured shapes of which everything is known, drawn from a seed, with no download.

``generate`` writes a world as records; ``holds`` judges any caption of it; ``parse`` reads a caption back.
"""

from scramble.world.build import generate
from scramble.world.grammar import GrammarError, parse
from scramble.world.judge import holds
from scramble.world.scenes import WorldError

__all__ = ["GrammarError", "WorldError", "generate", "holds", "parse"]
