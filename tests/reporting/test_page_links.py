"""Links of a notebook's text to other notebooks lead to their pages."""

import pytest

from workbench.reporting.pages import _markdown, _markdown_of_data

PAGES = frozenset({"01_preprocess"})


@pytest.mark.parametrize(
    ("source", "page"),
    [
        ("[first](01_preprocess.ipynb)", '<a href="01_preprocess.html">first</a>'),
        (
            "[a *part*](01_preprocess.ipynb#the-end)",
            '<a href="01_preprocess.html#the-end">a <em>part</em></a>',
        ),
        ("[a file](data/01_preprocess.ipynb)", '<a href="data/01_preprocess.ipynb">a file</a>'),
        ("[paper](https://example.org/a)", '<a href="https://example.org/a">paper</a>'),
    ],
)
def test_a_link_leads_to_the_page_of_its_notebook(source: str, page: str) -> None:
    assert page in _markdown(source, PAGES)


def test_a_notebook_without_a_page_is_named_and_not_linked() -> None:
    assert "<a" not in _markdown("[02_train](02_train.ipynb)", PAGES)
    assert "02_train" in _markdown("[02_train](02_train.ipynb)", PAGES)


def test_what_code_displays_is_not_taken_for_a_link_of_ours() -> None:
    assert "01_preprocess.html" not in _markdown_of_data("[x](01_preprocess.ipynb)")


def test_answers_unfold_and_keep_their_formulas() -> None:
    page = _markdown("<details><summary>An answer</summary>\n\nNear $T = 1$, *so*.\n\n</details>")
    assert "<details><summary>An answer</summary>" in page and "</details>" in page
    assert '<span class="math">T = 1</span>' in page and "<em>so</em>" in page
