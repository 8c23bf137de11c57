"""SceneAlign: faithful rationales preferred to rationales whose scene graph was changed in one recorded place.

Source: "Aligning Multimodal Reasoning to Scene Graphs in Complex Visual Scenes" (preprint, January 2026). Only the
outline is public: scene graphs, reasoning-critical nodes, four kinds of intervention (swap, replace, shorten,
overthink), DPO. Every rule and number below it is this project's own choice; docs/scenealign.md lists them.
"""

KINDS = ("swap", "replace", "shorten", "overthink")
