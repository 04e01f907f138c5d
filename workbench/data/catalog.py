"""The public datasets: their addresses, licences, readers and expected counts."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from workbench.data import readers
from workbench.data.download import Checksum
from workbench.data.interactions import Interactions
from workbench.data.prepare import Preparation


@dataclass(frozen=True)
class Published:
    """Counts that a source states for one stage; None if it does not say."""

    stage: Literal["as read", "prepared"]
    source: str
    users: int | None = None
    items: int | None = None
    catalogue: int | None = None
    interactions: int | None = None


@dataclass(frozen=True)
class Dataset:
    """One public dataset.

    `addresses` are tried in turn for a file called `archive`, of `size` bytes and `checksum` if those are published;
    `checksum_address` is a small file next to the archive with its MD5. `files` are unpacked from it and nothing else,
    `unpacked` bytes at most. `read` takes the folder with `files`. `preparation` is what the published runs did. `published`
    are counts to compare with.
    """

    name: str
    title: str
    homepage: str
    addresses: tuple[str, ...]
    archive: str
    files: tuple[str, ...]
    unpacked: int
    read: Callable[[Path], Interactions] = field(repr=False)
    licence: str
    terms: str
    citation: str
    size: int | None = None
    checksum: Checksum | None = None
    checksum_address: str | None = None
    preparation: Preparation = field(default_factory=Preparation)
    published: tuple[Published, ...] = ()


_MOVIELENS_TERMS = """\
The data set may be used for any research purposes under the following conditions:
  * do not state or imply any endorsement by the University of Minnesota or the GroupLens Research Group;
  * acknowledge its use in publications (citation below);
  * {redistribution};
  * no commercial or revenue-bearing use without permission of a faculty member of the GroupLens project.
It comes without any guarantee of correctness or suitability. The full text is the README in the archive."""
_CLOSED = "do not redistribute the data without separate permission"
_OPEN = "redistribute it, also transformed, only under these same conditions"
_MOVIELENS_CITATION = (
    "F. Maxwell Harper and Joseph A. Konstan. 2015. The MovieLens Datasets: History and Context."
    " ACM TiiS 5, 4, Article 19. https://doi.org/10.1145/2827872"
)
_RAILS_TABLE_2 = "Ding & Zhai, Retrieval with Learned Similarities (RAILS), Table 2"
_RAILS_CODE = "published RAILS code"


def _grouplens(archive: str) -> tuple[str, ...]:
    """The official address, over https and, for networks that break it, over http (the checksum guards both)."""
    return tuple(
        f"{scheme}://files.grouplens.org/datasets/movielens/{archive}" for scheme in ("https", "http")
    )


def _expansion_sixteenth(folder: Path) -> Interactions:
    return readers.read_movielens_expansion(folder, parts=1)


def _amazon_books(folder: Path) -> Interactions:
    return readers.read_amazon_ratings(folder / "ratings_Books.csv")


_ML_1B = Dataset(
    name="ml-1b",
    title="MovieLens 1B (20M expanded 16 × 32)",
    homepage="https://grouplens.org/datasets/movielens/movielens-1b/",
    addresses=_grouplens("ml-20mx16x32.tar"),
    archive="ml-20mx16x32.tar",
    checksum_address="https://files.grouplens.org/datasets/movielens/ml-20mx16x32.tar.md5",
    files=tuple(f"trainx16x32_{part}.npz" for part in range(16)),
    unpacked=32 << 30,
    read=readers.read_movielens_expansion,
    licence="research, see page",
    terms="The terms are stated on the homepage; those of MovieLens 20M, which it expands, are:\n"
    + _MOVIELENS_TERMS.format(redistribution=_OPEN),
    citation="Francois Belletti et al. 2019. Scalable Realistic Recommendation Datasets through Fractal"
    " Expansions. arXiv:1901.08910; and " + _MOVIELENS_CITATION,
    published=(
        Published(
            "as read",
            "MLPerf fractal expansions, training parts",
            users=2_197_225,
            items=855_776,
            interactions=1_223_962_043,
        ),
    ),
)

_DATASETS = (
    Dataset(
        name="ml-latest-small",
        title="MovieLens latest-small (9/2018)",
        homepage="https://grouplens.org/datasets/movielens/latest/",
        addresses=_grouplens("ml-latest-small.zip"),
        archive="ml-latest-small.zip",
        size=978_202,
        checksum=Checksum("sha256", "696d65a3dfceac7c45750ad32df2c259311949efec81f0f144fdfb91ebc9e436"),
        files=("ratings.csv", "movies.csv"),
        unpacked=20 << 20,
        read=readers.read_movielens_csv,
        licence="research, share alike",
        terms=_MOVIELENS_TERMS.format(redistribution=_OPEN),
        citation=_MOVIELENS_CITATION,
        published=(
            Published(
                "as read", "README.txt of the dataset", users=610, catalogue=9_742, interactions=100_836
            ),
        ),
    ),
    Dataset(
        name="ml-1m",
        title="MovieLens 1M (2/2003)",
        homepage="https://grouplens.org/datasets/movielens/1m/",
        addresses=_grouplens("ml-1m.zip"),
        archive="ml-1m.zip",
        size=5_917_549,
        checksum=Checksum("sha256", "a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20"),
        files=("ratings.dat", "movies.dat", "users.dat"),
        unpacked=100 << 20,
        read=readers.read_movielens_1m,
        licence="research, no sharing",
        terms=_MOVIELENS_TERMS.format(redistribution=_CLOSED),
        citation=_MOVIELENS_CITATION,
        published=(
            Published("as read", "README of the dataset", users=6_040, interactions=1_000_209),
            Published("as read", "lines of movies.dat", catalogue=3_883),
            Published("prepared", _RAILS_CODE, users=6_040, items=3_706, catalogue=3_883),
            Published("prepared", _RAILS_TABLE_2, items=3_649),
        ),
    ),
    Dataset(
        name="ml-10m",
        title="MovieLens 10M (1/2009)",
        homepage="https://grouplens.org/datasets/movielens/10m/",
        addresses=_grouplens("ml-10m.zip"),
        archive="ml-10m.zip",
        size=65_566_137,
        checksum=Checksum("md5", "ce571fd55effeba0271552578f2648bd"),
        files=("ratings.dat", "movies.dat"),
        unpacked=1 << 30,
        read=readers.read_movielens_10m,
        licence="research, no sharing",
        terms=_MOVIELENS_TERMS.format(redistribution=_CLOSED),
        citation=_MOVIELENS_CITATION,
        published=(
            Published(
                "as read",
                "README of the dataset (whose 71,567 users are not all in ratings.dat)",
                catalogue=10_681,
                interactions=10_000_054,
            ),
            Published("as read", "edx split in the HarvardX course", users=69_878, items=10_677),
        ),
    ),
    Dataset(
        name="ml-20m",
        title="MovieLens 20M (4/2015)",
        homepage="https://grouplens.org/datasets/movielens/20m/",
        addresses=_grouplens("ml-20m.zip"),
        archive="ml-20m.zip",
        size=198_702_078,
        checksum=Checksum("sha256", "96f243c338a8665f6bcc89c53edf6ee39162a846940de6b7c8c48aeada765ff3"),
        files=("ratings.csv", "movies.csv"),
        unpacked=2 << 30,
        read=readers.read_movielens_csv,
        licence="research, share alike",
        terms=_MOVIELENS_TERMS.format(redistribution=_OPEN),
        citation=_MOVIELENS_CITATION,
        published=(
            Published(
                "as read",
                "README.txt of the dataset",
                users=138_493,
                catalogue=27_278,
                interactions=20_000_263,
            ),
            Published("prepared", _RAILS_CODE, users=138_493, items=26_744, catalogue=27_278),
            Published("prepared", _RAILS_TABLE_2, items=24_186),
        ),
    ),
    _ML_1B,
    replace(
        _ML_1B,
        name="ml-1b-sixteenth",
        title="MovieLens 1B, the first of 16 parts",
        files=_ML_1B.files[:1],
        read=_expansion_sixteenth,
        published=(),
    ),
    Dataset(
        name="amazon-books",
        title="Amazon Books ratings (2014)",
        homepage="https://jmcauley.ucsd.edu/data/amazon/",
        addresses=tuple(
            f"{scheme}://snap.stanford.edu/data/amazon/productGraph/categoryFiles/ratings_Books.csv"
            for scheme in ("https", "http")
        ),
        archive="ratings_Books.csv",
        checksum=Checksum("sha256", "87d923ddac2aacf40c1d0e0e056dbf4bf69c9c7d41852c6b434e781e759c0707"),
        files=("ratings_Books.csv",),
        unpacked=4 << 30,
        read=_amazon_books,
        licence="none stated",
        terms="The publisher states no licence. It offers the ratings for research and asks to cite the paper below;"
        "\nthe reviews themselves belong to their authors and Amazon. Do not redistribute the data.",
        citation="R. He and J. McAuley. 2016. Ups and Downs: Modeling the Visual Evolution of Fashion Trends with"
        " One-Class Collaborative Filtering. WWW. https://doi.org/10.1145/2872427.2883037",
        preparation=Preparation(k_core=5, passes=1, min_length=5),
        published=(
            Published(
                "as read",
                "Beta-RecSys, table of datasets",
                users=8_026_324,
                items=2_330_066,
                interactions=22_507_155,
            ),
            Published("prepared", _RAILS_CODE, catalogue=695_762),
            Published("prepared", _RAILS_TABLE_2, items=674_044),
            Published(
                "prepared",
                "skrecsys, fetch_amazon_books (the same filter)",
                users=694_897,
                interactions=10_053_086,
            ),
        ),
    ),
    Dataset(
        name="book-crossing",
        title="Book-Crossing (8-9/2004)",
        homepage="https://www2.informatik.uni-freiburg.de/~cziegler/BX/",
        addresses=tuple(
            f"{scheme}://www2.informatik.uni-freiburg.de/~cziegler/BX/BX-CSV-Dump.zip"
            for scheme in ("https", "http")
        ),
        archive="BX-CSV-Dump.zip",
        files=("BX-Book-Ratings.csv", "BX-Books.csv"),
        unpacked=1 << 30,
        read=readers.read_book_crossing,
        licence="research, no sharing",
        terms="The publisher offers the data for research, anonymised, and asks to cite the paper below."
        "\nDo not redistribute the data.",
        citation="Cai-Nicolas Ziegler, Sean M. McNee, Joseph A. Konstan, Georg Lausen. 2005. Improving Recommendation Lists"
        " Through Topic Diversification. WWW. https://doi.org/10.1145/1060745.1060754",
        preparation=Preparation(k_core=5),
        published=(
            Published(
                "as read",
                "page of the dataset (before editions are merged)",
                items=271_379,
                interactions=1_149_780,
            ),
        ),
    ),
)

CATALOG: dict[str, Dataset] = {dataset.name: dataset for dataset in _DATASETS}
"""Every public dataset by name."""
