r"""Parse the final answer of a reply, for evaluation (``protocol=cot``), rationales and MPO's data engine.

Models mark the same answer in many ways. These forms are parsed:

======================================== ============================================================================
mark                                     ``Final answer: B``, ``**Final Answer:** B``, ``The final answer is (B)``,
                                         ``FINAL ANSWER - b``, ``## Final answer`` on a separate line. The last mark
                                         with text after it counts. If there is no mark: ``<answer>B</answer>``, else
                                         ``\boxed{B}``. Text before ``</think>`` is skipped
wrapping (:func:`unwrap`)                ``**red**``, ``*red*``, ```red```, code fences, quotes of all kinds, ``$red$``,
                                         ``\(red\)``, ``\boxed{red}``, ``\text{red}``, ``<b>red</b>``, and a full stop
                                         after the wrapping
plainer forms (:func:`forms`)            "The answer is red", "(red)", "red.", "red, because ...", "red (the ball)",
                                         ``90^\circ``, ``1{,}234``, ``50\%``, ``\$5``, full-width characters
option (:func:`letter`)                  ``B``, ``b``, ``(B)``, ``B.``, ``B) dog``, ``B, since A is a cat``,
                                         ``option B``, the option's text
yes or no (:func:`yes_no`)               ``Yes.``, ``NO!``, ``No, there is no dog``
======================================== ============================================================================

The caller's rule decides on an answer that names two options, or both yes and no. Plainer
forms are tried after the unchanged answer, so that an answer that is right as written remains right.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_MARKUP = r"[\s*_`~\"“”]*"
# "Final answer" is a mark if a colon (or another sign) or "is" follows, or if it is alone on a line, as a heading.
_MARK = re.compile(
    rf"final[\s*_]+answers?\b(?:\s*\((?!\s*(?:yes|no|[A-Z])\s*\))[^()\n]{{0,40}}\))?{_MARKUP}"
    rf"(?:(?:is|was|would be|will be|must be|should be)\b{_MARKUP}[:：]?|[:：=]|[-–—=]+>?\s)"
    rf"|^[#>*_` \t]*final[\s*_]+answers?[*_`\s]*$",
    re.IGNORECASE | re.MULTILINE,
)
_BEFORE_MARK = re.compile(
    r"(?:(?:\b(?:so|thus|therefore|hence),?\s+)?\b(?:the|my|our)\s+)?(?:<\w+>|\\(?:text|boxed)\{|[*_`$#\"“(\s])*$",
    re.IGNORECASE,
)
_MENTION = re.compile(r"final answer\s*:?", re.IGNORECASE)
_STRICT_MARK = re.compile(r"final answer\s*:", re.IGNORECASE)
_THOUGHT_END = re.compile(r"</(?:think|thinking|thought|reasoning)>|◁/think▷", re.IGNORECASE)
_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.IGNORECASE | re.DOTALL)
_CLOSING_TAG = re.compile("</answer>", re.IGNORECASE)
_NOTHING = " \t\r\n.,;!:*_$`~\"'“”‘’)}]>#-"
BOXED = r"\boxed{"


@dataclass(frozen=True, slots=True)
class Stated:
    """Contains an answer that a reply marks (:func:`stated`) or puts into a box (:func:`boxed`).

    If ``Final answer:`` occurs in a reply, ``before`` and ``marks`` ignore other forms of marks.

    Attributes:
        answer: the unwrapped text after the mark, or the content of the box ("" if there is none).
        before: the text before the first mark or box.
        start: the character offset of the mark or box with the answer.
        marks: the number of marks or boxes.
    """

    answer: str
    before: str
    start: int
    marks: int


def stated(text: str) -> Stated | None:
    """Return the answer after the last mark with text after it, or None if there is no mark.

    "Final answer" is a mark if a colon, "is" or a similar sign or verb follows, or if it is alone on its line.
    """
    marks = list(_MARK.finditer(text))
    if not marks:
        return None
    # Prompts request the strict form. If the strict form occurs, looser forms before it belong to the rationale.
    strict = list(_STRICT_MARK.finditer(text)) or marks
    lead = _BEFORE_MARK.sub("", text[: strict[0].start()])
    ends = [*(mark.start() for mark in marks[1:]), len(text)]
    for mark, end in reversed(list(zip(marks, ends, strict=True))):
        rest = text[mark.end() : end]
        if rest.strip(_NOTHING):
            return Stated(unwrap(rest), lead, mark.start(), len(strict))
    # If only signs follow the mark, they are the answer, for example to a question about a sign ("+").
    return Stated(unwrap(text[marks[-1].end() :]), lead, marks[-1].start(), len(strict))


def find(text: str) -> str | None:
    """Return the final answer of a reply without markup, or None if no answer is marked.

    The final answer is searched for in this order: :func:`stated`, any other mention of a "final answer", ``<answer>``
    tags, ``\\boxed{}``. Text before ``</think>`` or a similar tag is skipped.
    """
    text = after_thought(text)
    if marked := stated(text):
        return marked.answer
    box = boxed(text)
    if mentions := list(_MENTION.finditer(text)):
        rest = text[mentions[-1].end() :]
        return unwrap(box.answer if box and box.answer and BOXED in rest else rest)
    # After the last closing tag, the search for the end of each opening tag would take quadratic time.
    closed = max((tag.end() for tag in _CLOSING_TAG.finditer(text)), default=0)
    if tagged := _TAGGED.findall(text, 0, closed):
        return unwrap(tagged[-1])
    return unwrap(box.answer) if box and box.answer else None


def before(text: str) -> str:
    """Return the text before the last mark or other mention of a final answer, or the whole text if there is none."""
    marked = stated(text)
    mentions = [marked.start] if marked else [m.start() for m in _MENTION.finditer(text)]
    return _BEFORE_MARK.sub("", text[: mentions[-1]]).strip("*$ \n") if mentions else text


def after_thought(text: str) -> str:
    """Return the text after the last ``</think>`` or similar tag. Return the whole text if there is no such tag, or if
    no text follows the tag.
    """
    ends = list(_THOUGHT_END.finditer(text))
    rest = text[ends[-1].end() :] if ends else ""
    return rest if rest.strip() else text


def boxed(text: str) -> Stated | None:
    r"""Return the unchanged content of the last ``\boxed{...}``, or None if there is no box.

    The content is "" if the braces are not balanced.
    """
    start = text.rfind(BOXED)
    if start < 0:
        return None
    end = _closing(text, start + len(BOXED))
    answer = "" if end is None else text[start + len(BOXED) : end].strip()
    lead = re.sub(r"answer\s*:?[\s*$]*$", "", text[: text.find(BOXED)], flags=re.IGNORECASE)
    return Stated(answer, lead, start, text.count(BOXED))


def _closing(text: str, begin: int) -> int | None:
    """Return the index of the brace that closes the brace before ``begin``, or None if there is none."""
    depth = 1
    for place in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return place
    return None


# ------------------------------------------------------------------------------------------------------- unwrapping

# Longer wrappings come first ("**" before "*"). A wrapping is removed only if its signs do not occur inside.
_PAIRS = (
    ("```", "```"),
    ("***", "***"),
    ("**", "**"),
    ("*", "*"),
    ("~~", "~~"),
    ("``", "''"),
    ("`", "`"),
    ("$$", "$$"),
    ("$", "$"),
    (r"\(", r"\)"),
    (r"\[", r"\]"),
    ('"', '"'),
    ("'", "'"),
    ("“", "”"),
    ("„", "“"),
    ("„", "”"),
    ("”", "”"),
    ("‘", "’"),
    ("‚", "‘"),
    ("’", "’"),
    ("«", "»"),
    ("»", "«"),
    ("‹", "›"),
    ("「", "」"),
    ("『", "』"),
    ("《", "》"),
    ("＂", "＂"),
    ("＇", "＇"),
    ("&quot;", "&quot;"),
)
_FENCE = re.compile(r"```[\w-]*\n(.*?)\n?```", re.DOTALL)
_COMMANDS = (
    "boxed|fbox|text|textbf|textit|textrm|texttt|textsf|textnormal|emph|underline|mathrm|mathbf|mathit|mathsf|mathtt|"
    "mbox|hbox|operatorname|boldsymbol|bm|bold"
)
_COMMAND = re.compile(rf"\\(?:{_COMMANDS})\s*\{{")
_TAG = re.compile(r"<(b|strong|i|em|u|code|answer|mark|span|p|final_answer|final)>(.*)</\1>", re.IGNORECASE | re.DOTALL)
_END_MARKS = ".,;:!。．，；：！"


def unwrap(answer: str) -> str:
    """Remove emphasis, quotes, code marks, dollar signs, LaTeX's text commands and tags around the complete answer.

    A full stop after a wrapping is removed as well, but a full stop that belongs to the answer ("U.S.A.") is kept.
    Brackets are kept, because they can denote a list or an interval. The dollar sign of an amount is kept too.
    """
    while True:
        answer = answer.strip(" \t\r\n\u00a0\u200b\ufeff")
        inner = _inner(answer)
        if inner is None and answer[-1:] in _END_MARKS:
            inner = _inner(answer.rstrip(_END_MARKS + " \n"))
        if inner is None:
            inner = _without_remains(answer)
        if inner == answer:
            return answer
        answer = inner


def _inner(text: str) -> str | None:
    """Return the content of the outermost wrapping, or None if nothing wraps the whole text."""
    if fence := _FENCE.fullmatch(text):
        return fence[1]
    if command := _COMMAND.match(text):
        end = _closing(text, command.end())
        return text[command.end() : end] if end == len(text) - 1 else None
    if tag := _TAG.fullmatch(text):
        return tag[2]
    for left, right in _PAIRS:
        if len(text) > len(left + right) and text.startswith(left) and text.endswith(right):
            inner = text[len(left) : -len(right)]
            if left not in inner and right not in inner:
                return inner
    return None


def _without_remains(text: str) -> str:
    """Remove the second half of a wrapping whose first half is before the mark.

    In "**Final answer: red**" the second half ends the text, and in "**Final answer:** red" the text begins with it.
    """
    text = text.strip()
    twos = text.count("**")
    if twos % 2 or text.count("*") % 2:
        text = text.strip("* ")
    if text.startswith("$") and not re.match(r"\$\d", text):
        text = text.lstrip("$ ")
    text = text.rstrip("$ ")
    text = re.sub(r"^(?:</\w+>|[#>•:：]+\s+|[-–—]\s+(?=[^\W\d]))\s*", "", text)
    if closing := re.search(r"(?:</\w+>|<\|\w+\|>)$", text):
        text = text[: closing.start()].rstrip()
    for left, right in (("(", ")"), ("[", "]"), ("{", "}")):
        if text.endswith(right) and left not in text and not re.match(r"\w\)$|\w\) ?$", text):
            text = text[:-1].rstrip("\\")
        if text.startswith(right):
            text = text[1:].lstrip()
    for quote in ("`", '"', "”", "_"):
        if text.endswith(quote) and text.count(quote) == 1 and not re.search(r"\d.$", text):
            text = text[:-1]
    return text


# ---------------------------------------------------------------------------------------------------- plainer forms

_WIDE = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: " ", 0x00A0: " ", 0x3002: "."}
_LEAD = re.compile(
    r"(?:(?:so|thus|therefore|hence)\b[,:]?\s+)?(?:(?:the|my|our)\s+)?(?:(?:correct|right|best|final|most likely)\s+)*"
    r"(?:answer|option|choice|response|letter)\b\s*(?:(?:is|would be|must be)\b\s*:?|[:=]|-\s)?\s*(?:that\s+)?"
    r"|(?:so\s+)?(?:(?:it|that|this)(?:\s+is|'s)|is)\b\s*:?\s+",
    re.IGNORECASE,
)
_EXPLANATION = re.compile(
    r"\s*(?:[,;:(]\s*|\s[–—-]\s*|[.!?]\s+)?\b(?:because|since|due to|given that)\b.*"
    r"|\s*[,;]\s*(?:as|so|which|where|while|not|and not|rather than|instead of|but not)\b.*"
    r"|\s+\((?!or\b|and\b|not\b).*\)\.?$|\s+[–—]\s.*|[.!]\s+\W*[A-Z(].*",
    re.IGNORECASE | re.DOTALL,
)
_ANSWERED = re.compile(r"(yes|no)\b\s*(?:$|\((?!\s*(?:yes|no)\s*\))|[,;:.!–—-](?!\s*(?:yes|no)\b))", re.IGNORECASE)
_LATEX = (
    (re.compile(rf"\\(?:{_COMMANDS})\s*\{{([^{{}}]*)\}}"), r"\1"),
    (re.compile(r"\\[dt]?frac\s*\{(-?\d+)\}\s*\{(\d+)\}"), r"\1/\2"),
    (re.compile(r"\s*\^?\s*\{?\s*\\(?:circ|degree)\b\s*\}?"), "°"),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\\([%$#&_{}])"), r"\1"),
    (re.compile(r"\\[,;:! ]|\\quad\b|(?<=\w)~(?=\w)"), " "),
    (re.compile(r"\\left\b|\\right\b"), ""),
)
_SIGNS = re.compile(r"\*\*|__|~~|[`“”„«»]|(?<!\w)[*_](?=\w)|(?<=\w)[*_](?!\w)")


def plain(answer: str) -> str:
    """Return the first line of an answer without markup, with LaTeX and full-width signs converted to plain text."""
    lines = [line for line in unwrap(answer).splitlines() if line.strip(_NOTHING)]
    text = unwrap(lines[0] if lines else answer).translate(_WIDE)
    text = re.sub(r"\s{2,}", " ", text)  # so that the following patterns take linear time
    for pattern, written in _LATEX:
        text = pattern.sub(written, text)
    if not re.search(r"\$\d", text):
        text = text.replace("$", "")
    text = re.sub(r"(?<=\d)[\u2009\u202f](?=\d{3}(?!\d))", "", text)
    return " ".join(unwrap(_SIGNS.sub("", text)).split())


def forms(answer: str) -> tuple[str, ...]:
    """Return the unchanged answer, followed by increasingly plain forms of it, without repetitions."""
    without_phrase = without_lead(plain(answer))
    bare = _bare(without_phrase)
    candidates = [answer, unwrap(answer), plain(answer), without_phrase, bare, _bare(without_explanation(bare))]
    if re.fullmatch(r"\$\s?\d.*", bare):  # an amount
        candidates.append(bare.lstrip("$ "))
    if (box := boxed(answer)) and box.answer:  # "The area is \boxed{5}"
        candidates += [unwrap(box.answer), plain(box.answer)]
    return tuple(dict.fromkeys(form for form in candidates if form.strip())) or (answer,)


def without_lead(text: str) -> str:
    """Return the text without "the answer is" or a similar phrase at its beginning."""
    lead = _LEAD.match(text)
    rest = unwrap(text[lead.end() :]) if lead else ""
    return rest or text


def without_explanation(text: str) -> str:
    """Return the text up to ", because", "(...)" or a second sentence, or the whole text if nothing would remain."""
    if match := _ANSWERED.match(text):
        return match[1]
    explanation = _EXPLANATION.search(text)
    return (text[: explanation.start()].strip() if explanation else "") or text


def _bare(text: str) -> str:
    """Return the text without final punctuation, and without brackets around a text that is not a list."""
    text = unwrap(text.rstrip(" " + _END_MARKS) or text)
    inside = re.fullmatch(r"[(\[{<【［（]\s*([^()\[\]{}<>,;]+?)\s*[)\]}>】］）]", text)
    return unwrap(inside[1]) if inside else text


# --------------------------------------------------------------------------------------------------- options, yes, no

_LETTER = re.compile(r"([(\[{<]?)\s*([A-Za-z])(?:\s*([)\]}>]))?(.*)", re.DOTALL)
_OTHERS = re.compile(r"\s*(?:(?:[,;/&+]|,?\s*\b(?:and|or)\b)\s*)[(\[]?([A-Z])[)\]]?\s*(?:$|[.,;/&]|\band\b|\bor\b)")
_AFTER_LETTER = re.compile(
    r"[.:]?\s*$|[.,;!)](?:\s|$)|:|\s*[-–—=]+>?\s|\s+[(\[“\"']|\s+(?:because|since|as|due to|given)\b"
    r"|\s+is\s+(?:the\s+)?(?:correct|right|best|true|answer|most)\b"
)


def letter(answer: str, options: Mapping[str, str]) -> str | None:
    """Return the letter of the option that a final answer names by its letter or by its text.

    Args:
        answer: a final answer as returned by :func:`find`.
        options: mapping from upper-case letters to texts. A text is "" if the question contains the options.

    Returns:
        The letter, or None if the answer does not name exactly one option in a form of the module's table.
    """
    if (box := boxed(answer)) and box.answer:
        answer = box.answer
    line = plain(answer)
    for text in (line, without_lead(line)):
        if name := _by_text(text, options):
            return name
        if name := _by_letter(text, options):
            return name
    return _by_text(_bare(without_explanation(without_lead(line))), options)


def _by_text(text: str, options: Mapping[str, str]) -> str | None:
    folded = _folded(text)
    if len(folded) < 2 and folded.upper() in options:  # a letter, even if an option has this text
        return None
    named = [name for name, option in options.items() if folded and _folded(option) == folded]
    return named[0] if len(named) == 1 else None


def _folded(text: str) -> str:
    """Return the form in which texts are compared: lower case, without a leading article or outer punctuation."""
    text = " ".join(_bare(plain(text)).lower().split())
    return re.sub(r"^(?:an?|the)\s+(?=\S)", "", text)


def _by_letter(text: str, options: Mapping[str, str]) -> str | None:
    match = _LETTER.match(text)
    if match is None or match[2].upper() not in options:
        return None
    opened, name, closed, rest = match[1], match[2].upper(), match[3], match[4]
    others = _OTHERS.match(rest)
    if others and others[1] in options and others[1] != name:
        return None
    if (opened and closed) or (closed and (not rest or rest[0] in " .,:;")):
        return name
    own = options[name]
    if not opened and (_AFTER_LETTER.match(rest) or (own and rest[:1].isspace() and _folded(rest) == _folded(own))):
        return name
    return None


def yes_no(answer: str) -> str | None:
    """Return ``yes`` or ``no`` if a final answer consists of this word, or begins with it and continues with a
    punctuation mark.
    """
    match = _ANSWERED.match(_bare(without_lead(plain(answer))))
    return match[1].lower() if match else None
