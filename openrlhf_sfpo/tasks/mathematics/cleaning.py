# ruff: noqa: RUF001
"""One spelling for the many ways in which the same formula is typed.

`clean` turns an answer, as LaTeX, plain text or Unicode, into LaTeX with these conventions: \\text{...} holds all words
and nothing but words; there is no \\left or \\big, and there are no spacing or font commands; \\frac and \\sqrt have
braces; comparisons are < > \\le \\ge \\ne =; minus signs are plain; commas are the only thousands separators;
currencies are \\text{¤} (dollars), \\text{£} ... where they stand; degrees are ^\\circ.
"""

import re
import unicodedata

from openrlhf_sfpo.tasks.boxes import closing_brace
from openrlhf_sfpo.tasks.mathematics.notations import greek_units, standard_notation
from openrlhf_sfpo.tasks.mathematics.numerals import NUMBER_WORDS
from openrlhf_sfpo.tasks.mathematics.units import is_unit_symbol

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉₊₋", "0123456789+-")
_GREEK = {
    "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "epsilon", "ζ": "zeta", "η": "eta", "θ": "theta",
    "ι": "iota", "κ": "kappa", "λ": "lambda", "μ": "mu", "ν": "nu", "ξ": "xi", "π": "pi", "ρ": "rho", "σ": "sigma",
    "τ": "tau", "υ": "upsilon", "φ": "phi", "χ": "chi", "ψ": "psi", "ω": "omega",
    "Δ": "Delta", "Γ": "Gamma", "Θ": "Theta", "Λ": "Lambda", "Π": "Pi", "Σ": "Sigma", "Φ": "Phi", "Ψ": "Psi",
    "Ω": "Omega", "ϕ": "phi", "ϵ": "epsilon",
}  # fmt: skip
_SYMBOLS = {
    "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ",
    "∙": r"\cdot ", "•": r"\cdot ", "÷": "/", "∕": "/", "⁄": "/", "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ",
    "⩽": r"\le ", "⩾": r"\ge ", "≦": r"\le ", "≧": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "≃": r"\approx ",
    "∈": r"\in ", "∪": r"\cup ", "∩": r"\cap ", "±": r"\pm ", "∓": r"\mp ", "∅": r"\emptyset ", "ℝ": r"\mathbb{R}",
    "ℤ": r"\mathbb{Z}", "°": r"^\circ ", "º": r"^\circ ", "˚": r"^\circ ", "′": "'", "’": "'", "‘": "'", "“": '"',
    "”": '"', "∠": r"\angle ", "⟨": r"\langle ", "⟩": r"\rangle ", "∣": "|", "％": "%", "…": r"\ldots ",
    "∖": r"\setminus ", "∧": r"\text{ and }", "∨": r"\text{ or }", "⌊": r"\lfloor ", "⌋": r"\rfloor ",
    "⌈": r"\lceil ", "⌉": r"\rceil ", "℃": r"^\circ \text{C}", "℉": r"^\circ \text{F}", "＄": r"\$", "￥": "¥",
    "△": r"\triangle ", "∆": r"\triangle ", "∶": ":", "、": ",", "。": ".",
}  # fmt: skip
_INVISIBLE = re.compile("[\u200b-\u200f\u2060-\u2064\ufeff\u00ad]")
_ROOT = re.compile(r"(√|∛|∜)\s*(\d+(?:\.\d+)?|[a-zA-Zπ]|(?=[({\\]))")
_DOLLAR = "¤"  # represents a dollar sign that is not a delimiter of mathematics
_CURRENCIES = "¢£€¥₹¤"
_PREFIX = re.compile(
    r"\s?(\\text\{)?\s?(?:so |thus |therefore,? )?(?:the )?(?:final |correct )?answer(?: is)?\s*[:=]?(?![a-z])\s*"
    r"(\}?)[:=]?\s*(?=\S)",
    re.IGNORECASE,
)
_FUNCTIONS = {
    "sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "arccot", "sinh", "cosh", "tanh", "ln",
    "log", "lg", "exp", "max", "min", "gcd", "lcm", "det", "dim", "deg", "mod", "arg", "lim", "sup",
    "inf", "ker", "tr", "sgn", "pi", "sqrt", "frac", "theta", "alpha", "beta", "gamma", "delta", "lambda", "sigma",
    "omega", "phi", "infty",
}  # fmt: skip
_TEXT_COMMANDS = r"(?:text(?:rm|bf|it|sf|tt|normal|up|md|sc)?|mbox|hbox|mathrm|operatorname\*?|rm|textsuperscript)"
_FONT_COMMANDS = (
    r"(?:math(?:bf|it|sf|tt|normal|cal|scr|frak)|boldsymbol|bm|pmb|bold|ensuremath|underline|displaystyle|boxed|fbox"
    r"|mathord|mathop|mathstrut|emph|textcolor\{\w*\}|color\{\w*\}|cancel|llap|rlap|vphantom|smash)"
)
_DROPPED = re.compile(
    r"\\(?:displaystyle|textstyle|scriptstyle|limits|nolimits|middle|left|right|[bB]igg?[lrm]?|mleft|mright|bf|it|rm|sf"
    r"|normalsize|large|Large|huge|small|qquad|quad|enspace|enskip|thinspace|medspace|thickspace|negthinspace|null"
    r"|nobreak|allowbreak|nonumber|notag|hfill|par|centering|mathstrut|strut|relax|checkmark|square|blacksquare|qed)(?![a-zA-Z])"
    r"|\\[hv]space\*?\{[^{}]*\}|\\h?kern-?[\d.]+(?:em|ex|pt|mu)|\\color\{\w+\}|\\(?:label|tag\*?)\s*\{[^{}]*\}"
)
_RELATIONS = {
    "leq": "le", "leqslant": "le", "leqq": "le", "geq": "ge", "geqslant": "ge", "geqq": "ge", "neq": "ne",
    "lbrace": "{", "rbrace": "}", "approxeq": "approx", "simeq": "approx", "mid": "|", "vert": "|", "lvert": "|",
    "rvert": "|", "colon": ":", "varnothing": "emptyset", "R": "mathbb{R}", "reals": "mathbb{R}", "Reals": "mathbb{R}",
    "dfrac": "frac", "tfrac": "frac", "cfrac": "frac", "sfrac": "frac", "nicefrac": "frac", "dbinom": "binom",
    "tbinom": "binom", "degree": "circ",
    "land": "text{ and }", "lor": "text{ or }", "wedge": "text{ and }", "vee": "text{ or }", "ast": "cdot",
    "bmod": "mod", "dots": "ldots", "cdots": "ldots", "dotsc": "ldots", "lt": "<", "gt": ">", "div": "/",
    "lbrack": "[", "rbrack": "]", "lparen": "(", "rparen": ")", "infin": "infty", "varphi": "phi",
    "varepsilon": "epsilon", "vartheta": "theta", "backslash": "setminus", "iff": "text{ or }",
}  # fmt: skip
_PLAIN = {"{": r"\{", "}": r"\}"} | {character: character for character in "|:<>/[]()"}
# Consecutive words, with dots inside abbreviations, but not digits of a base above ten.
_WORDS = (
    rf"[{_CURRENCIES}]|(?![A-F]+\d)[A-Za-z][A-Za-z']*(?:(?:\.?\s|\.?-|\.(?=[A-Za-z]))\s*[A-Za-z][A-Za-z']*)*"
    r"(?:(?<=[a-z]\.[a-z])\.|(?<=[ap]\. m)\.)?"
)
_OUTSIDE_TEXT = re.compile(
    rf"\\text\{{[^{{}}]*\}}|\\(?:begin|end)\{{\w+\}}|\\mathbb\{{\w\}}|\\[a-zA-Z]+|[{_CURRENCIES}]"
    r"|(?P<phrase>[A-Za-z]{2,}(?: +[A-Za-z]{2,})+)|(?P<word>[A-Za-z]+)"
)
_DIGITS3 = r"(?=\d{3}(?!\d))"
_SPACED_THOUSANDS = re.compile(
    r"(?<=\d)(?:\{,\}|,\\!|\\,|\\ |\\;|\\:|~|'|\\?_(?!\{)|\\text\{,\}|\{\\,\}|\{ \}|\{\\ \})\s*"
    rf"{_DIGITS3}"
)
_PLAIN_SPACES = re.compile(r"(?<![\d.,/}])(\d{1,3}(?: \d{3})+)(?![\d/])(?! \d)")
# Repeating decimals: a digit three times, or a longer block twice, and then dots.
_GOES_ON = re.compile(r"(?<![\d.])(\d*\.\d*?)(?:(\d)\2{2,}|(\d{2,12}?)\3+)\s*(?:\\ldots(?![a-zA-Z])|\.{3})")

# Under a trigonometric function the degree sign belongs to the value; it is not a unit that an answer may omit.
_DEGREES_OF = re.compile(
    r"\\(sin|cos|tan|cot|sec|csc)(?:\s*(\^\{-?\d+\}))?\s*"
    r"(?:(\d+(?:\.\d+)?)\s*\^\\circ|\(\s*(\d+(?:\.\d+)?)\s*\^\\circ\s*\))"
)


def clean(text: str) -> str:
    """The answer in one spelling of LaTeX; see the module docstring."""
    text = _one_space(_unicode(text))
    if r"\begin" not in text:
        text = re.sub(r"\\?&", ",", text)
    text = re.sub(r"(?<=\d)\s*\\deg(?![a-zA-Z])", r"^\\circ ", text)
    text = re.sub(r"\\ang\{([^{}]*)\}", r"\1^\\circ ", text)
    text = re.sub(r"(?<=\d)\s*\^\s*\{?\s*(?:\\(?:text|mathrm)\{\s*o\s*\}|o\b)\s*\}?", r"^\\circ ", text)
    text = re.sub(
        r"(?<!\\)\\\\(?=(?:frac|dfrac|sqrt|pi|text|left|right|cdot|times|infty|cup|leq?|geq?|pm)\b)", r"\\", text
    )
    text = _dollars(text)
    text = re.sub(r"\\[()]|(?<!\\)\\[\[\]](?!\d)", " ", text)
    text = re.sub(r"(?<![\w)}])\*\*([^*]+)\*\*(?![\w({\\])", r"\1", text)
    text = _environments(text)
    text = re.sub(r"\\(left|right)\s*\.", "", text)
    text = re.sub(r"(?<!\d)0\{,\}(?=\d)", "0.", text)
    text = _SPACED_THOUSANDS.sub("", text)
    text = re.sub(r"(?<=\d)(?:\{,\}|\\text\{,\})(?=\d)", ".", text)
    text = _DROPPED.sub(" ", text)
    text = _one_space(re.sub(r"(?<!\\)(?:\\[,;:! ]|~)", " ", text))
    text = _unwrap(text)
    text = re.sub(r"\\([a-zA-Z]+)(?![a-zA-Z])", _one_name, text)
    text = _GOES_ON.sub(lambda found: rf"{found[1]}\overline{{{found[2] or found[3]}}}", text)
    text = re.sub(r"(?<=\d)\s*\\text\{\s*([eE])\s*\}\s*(?=[+-]?\d)", r"\1", text)
    text = re.sub(r"(?<=\d)\s*(?:\^\s*)?\{?\\?(?:text)?\{?(?<!e)(?:st|nd|rd|th)\}*(?![a-zA-Z}])", "", text)
    text = re.sub(r"(\d\s*(?:\\text\{\s*)?)([aApP])\.\s?[mM](?:\.|(?![a-zA-Z]))", r"\1 \2m", text)
    text = _plain_mathematics(text)
    if prefix := _PREFIX.match(text):
        text = ("" if prefix.group(2) else prefix.group(1) or "") + text[prefix.end() :]
    text = _hoist_words(greek_units(text))
    text = _PLAIN_SPACES.sub(lambda found: found.group().replace(" ", ""), text)
    text = standard_notation(_arguments(text))
    text = re.sub(r"\^\s*\{\s*\\circ\s*\}|\{\}\^\s*\\circ|\^\s*\\circ|\\circ(?![a-zA-Z])", r"^\\circ ", text)
    text = _DEGREES_OF.sub(
        lambda found: rf"\{found[1]}{found[2] or ''}(\frac{{{found[3] or found[4]} \pi}}{{180}})", text
    )
    return _trim(text)


def _one_space(text: str) -> str:
    """Collapse runs of spaces: many patterns below allow spaces in several places."""
    return re.sub(r"\s+", " ", text)


def squash(text: str) -> str:
    """A cleaned answer without what never changes its meaning: spaces, and braces around a single character."""
    text = re.sub(r"\\text\{([^{}]*)\}", lambda found: "\\text{" + " ".join(found.group(1).split()) + "}", text)
    text = re.sub(r"(?<!\\)\{([A-Za-z0-9])\}", r"\1", text)
    return re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", text)


def words_of(text: str) -> str:
    """A cleaned answer as plain lower-case words: no \\text, no articles, no punctuation at the end."""
    plain = re.sub(r"\\text\{([^{}]*)\}", r" \1 ", text)
    plain = re.sub(r"[-\s]+", " ", re.sub(r"[\"'.,!?]+(?=\s|$)", " ", plain)).strip().lower()
    plain = re.sub(r"^(?:the )?(?:(?:final |correct )?answer is )?(?:an? |the )?", "", plain)
    return plain.strip(" .,;:()[]")


def split_top(text: str, separator: re.Pattern[str]) -> list[str]:
    """Split where the separator matches outside all brackets and braces."""
    parts, depth, begin, index = [], 0, 0, 0
    while index < len(text):
        if depth == 0 and (found := separator.match(text, index)) and found.end() > index:
            parts.append(text[begin:index])
            begin = index = found.end()
            continue
        if text[index] == "\\" and text[index + 1 : index + 2] in ("{", "}"):
            depth += 1 if text[index + 1] == "{" else -1
            index += 2
            continue
        if text[index] in "([{":
            depth += 1
        elif text[index] in ")]}":
            depth -= 1
        index += 1
    return [part.strip() for part in (*parts, text[begin:])]


def _unicode(text: str) -> str:
    text = _INVISIBLE.sub("", text)
    text = re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+", lambda found: "^{" + found.group().translate(_SUPERSCRIPTS) + "}", text)
    text = re.sub("[₀₁₂₃₄₅₆₇₈₉₊₋]+", lambda found: "_{" + found.group().translate(_SUBSCRIPTS) + "}", text)
    text = _ROOT.sub(_root, text)
    characters = []
    for character in text:
        if character in _SYMBOLS:
            characters.append(_SYMBOLS[character])
        elif character in _GREEK:
            characters.append(f"\\{_GREEK[character]} ")
        elif unicodedata.name(character, "").startswith("VULGAR FRACTION"):
            above, _, below = unicodedata.normalize("NFKC", character).partition("⁄")
            characters.append(f"\\frac{{{above}}}{{{below}}}" if below else character)
        else:
            characters.append(
                _SYMBOLS.get(unicodedata.normalize("NFKC", character), unicodedata.normalize("NFKC", character))
            )
    return "".join(characters)


def _root(found: re.Match[str]) -> str:
    degree = {"√": "", "∛": "[3]", "∜": "[4]"}[found.group(1)]
    return f"\\sqrt{degree}" + (f"{{{found.group(2)}}}" if found.group(2) else "")


def _dollars(text: str) -> str:
    """Mark currencies: dollar signs become ¤, and codes \\text{...}. Remove the $ that delimit mathematics."""
    text = re.sub(
        r"\\(?:text)?(?:dollar|pounds|euro)(?![a-zA-Z])",
        lambda found: {"dollar": r"\$", "pounds": "£", "euro": "€"}[found.group().lstrip("\\").removeprefix("text")],
        text,
    )
    text = re.sub(r"(?<![A-Za-z\\{])(USD|EUR|GBP|INR|CNY|RMB|Rs)(?:\.\s*|\s*)(?=\d)", r"\\text{\1}", text)
    text = re.sub(r"(?:\bUS\s*)?\\\$", _DOLLAR, text)
    if text.count("$") % 2 == 1:
        text = re.sub(r"\$(?=\s*[\d.])", _DOLLAR, text, count=1)
    return text.replace("$", " ")


def _environments(text: str) -> str:
    """Replace multi-line environments by a list of their lines; keep matrices."""
    names = r"aligned|align\*?|gathered|gather\*?|equation\*?|split|cases|alignedat"
    pattern = rf"\\begin\{{({names})\}}(?:\{{\d*\}})?(.*?)\\end\{{\1\}}"

    def lines(found: re.Match[str]) -> str:
        rows = [row.replace("&", " ").strip(" ,") for row in re.split(r"\\\\(?:\[[^\]]*\])?", found.group(2))]
        return " , ".join(row for row in rows if row)

    return re.sub(pattern, lines, text)


def _unwrap(text: str) -> str:
    """Remove font commands and their braces; use \\text for all commands that set words."""
    for _ in range(20):
        found = re.search(rf"\\{_FONT_COMMANDS}\s*(?=\{{)", text)
        if not found:
            break
        end = closing_brace(text, found.end())
        if end is None:
            break
        text = text[: found.start()] + " " + text[found.end() + 1 : end] + " " + text[end + 1 :]
    text = re.sub(
        r"\\mathrm\{([a-zA-Z])\}(?=\s*[\^(])|\\mathrm\{([eidxπ])\}",
        lambda found: found.group(1) or found.group(2),
        text,
    )
    text = re.sub(rf"\\{_TEXT_COMMANDS}\s*(?=\{{)", r"\\text", text)
    # \text inside \text: remove the inner one.
    for _ in range(20):
        nested = re.sub(r"(\\text\{[^{}]*)\\text\{([^{}]*)\}", r"\1\2", text)
        if nested == text:
            break
        text = nested
    return text


def _one_name(found: re.Match[str]) -> str:
    name = found.group(1)
    if name in _RELATIONS:
        other = _RELATIONS[name]
        return _PLAIN.get(other, f"\\{other} ")
    return found.group()


def _plain_mathematics(text: str) -> str:
    """Convert formulas typed without LaTeX: sqrt(2), pi, infinity, <=, **, 4.5e33, 4.5 x 10^33."""
    text = re.sub(r"\*\*", "^", text)
    text = re.sub(r"<=|=<", r"\\le ", text)
    text = re.sub(r">=|=>", r"\\ge ", text)
    text = text.replace("!=", r"\ne ") if not re.search(r"[\w)]\s*!=", text) else text
    text = re.sub(r"\+/-|\+-", r"\\pm ", text)
    text = re.sub(r"==", "=", text)
    text = re.sub(r"~=", r"\\approx ", text)
    text = re.sub(r"(?<![\\a-zA-Z])(sqrt|pi|theta|infty)(?![a-zA-Z])", r"\\\1 ", text)
    text = re.sub(r"(?<![\\a-zA-Z])(?:infinity|inf|oo)(?![a-zA-Z])", r"\\infty ", text)
    text = re.sub(r"(?<![\\a-zA-Z])(sin|cos|tan|cot|sec|csc|ln|log|arcsin|arccos|arctan)(?=[\s(\d^])", r"\\\1 ", text)
    text = re.sub(r"(?<=\d)\s*[xX]\s*(?=10\s*\^)", r"\\times ", text)
    text = re.sub(
        r"(?<![a-zA-Z\\.\d_])(-?(?:\d+\.?\d*|\.\d+))[eE]([+-]?\d+)(?![\d.a-zA-Z^])",
        lambda found: (
            f"{found.group(1)} \\times 10^{{{int(found.group(2))}}}" if len(found.group(2)) < 8 else found.group()
        ),
        text,
    )
    for opened in re.finditer(r"\\sqrt\s*\(", text):
        end = _closing_parenthesis(text, opened.end() - 1)
        if end is not None:
            return _plain_mathematics(
                text[: opened.start()] + "\\sqrt{" + text[opened.end() : end] + "}" + text[end + 1 :]
            )
    return text


def _closing_parenthesis(text: str, opening: int) -> int | None:
    depth = 0
    for index in range(opening, len(text)):
        depth += {"(": 1, ")": -1}.get(text[index], 0)
        if depth == 0:
            return index
    return None


def _hoist_words(text: str) -> str:
    """Words in \\text{...}, and nothing else there: \\text{5 hours} becomes 5 \\text{hours}, as 5 hours does."""
    text = re.sub(r"\\text\{((?:[^{}]|\{[^{}]*\})*)\}", _words_alone, text)
    text = _OUTSIDE_TEXT.sub(_wrap_words, text)
    text = re.sub(r"(?<=[A-Za-z])\}\s+\\text\{(?=[A-Za-z])", " ", text)
    unit = r"(\\text\{[^{}]*\}(?:\^\{?-?\d\}?)?)"
    text = re.sub(rf"\\frac\{{\s*{unit}\s*\}}\s*\{{\s*{unit}\s*\}}", r"\1/\2", text)
    # "and" and "or" get a \text of their own.
    return re.sub(r"(?<=[A-Za-z{])\s*\b(and|or)\b\s*(?=[A-Za-z}])", _alone, text)


def _words_alone(found: re.Match[str]) -> str:
    """The content of one \\text{...} with only its words in \\text{...}, each separately."""
    content = re.sub(r"(?<=[a-z])\. ", " ", found.group(1))
    return re.sub(
        rf"\\[a-zA-Z]+|{_WORDS}",
        lambda one: one.group() if one.group()[0] == "\\" else f"\\text{{{one.group()}}}",
        content,
    )


def _wrap_words(found: re.Match[str]) -> str:
    """Put \\text around words typed without it; leave variables alone."""
    if found.group() in _CURRENCIES:
        return f"\\text{{{found.group()}}}"
    if found.group("phrase"):
        words = found.group().split()
        told = any(len(word) >= 4 for word in words) and not _FUNCTIONS & set(words)
        return f"\\text{{{found.group()}}}" if told else re.sub("[A-Za-z]+", _wrap_word, found.group())
    return _wrap_word(found) if found.group("word") else found.group()


def _wrap_word(found: re.Match[str]) -> str:
    word = found.group()
    before = found.string[: found.start()].rstrip()
    after_number = bool(re.search(r"[\d}%)](?:\s*\()?$", before))
    known = word.lower() in {"or", "and", "per", "to", "am", "pm", *NUMBER_WORDS} or (
        after_number and is_unit_symbol(word, before != found.string[: found.start()])
    )
    if known or (len(word) >= 4 and word not in _FUNCTIONS and not word.isupper()):
        return f"\\text{{{word}}}"
    return word


def _alone(found: re.Match[str]) -> str:
    before, after = found.string[found.start() - 1], found.string[found.end()]
    if not _in_text(found.string, found.start()):
        return found.group()
    return ("" if before == "{" else r"} \text{") + found.group(1) + ("" if after == "}" else r"} \text{")


def _in_text(text: str, index: int) -> bool:
    opening = text.rfind("\\text{", 0, index)
    return opening >= 0 and "}" not in text[opening:index]


def _arguments(text: str) -> str:
    r"""Braces around the arguments of \frac, \sqrt, ^ and _."""
    text = re.sub(r"\{([^{}]*)\\over(?![a-zA-Z])([^{}]*)\}", r"\\frac{\1}{\2}", text)
    one = r"\s*(?:\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}|(\d|[a-zA-Z]|\\[a-zA-Z]+))"
    text = re.sub(
        rf"\\(frac|binom){one}{one}",
        lambda found: (
            f"\\{found[1]}"
            + "".join(
                f"{{{a if a is not None else b}}}"
                for a, b in zip(found.groups()[1::2], found.groups()[2::2], strict=True)
            )
        ),
        text,
    )
    text = re.sub(r"(?<![a-zA-Z}\]])\{(\d+)\}\s*\^", r"\1^", text)
    text = re.sub(r"\\sqrt\s*(\[[^\]]*\])?\s*(\d|[a-zA-Z]|\\pi)", r"\\sqrt\1{\2}", text)
    text = re.sub(r"\\sqrt\s+(?=[{\[])", r"\\sqrt", text)
    text = re.sub(r"\^\s*\(([^()]*)\)", r"^{\1}", text)
    text = re.sub(r"\^\s*(-?\d+|-?[a-zA-Z])(?!\{)", r"^{\1}", text)
    return re.sub(r"_\s*(\d+|[a-zA-Z])", r"_{\1}", text)


def _trim(text: str) -> str:
    """Remove spaces, periods and braces around the whole text."""
    text = re.sub(r"\s+", " ", text)
    while True:
        before = text
        text = re.sub(r"\\+$", "", text.strip()).strip().strip('`"')
        text = re.sub(r"(?:(?<!\.)\.{1,2}|。|[,;:?])\s*$", "", text) if not text.endswith("...") else text
        text = re.sub(r"^\s*(?:[:;,=]|\\approx(?![a-z]))\s*", "", text)
        if text[:1] == "{" and closing_brace(text, 0) == len(text) - 1:
            text = text[1:-1]
        if text == before:
            return text
