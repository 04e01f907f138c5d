"""Small dictionaries in the published formats: a few rows of WordNet 3.0 (its licence allows it), and an invented GCIDE."""

import gzip
from pathlib import Path

WORDNET = {
    "data.noun": """\
  1 This line stands for the licence at the head of the file.
00001740 03 n 01 entity 0 003 ~ 00001930 n 0000 ~ 00002137 n 0000 ~ 04424418 n 0000 | that which is perceived or known  \n\
07347000 11 n 02 noise 0 racket 1 000 | sound of any kind (especially unintelligible or dissonant sound); "he enjoyed the \
street noises"; "they heard indistinct noises of people talking"  \n\
05718556 09 n 02 noise 1 dissonance 0 000 | the auditory experience of sound that lacks musical quality; "modern music is just \
noise to me"  \n\
02772480 06 n 01 anchor 0 000 | a mechanical device that prevents a vessel from moving  \n\
""",
    "data.verb": "01356370 35 v 02 anchor 0 cast_anchor 0 000 01 + 08 00 | secure a vessel with an anchor  \n",
    "data.adj": '00014358 00 s 02 abounding 0 galore(ip) 0 001 & 00013887 a 0000 | existing in abundance; "whiskey galore"  \n',
    "data.adv": "00001740 02 r 01 a_cappella 0 000 | without musical accompaniment  \n",
}

GCIDE = {
    "Noise": (
        "Noise \\Noise\\ (noiz), n. [F. noise, fr. L. nausea, see\n"
        "   {Nausea}.]\n"
        "   1. (Acoustics) Sound of any kind; a loud racket; as, the noise of\n"
        "      a street. See {Sound}.\n"
        "      [1913 Webster]\n"
        "\n"
        "            A great noise was heard.               --Nobody.\n"
        "      [1913 Webster]\n"
        "\n"
        "   2. Loud and senseless talking, the work of noisers. [Obs.]\n"
        "      [1913 Webster]\n"
        "\n"
        "   3. an unwanted signal of any kind in a wire\n"
        "      [WordNet 1.5]\n"
        "\n"
        "   Syn: Cry; outcry; clamor.\n"
        "        [1913 Webster]\n"
    ),
    "Anchor": (
        'Anchor \\An"chor\\, v. t. [imp. & p. p. {Anchored}.]\n'
        "   To hold a ship fast -- said of a boat, with an anch[o^]r\n"
        "   [1913 Webster]\n"
        "\n"
        "   {To anchor out}, to hold a ship fast outside a harbor.\n"
        "   [1913 Webster]\n"
    ),
    "Anchoret": (
        'Anchoret \\An"cho*ret\\, n.\n   One who renounces the world and lives alone.\n   [1913 Webster]\n'
    ),
}
_DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


def number(value: int) -> str:
    """dictd's base 64, the most significant digit first."""
    digits = _DIGITS[value % 64]
    while value := value // 64:
        digits = _DIGITS[value % 64] + digits
    return digits


def write_wordnet(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in WORDNET.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def write_gcide(folder: Path, entries: dict[str, str] = GCIDE) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    content, index = b"", ["00-database-info\tA\tB"]
    for headword, entry in entries.items():
        raw = entry.encode("utf-8")
        line = f"{number(len(content))}\t{number(len(raw))}"
        index += [f"{headword}\t{line}", f"{headword.upper()}\t{line}"]  # two headwords, one entry
        content += raw
    (folder / "gcide.dict.dz").write_bytes(gzip.compress(content))
    (folder / "gcide.index").write_text("\n".join(index) + "\n")
    return folder
