"""Contains the results browser, which is a static website for one run or several runs.

``site.py`` writes the website. ``index.html`` contains scores, training curves and settings. The folders ``data/`` and
``images/`` contain all items and pairs, which the page loads when they are needed. :mod:`scramble.reporting.pages`
explains the restrictions on pages.
"""
