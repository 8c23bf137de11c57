"""SceneAlign creates pairs in which a faithful rationale is preferred to a perturbed one.

Source: "Aligning Multimodal Reasoning to Scene Graphs in Complex Visual Scenes" (preprint, January 2026). Only the
outline is public: scene graphs, reasoning-critical nodes, four kinds of intervention (swap, replace, shorten and
overthink), and DPO. All details are our choice. docs/scenealign.md lists these choices.
"""

INTERVENTION_KINDS = ("swap", "replace", "shorten", "overthink")
