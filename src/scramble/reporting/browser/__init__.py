"""Contains the results browser, which is a static website for one run or several runs.

``site.py`` writes the website. ``index.html`` contains scores, training curves and settings. The folders ``data/`` and
``images/`` contain the items, the pairs and their images, which the page loads when they are needed.
:mod:`scramble.reporting.pages` explains the restrictions on pages.
"""
