"""SceneAlign: faithful rationales are preferred to rationales of a scene graph with a recorded change.

Source: "Aligning Multimodal Reasoning to Scene Graphs in Complex Visual Scenes" (preprint, January 2026). Only the
outline is public: scene graphs, reasoning-critical nodes, four kinds of intervention (swap, replace, shorten,
overthink), DPO. All details are this project's choice; docs/scenealign.md lists them.
"""

KINDS = ("swap", "replace", "shorten", "overthink")
