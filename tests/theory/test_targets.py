"""Targets have the rank they claim; a matrix from a file is read to the digit, or refused with line and column."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from workbench.theory.floor import rank
from workbench.theory.targets import (
    MOST_SIDE,
    TARGETS,
    Target,
    block,
    circulant,
    identity,
    parse_matrix,
    random_signs,
    read_matrix,
    similar_not_identical,
)


@pytest.mark.parametrize("n", [8, 12, 24])
@pytest.mark.parametrize("name", TARGETS)
def test_a_target_has_the_rank_it_claims(name: str, n: int) -> None:
    target = TARGETS[name](n, 0)
    assert target.scores.shape == (n, n)
    assert target.rank in (None, rank(target.scores))
    assert target.two_valued == (name != "identity")


@given(n=st.integers(2, 24), data=st.data())
def test_blocks_have_as_much_rank_as_there_are(n: int, data: st.DataObject) -> None:
    target = block(n, data.draw(st.integers(1, n)))
    assert rank(target.scores) == target.rank


@given(n=st.integers(4, 40), data=st.data())
def test_the_rank_of_a_circulant_is_that_of_its_fourier_transform(n: int, data: st.DataObject) -> None:
    target = circulant(n, data.draw(st.integers(0, (n - 2) // 2)))
    assert rank(target.scores) == target.rank
    assert torch.equal(target.scores[1:, 1:], target.scores[:-1, :-1])


def test_blocks_as_many_as_queries_are_twice_the_identity_less_one() -> None:
    assert torch.equal(block(5, 5).scores, 2 * identity(5).scores - 1)


def test_random_targets_follow_their_seed() -> None:
    for make in (random_signs, similar_not_identical):
        assert torch.equal(make(16, 3).scores, make(16, 3).scores)
        assert not torch.equal(make(16, 3).scores, make(16, 4).scores)


def test_what_is_too_similar_is_not_liked() -> None:
    target = similar_not_identical(64, 0)
    assert target.query_latents is not None
    assert target.item_latents is not None
    cosine = target.query_latents @ target.item_latents.T
    assert (target.scores[cosine >= 0.7] == -1).all()
    assert (target.scores[cosine <= 0.2] == -1).all()
    assert (target.scores[(cosine > 0.2) & (cosine < 0.7)] == 1).all()
    assert torch.allclose(target.query_latents.norm(dim=1), torch.ones(64).double())


@pytest.mark.parametrize("make", [lambda: block(4, 5), lambda: block(4, 0), lambda: circulant(8, 4)])
def test_sizes_that_do_not_fit_are_refused(make) -> None:
    with pytest.raises(ValueError, match=r"can be in|does not fit"):
        make()


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (torch.ones(1, 5), "at least 2 rows"),
        (torch.zeros(3, 3), "all entries are 0"),
        (torch.full((2, 2), float("nan")), "NaN"),
    ],
)
def test_a_target_that_holds_nothing_is_refused(scores: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=f"mine: .*{message}"):
        Target("mine", scores.double(), None, "")


@given(
    st.integers(2, 6).flatmap(
        lambda width: st.lists(
            st.lists(
                st.floats(-100, 100).map(lambda x: round(x, 3) + 0.0005), min_size=width, max_size=width
            ),
            min_size=2,
            max_size=6,
        )
    )
)
def test_a_matrix_is_read_as_it_was_written(rows: list[list[float]]) -> None:
    text = "\n".join(",".join(map(repr, row)) for row in rows)
    assert parse_matrix(text.encode(), "m.csv").scores.tolist() == rows


def test_spaces_blank_lines_marks_and_line_ends_do_not_matter() -> None:
    content = b'\xef\xbb\xbf 1, -2.5e1\r\n\r\n"3",.5\r\n\r\n'
    assert parse_matrix(content, "m.csv").scores.tolist() == [[1.0, -25.0], [3.0, 0.5]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "m.csv holds no numbers"),
        (b"\n\n", "m.csv holds no numbers"),
        (b"a,b\n1,2\n", r"line 1, column 1: 'a' is not a number \(a header\? leave it out\)"),
        (b"1,2\n3,x\n", "line 2, column 2: 'x' is not a number$"),
        (b"1,2\n\n3,\n", "line 3, column 2: the cell is empty"),
        (b"1,2\nNaN,3\n", "line 2, column 1: 'NaN', but every entry needs a finite number"),
        (b"1,-inf\n2,3\n", "line 1, column 2: '-inf', but every entry needs a finite"),
        (b"1,1e999\n2,3\n", "line 1, column 2: '1e999' is too large"),
        (b"1,1_000\n2,3\n", "line 1, column 2: '1_000' is not a number"),
        ("1,٣\n2,3\n".encode(), "line 1, column 2: '٣' is not a number"),
        (b"1,0x10\n2,3\n", "line 1, column 2: '0x10' is not a number"),
        (b"1;2\n3;4\n", "line 1, column 1: '1;2' is not a number"),
        (b"1,2\n3\n", "line 2: 1 columns, but the first line has 2"),
        (b"1,2\n", "at least 2 rows"),
        (b"1\n2\n", "at least 2 rows and 2 columns"),
        (b"0,0\n0,0\n", "all entries are 0"),
        (b"1e9,0\n0,1\n", r"largest entry is 1e\+09; scale it"),
        (b"1e-9,0\n0,0\n", "largest entry is 1e-09; scale it"),
        (b"\xff\xfe1,2", r"no text in UTF-8 \(byte 1\)"),
        (b'1,"2\n3,4\n', "m.csv, line 2: unexpected end of data"),
        (b"1," + b"9" * 200_000, "m.csv, line 1: field larger than field limit"),
        (b"1," + b"z" * 100 + b"\n2,3", "'z{19}…' is not a number"),
        (b"1\n" * (MOST_SIDE + 1), f"more than {MOST_SIDE} rows"),
        (b"1," * MOST_SIDE + b"1\n", f"more than {MOST_SIDE} columns"),
        (b"1" * (5 * 2**20), "5,242,880 bytes; at most 4,194,304 are read"),
    ],
)
def test_what_is_no_matrix_is_refused_by_place(content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_matrix(content, "m.csv")


def test_files_are_read_by_name(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    with pytest.raises(FileNotFoundError, match="no matrix at"):
        read_matrix(path)
    path.write_bytes(b"1,2,3\n4,5,6\n")
    target = read_matrix(path)
    assert (target.name, tuple(target.scores.shape)) == ("mine.csv", (2, 3))
    path.write_bytes(b"1" * (5 * 2**20))
    with pytest.raises(ValueError, match="at most 4,194,304"):
        read_matrix(path)
