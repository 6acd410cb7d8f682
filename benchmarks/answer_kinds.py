"""Kinds of reference answers, and the parts of lists, tuples and intervals."""

import random
import re

INTEGER = r"-?\d+"
Pair = tuple[str, str]  # how it was rewritten, and the answer
LE, GE, LEQSLANT, GEQSLANT = r"\le", r"\ge", r"\leqslant", r"\geqslant"


def kind_of(answer: str) -> str:
    """The kind of a reference answer; `choose` takes some of each kind."""
    rules: list[tuple[str, str]] = [
        ("matrix", r"\\begin\{[pb]matrix"),
        ("union", r"\\cup"),
        (
            "interval",
            r"(?:\\left)?[\[(].*\\infty.*[\])]|(?:\\left)?\[[^\[\]]*,[^\[\]]*(?:\\right)?[)\]]|(?:\\left)?\([^()\[\]]*,[^()\[\]]*(?:\\right)?\]",
        ),
        ("clock", r".*\d\s*(?:\\!)?\s*:\s*(?:\\!)?\s*\d\d.*[ap]\.?m"),
        ("ratio", r"\d+\s*:\s*\d+"),
        ("base", r"[\dA-F]+_\{?\d+\}?"),
        ("money", r"\\\$\s*[\d,.\\!]+|.*\\text\{ ?dollars\}"),
        ("percent", r".*\\%"),
        ("degrees", r"-?[\d.]+\s*(?:\^\\circ|\^\{\\circ\})"),
        ("units", r"-?[\d.,\\!]+\s*(?:\\,)?\s*\\(?:text|mbox|textnormal)\{[ a-z.]*\}"),
        ("choice", r"(?:\\text\{)?\(?[A-Z]\)?\}?"),
        ("words", r"\\(?:text|mbox)\{[A-Za-z ]{3,}\}"),
        ("list", r"[^()\[\]{}=]*(?:\\(?:frac|sqrt|text)\{[^()=]*)?,\s[^()\[\]=]*"),
        ("tuple", r"(?:\\left)?\([^()]*,[^()]*(?:\\right)?\)"),
        ("assignment", r"[a-zA-Z]\s*=\s*[^=xyz]+"),
        ("equation", r".*=.*"),
        ("complex", r"[-+\d\\{}a-z\s]*\di|i|-i|.*[-+]\s*\d*i"),
        ("large", r"-?\d{4,}|-?\d{1,3}(?:(?:,|\{,\}|,\\!)\s*\d{3})+"),
        ("integer", INTEGER),
        ("decimal", r"-?\d*\.\d+"),
        ("fraction", r"-?\\[dt]?frac\s?\{?\d+\}?\s?\{?\d+\}?|-?\d+/\d+"),
        ("radical", r"[^a-z]*(?:\\(?:sqrt|frac|pi|cdot|left|right)[^a-z]*)+"),
        ("formula", r"[-+*/^{}()\d\s\\a-z]*[a-z][-+*/^{}()\d\s\\a-z]*"),
    ]
    for kind, pattern in rules:
        if re.fullmatch(pattern, answer, re.DOTALL) or (kind in {"matrix", "union"} and re.search(pattern, answer)):
            return kind
    return "other"


def choose(answers: list[str], count: int, seed: int) -> list[str]:
    """Choose answers, taking one of each kind in turn, so that rare kinds are represented."""
    generator = random.Random(seed)
    kinds: dict[str, list[str]] = {}
    for answer in sorted(set(answers)):
        kinds.setdefault(kind_of(answer), []).append(answer)
    for members in kinds.values():
        generator.shuffle(members)
    chosen: list[str] = []
    while len(chosen) < count and any(kinds.values()):
        for kind in sorted(kinds):
            if kinds[kind] and len(chosen) < count and kind != "other":
                chosen.append(kinds[kind].pop())
        if set(kinds) == {"other"} or not any(members for kind, members in kinds.items() if kind != "other"):
            break
    return chosen


def parts_of(label: str) -> list[str]:
    """The elements of a tuple, interval or list."""
    text = re.sub(r"\\(?:left|right)", "", label).strip()
    if text[:1] in "([" and text[-1:] in ")]":
        text = text[1:-1]
    return [
        part.strip()
        for part in re.split(r",\s*(?:\\text\{\s*and\s*\})?|\\text\{\s*(?:,\s*)?(?:and|or)\s*\}", text)
        if part.strip()
    ]


def turned(sign: str) -> str:
    """The inequality sign with its sides swapped."""
    return {"<": ">", LE: GE, ">": "<", GE: LE}[sign]


def styled(sign: str, style: str) -> str:
    """A sign that allows equality, in another style; other signs unchanged."""
    return style if sign in (LE, GE) else sign


def bounds_of(label: str) -> tuple[str, str, str, str]:
    text = re.sub(r"\\(?:left|right)", "", label).strip()
    start, end = parts_of(text)
    return text[0], start, end, text[-1]


def surely_differ(label: str, other: str) -> bool:
    """Whether two references surely differ: they do not hold the same numbers and words, in any order."""
    return sorted(re.findall(r"\d+|[a-zA-Z]+", label)) != sorted(re.findall(r"\d+|[a-zA-Z]+", other))
