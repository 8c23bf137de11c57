"""Create MPO's pairs of correct and incorrect answers, and of answers completed with and without the image.

Source: "Enhancing the Reasoning Ability of Multimodal Large Language Models via Mixed Preference Optimization", arXiv
2411.10442. docs/mpo_data.md lists the differences from the paper.
"""
