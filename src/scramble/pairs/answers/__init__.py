"""MPO's data engine: pairs of right and wrong answers, and of answers and continuations generated without the image.

Source: "Enhancing the Reasoning Ability of Multimodal Large Language Models via Mixed Preference Optimization", arXiv
2411.10442. docs/mpo_data.md says which settings are from the paper and which are this project's choice.
"""
