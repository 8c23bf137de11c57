"""MPO's data engine: pairs of right and wrong answers, and answers against their continuation without the image.

Source: "Enhancing the Reasoning Ability of Multimodal Large Language Models via Mixed Preference Optimization", arXiv
2411.10442. docs/mpo_data.md says which settings are the paper's and which our own choice.
"""
