"""Text that a reader sees: nothing in it steers what shows it, and nothing of it is lost."""

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from workbench.visible import html_text, visible, written_out

TURNING = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u05d0a1 \n"
texts = st.one_of(
    st.text(), st.text(st.sampled_from(TURNING)), st.text(st.characters(categories=["Cc", "Cf", "Cs", "Zl"]))
)


@given(texts)
def test_no_control_character_is_left(text: str) -> None:
    left = {c for c in visible(text) if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")}
    assert left <= {"\n", "\t"}
    assert "\n" not in written_out(text)
    visible(text).encode("utf-8")


@given(texts)
def test_every_line_closes_the_isolates_that_it_opens(text: str) -> None:
    for line in visible(text).split("\n"):
        depth = 0
        for place, c in enumerate(line):
            depth += (c in "\u2066\u2067\u2068") - (c == "\u2069")
            assert depth >= 0
            if line[0] == "\u2068" and place < len(line) - 1:
                assert depth > 0  # all of the line is inside the outermost pair
        assert depth == 0


@given(st.text(st.characters(categories=["L", "N", "P", "S"], max_codepoint=0x24F)))
def test_ordinary_text_is_as_it_is(text: str) -> None:
    assert visible(text) == written_out(text) == text


def test_words_of_right_to_left_scripts_are_isolated_and_kept() -> None:
    assert visible("\u05e9\u05dc\u05d5\u05dd (1999)") == "\u2068\u05e9\u05dc\u05d5\u05dd (1999)\u2069"
    assert html_text("\u202e<b>") == "\u2068\u202e&lt;b&gt;\u2069"
