"""LaTeX: text in which nothing is a command, and tables that float."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

PACKAGES = r"% \usepackage{booktabs, graphicx}"
"""What tables need, as a comment at their head."""

LETTERS = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    "|": r"\textbar{}",  # a dash in the font that LaTeX begins with
    "`": r"\textasciigrave{}",
    "[": "{[}",  # which at the beginning of a row is an option of the line break before it
    "*": "{*}",  # as is this
    "±": r"$\pm$",
    "×": r"$\times$",
    "·": r"$\cdot$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "≠": r"$\neq$",
    "≈": r"$\approx$",
    "∞": r"$\infty$",
    "→": r"$\rightarrow$",
    "−": "$-$",
    "–": r"\textendash{}",
    "’": "'",
    '"': "''",
}

GREEK = re.compile(
    "GREEK (SMALL|CAPITAL) LETTER (ALPHA|BETA|GAMMA|DELTA|EPSILON|ZETA|ETA|THETA|IOTA|KAPPA|LAMDA|MU|NU|XI|OMICRON|PI|"
    "RHO|FINAL SIGMA|SIGMA|TAU|UPSILON|PHI|CHI|PSI|OMEGA)"
)
"""Those that LaTeX has by itself."""
NAMED_OTHERWISE = {"lamda": "lambda", "final sigma": "varsigma"}
"""Letters whose names in LaTeX are not those in Unicode."""
OTHER_FORMS = {"ϵ": "epsilon", "ϕ": "phi", "ϑ": "vartheta", "ϱ": "varrho", "ϖ": "varpi", "ϒ": "Upsilon"}
"""Forms of Greek letters that are letters of their own in Unicode."""
LATIN_ALIKE = dict(zip("ΑΒΕΖΗΙΚΜΝΟΡΤΥΧο", "ABEZHIKMNOPTYXo", strict=True))
"""Letters for which LaTeX has no command, as Latin ones look the same."""


def latex_text(text: str) -> str:
    """Text in which no letter is a command; Greek ones are mathematics, as pdfLaTeX knows no others.

    Other letters stay as they are: those of languages in Latin script are known to pdfLaTeX, those of others to
    LuaLaTeX.
    """
    whole = unicodedata.normalize("NFC", text)
    marks = "".join(LETTERS.get(letter) or _greek(letter) for letter in whole)
    return re.sub("(?<=-)-", "{}-", marks)  # two hyphens would be a dash


def _greek(letter: str) -> str:
    if letter in OTHER_FORMS:
        return f"$\\{OTHER_FORMS[letter]}$"
    word = GREEK.fullmatch(unicodedata.name(letter, ""))
    if word is None:
        return letter
    if letter in LATIN_ALIKE:
        return rf"$\mathrm{{{LATIN_ALIKE[letter]}}}$"
    name = NAMED_OTHERWISE.get(word[2].lower(), word[2].lower())
    return f"$\\{name if word[1] == 'SMALL' else name.capitalize()}$"


def floating(caption: str, columns: str, header: str, rows: Sequence[str]) -> str:
    """A table of lines that are LaTeX already; one that is wider than the text is made smaller.

    Args:
        caption: above it, in LaTeX.
        columns: as ``tabular`` has them.
        header: its line.
        rows: all others.
    """
    lines = [
        r"\begin{table}",
        r"\centering",
        r"\setlength{\belowcaptionskip}{\medskipamount}",  # LaTeX's own classes expect captions below tables
        rf"\caption{{{caption}}}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        rf"{header} \\",
        r"\midrule",
        *(rf"{row} \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}}",
        r"\end{table}",
    ]
    return "\n".join(lines)
