r"""Compute the value of an arithmetic expression in LaTeX (``\frac{1}{2}``, ``3\sqrt{2}``, ``2^{10}``, ``4\pi``).

MATH-Vision compares two answers by their values, which latex2sympy2 1.9.1 and Python's ``eval`` compute. latex2sympy2
needs a version of ANTLR that conflicts with Hydra's, and a model's reply must not be passed to ``eval``. :func:`value`
therefore evaluates the same arithmetic with the same conventions:

- An implicit product binds tighter than ``/``.
- ``:`` divides.
- ``-3^2`` is -9.
- ``14\frac{4}{7}`` is a product, not a mixed number.
- ``\frac12`` and expressions with a letter or a unit have no value.

Three differences from MATH-Vision are deliberate:

- Division by a fraction is computed correctly. ``eval`` computes 3.5 for ``7/0.5``, because latex2sympy2 prints
  ``7/1/2``.
- An expression with a prime or a subscript has no value.
- An expression with a huge power or factorial has no value.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction

MAX_LENGTH = 1000  # maximum number of characters of an expression
MAX_BITS = 20_000  # maximum size of an integer power in bits
_BLANKS = re.compile(r"\\(?:displaystyle|q?quad|left(?![a-z])|right(?![a-z])|,)|[~$\s]")
_TOKEN = re.compile(r"\s*((?:\d*(?:,\d{3})*\.\d+|\d+(?:,\d{3})*)(?:\\%)?|\\[a-zA-Z]+|\\.|\S)", re.ASCII | re.DOTALL)
_PRODUCT = {"*": 1, r"\times": 1, r"\cdot": 1, "/": -1, r"\div": -1, ":": -1}
_CLOSING = {"(": ")", "{": "}", "[": "]", r"\{": r"\}", r"\lbrace": r"\rbrace", r"\lbrack": r"\rbrack"}
_FUNCTIONS = {
    r"\sin": math.sin,
    r"\cos": math.cos,
    r"\tan": math.tan,
    r"\exp": math.exp,
    r"\log": math.log10,
}


def value(text: str) -> int | float | None:
    """Return the value of an expression, or None if it has no value.

    The value is an integer only if no division, root or function is needed to compute it.
    """
    if len(text) > MAX_LENGTH:
        return None
    text = text.replace(r"\dfrac", r"\frac").replace(r"\tfrac", r"\frac")
    try:
        return _Expression(_BLANKS.sub(" ", text)).value()
    except (_NoValueError, ArithmeticError, ValueError, RecursionError):
        return None


class _NoValueError(Exception):
    """Raised if the text is not an arithmetic expression."""


class _Expression:
    """Computes the value of an expression while parsing it by recursive descent."""

    def __init__(self, text: str) -> None:
        self.tokens = _TOKEN.findall(text)
        self.place = 0

    @property
    def next(self) -> str:
        return self.tokens[self.place] if self.place < len(self.tokens) else ""

    def take(self, expected: str | None = None) -> str:
        token = self.next
        if not token or (expected is not None and token != expected):
            raise _NoValueError
        self.place += 1
        return token

    def value(self) -> int | float:
        result = self.sum()
        if self.next not in ("", ".", *_CLOSING.values()):  # a full stop or a closing bracket ends the expression
            raise _NoValueError
        return result

    def sum(self) -> int | float:
        total = self.product()
        while self.next in ("+", "-"):
            sign = 1 if self.take() == "+" else -1
            total += sign * self.product()
        return total

    def product(self) -> int | float:
        total = self.signed()
        while self.next in _PRODUCT:
            divides = _PRODUCT[self.take()] < 0
            factor = self.signed()
            total = total / factor if divides else total * factor
        return total

    def signed(self) -> int | float:
        if self.next in ("+", "-"):
            return self.signed() if self.take() == "+" else -self.signed()
        total = self.factor()
        while self.starts_factor():
            total *= self.factor()
        return total

    def starts_factor(self) -> bool:
        token = self.next
        return token in _CLOSING or token[:1].isdigit() or token[1:2].isdigit() or token in _NAMES

    def factor(self) -> int | float:
        result = self.base()
        while self.next == "^":
            self.take()
            result = _power(result, self.group("{") if self.next == "{" else self.atom())
        while self.next == "!":
            self.take()
            result = _factorial(result)
        return result

    def base(self) -> int | float:
        token = self.next
        if token in _CLOSING:
            return self.group(token)
        if token == r"\frac":
            self.take()
            return self.group("{") / self.group("{")
        if token == r"\sqrt":
            self.take()
            degree = self.group("[") if self.next == "[" else None
            radicand = self.group("{")
            return math.sqrt(radicand) if degree is None else _power(radicand, 1 / degree)
        if token == r"\binom":
            self.take()
            return _binomial(self.group("{"), self.group("{"))
        if token in _FUNCTIONS:
            self.take()
            return _FUNCTIONS[token](self.group("(") if self.next == "(" else self.product())
        return self.atom()

    def group(self, opening: str) -> int | float:
        self.take(opening)
        result = self.sum()
        self.take(_CLOSING[opening])
        return result

    def atom(self) -> int | float:
        token = self.take()
        if token == r"\pi":
            return math.pi
        if token == "e" and self.next == "^":  # "e" without an exponent has no value
            return math.e
        digits = token.removesuffix(r"\%").replace(",", "")
        if not re.fullmatch(r"\d*\.?\d+", digits, re.ASCII):
            raise _NoValueError
        number = Fraction(digits) / (1 if token[-1].isdigit() else 100)
        return int(number) if number.denominator == 1 else float(number)


_NAMES = {r"\frac", r"\sqrt", r"\binom", r"\pi", "e", *_FUNCTIONS}


def _power(base: int | float, exponent: int | float) -> int | float:
    if isinstance(base, int) and isinstance(exponent, int) and abs(base).bit_length() * abs(exponent) > MAX_BITS:
        raise _NoValueError
    result = base**exponent
    if isinstance(result, complex):
        raise _NoValueError
    return result


def _factorial(number: int | float) -> int:
    if not isinstance(number, int) or not 0 <= number <= MAX_LENGTH:
        raise _NoValueError
    return math.factorial(number)


def _binomial(n: int | float, k: int | float) -> int:
    if not isinstance(n, int) or not isinstance(k, int) or not 0 <= k <= n <= MAX_LENGTH:
        raise _NoValueError
    return math.comb(n, k)
