"""Brackets around and inside an answer."""


def is_bracketed(text: str) -> bool:
    """Whether one pair of brackets encloses the whole text."""
    return inside_brackets(text) is not None


def inside_brackets(text: str) -> tuple[str, str, str] | None:
    """The opening bracket, its content and the closing one, if they enclose the whole text."""
    for opening, closing in (
        (r"\{", r"\}"),
        (r"\langle", r"\rangle"),
        ("(", ")"),
        ("[", "]"),
        ("(", "]"),
        ("[", ")"),
        ("]", "["),
        ("]", "]"),
        ("[", "["),
        ("<", ">"),
    ):
        if not (text.startswith(opening) and text.endswith(closing) and len(text) > len(opening) + len(closing)):
            continue
        inside = text[len(opening) : len(text) - len(closing)]
        if opening == "]" or closing == "[" or _balanced(inside):
            return opening, inside.strip(), closing
    return None


def _balanced(text: str) -> bool:
    depth = 0
    for character in text.replace(r"\{", "(").replace(r"\}", ")"):
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(character, 0)
        if depth < 0:
            return False
    return depth == 0


def hide_brackets(text: str) -> str:
    """The text with everything inside brackets as dots, so that only outer signs are found."""
    shown, depth, index = [], 0, 0
    while index < len(text):
        two = text[index : index + 2]
        opening, closing = two == r"\{" or text[index] in "([{", two == r"\}" or text[index] in ")]}"
        step = 2 if two in (r"\{", r"\}") else 1
        depth -= closing
        shown.append("." * step if depth or opening or closing else text[index])
        depth += opening
        index += step
    return "".join(shown)
