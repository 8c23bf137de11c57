"""The results browser: a static website for one run or several runs.

``site.py`` writes it: ``index.html`` with scores, training curves and settings, and files in ``data/`` and ``images/``
with all items and pairs, which the page loads when they are needed. See :mod:`scramble.reporting.pages` for the
restrictions on pages.
"""
