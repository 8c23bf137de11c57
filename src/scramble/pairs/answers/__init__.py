"""MPO's data engine creates pairs of correct and incorrect answers, and of answers and continuations without the image.

Source: "Enhancing the Reasoning Ability of Multimodal Large Language Models via Mixed Preference Optimization", arXiv
2411.10442. docs/mpo_data.md lists the differences from the paper.
"""
