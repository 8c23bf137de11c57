"""SceneAlign: faithful rationales are preferred to rationales of an edited scene graph, whose edits are recorded.

Source: "Aligning Multimodal Reasoning to Scene Graphs in Complex Visual Scenes" (preprint, January 2026). Only the
outline is public: scene graphs, reasoning-critical nodes, four kinds of intervention (swap, replace, shorten,
overthink), DPO. All details are our choice; docs/scenealign.md lists them.
"""

KINDS = ("swap", "replace", "shorten", "overthink")
