"""Text from data as a reader may see it: it steers no terminal, no page and no text next to it. Imports nothing of ours."""

import html
import unicodedata

_ISOLATES, _POP = "\u2066\u2067\u2068", "\u2069"
_FIRST_STRONG = _ISOLATES[-1]
_TURNING = frozenset(("R", "AL", "RLE", "LRE", "RLO", "LRO", "PDF", "RLI", "LRI", "FSI", "PDI"))
"""Bidirectional classes of characters that may change the order of their neighbours."""
_UNSEEN = frozenset(("Cc", "Cs", "Zl", "Zp"))
"""Categories of control characters, halves of surrogate pairs, and separators of lines and paragraphs."""


def written_out(text: str, kept: str = "") -> str:
    r"""`text` with control characters written as Python writes them, but those in `kept`.

    >>> written_out("\x1b[31mred"), written_out("two\nlines"), written_out("two\nlines", kept="\n") == "two\nlines"
    ('\\x1b[31mred', 'two\\nlines', True)
    """
    if text.isprintable():
        return text
    return "".join(c if c in kept or unicodedata.category(c) not in _UNSEEN else repr(c)[1:-1] for c in text)


def visible(text: str) -> str:
    r"""`text` with control characters written out, but line breaks and tabs, and what may run from right to left isolated.

    Each line of such text is between the marks FSI and PDI, and what it opens ends in it, so that the text before and after
    keeps its order (Unicode Standard Annex 9, section 2.4).

    >>> visible("\x1b[31mred"), ascii(visible("\u202eevil")), ascii(visible("a\u2069b\u2067c"))
    ('\\x1b[31mred', "'\\u2068\\u202eevil\\u2069'", "'\\u2068ab\\u2067c\\u2069\\u2069'")
    """
    text = written_out(text, kept="\n\t")
    if text.isascii() or not any(unicodedata.bidirectional(c) in _TURNING for c in text):
        return text
    return "\n".join(map(_isolated, text.split("\n")))


def html_text(value: object) -> str:
    """A value as text in HTML: see `visible`, and no character of it is markup.

    >>> html_text("<b>1</b>")
    '&lt;b&gt;1&lt;/b&gt;'
    """
    return html.escape(visible(str(value)))


def _isolated(line: str) -> str:
    opened, kept = 0, []
    for c in line:
        if c == _POP and not opened:
            continue
        opened += (c in _ISOLATES) - (c == _POP)
        kept.append(c)
    return _FIRST_STRONG + "".join(kept) + _POP * (opened + 1)
