"""Tables as text for people, for Markdown pages and for LaTeX papers."""

from collections.abc import Iterable
from typing import Literal

import pandas as pd

Format = Literal["text", "markdown", "latex"]

_SIGNS = {
    "±": r"$\pm$",
    "×": r"$\times$",
    "−": "$-$",
    "≤": r"$\le$",
    "≥": r"$\ge$",
    "→": r"$\to$",
    "π": r"$\pi$",
}
_DIGITS = 4


def with_digits(table: pd.DataFrame, digits: int = _DIGITS) -> pd.DataFrame:
    """The table as text, fractions with four decimals, "" for what is missing.

    >>> with_digits(pd.DataFrame({"method": ["dot"], "MRR": [0.25]})).values.tolist()
    [['dot', '0.2500']]
    """

    def word(value: object) -> str:
        if isinstance(value, float):
            return "" if pd.isna(value) else f"{value:.{digits}f}"
        return str(value)

    return pd.DataFrame({str(c): [word(v) for v in table[c]] for c in table})


def markdown(table: pd.DataFrame) -> str:
    """A table of text as Markdown.

    >>> print(markdown(pd.DataFrame({"k": ["1"], "a|b": ["2"]})))
    | k | a\\|b |
    | --- | --- |
    | 1 | 2 |
    """
    rows = [list(table.columns), *table.astype(str).to_numpy().tolist()]
    escaped = [[str(cell).replace("|", "\\|") for cell in row] for row in rows]
    lines = [escaped[0], ["---"] * len(table.columns), *escaped[1:]]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)


def standing(name: str, others: Iterable[str], low: Iterable[float], high: Iterable[float]) -> str:
    """Where one stands among others, by the ends of the intervals of its NDCG@10 minus theirs, as a sentence.

    >>> standing("a", ["b", "c"], [0.01, -0.02], [0.03, 0.01])
    'In NDCG@10, by the 95 % interval of the difference over users, a is ahead of b and not told apart from c.'
    """
    sides: dict[str, list[str]] = {"ahead of": [], "behind": [], "not told apart from": []}
    for other, bottom, top in zip(others, low, high, strict=True):
        sides["ahead of" if bottom > 0 else "behind" if top < 0 else "not told apart from"].append(other)
    found = [f"{side} {', '.join(names)}" for side, names in sides.items() if names]
    return f"In NDCG@10, by the 95 % interval of the difference over users, {name} is {' and '.join(found)}."


def latex(table: pd.DataFrame, caption: str = "") -> str:
    """A table of text as LaTeX (booktabs), numbers to the right; with a caption, as a float.

    >>> print(latex(pd.DataFrame({"name": ["a_b"], "MRR": ["0.5 ± 0.1"]})))
    \\begin{tabular}{lr}
    \\toprule
    name & MRR \\\\
    \\midrule
    a\\_b & 0.5 $\\pm$ 0.1 \\\\
    \\bottomrule
    \\end{tabular}
    """
    numbers = [bool(table[c].astype(str).str.match(r"^$|^[-−+<]?[\d.,]").all()) for c in table]
    columns = "".join("r" if number else "l" for number in numbers)
    rows = [list(map(str, table.columns)), *table.astype(str).to_numpy().tolist()]
    head, *body = (" & ".join(map(escaped, row)) + r" \\" for row in rows)
    lines = [
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        head,
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
    ]
    if caption:
        lines = [r"\begin{table}[t]", r"\centering", rf"\caption{{{caption}}}", *lines, r"\end{table}"]
    return "\n".join(lines)


def escaped(text: str) -> str:
    """Text that LaTeX shows as it is.

    >>> escaped("50 % of $x_1$")
    '50 \\\\% of \\\\$x\\\\_1\\\\$'
    """
    plain = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    special = {c: f"\\{c}" for c in "&%$#_{}"}
    return "".join((plain | special | _SIGNS).get(c, c) for c in text)
