"""The page that states what is promised, with the figures of one run of the fault suite."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime

from tally import MEMORY, SECONDS, Tally

from workbench import paths
from workbench.reporting.provenance import provenance


def page(tallies: Sequence[Tally], command: str, seconds: float) -> str:
    """`reports/reliability.md` as text."""
    found = provenance(paths.root())
    tried, lost = sum(t.tried for t in tallies), sum(len(t.lost) for t in tallies)
    rows = "\n".join(
        f"| {t.kind} | {t.promise} | {t.tried:,} | {t.tried - len(t.lost):,} | {len(t.lost):,} |"
        for t in tallies
    )
    failures = "\n".join(
        f"- {t.kind}: {_code(words)}"
        + (f" (and {len(t.lost) - 3} more)" if number == 2 and len(t.lost) > 3 else "")
        for t in tallies
        for number, words in enumerate(t.lost[:3])
    )
    untried = "\n".join(
        f"- {t.kind}: {note}" for t in tallies for note in t.notes if note.startswith("not tried")
    )
    return f"""# What holds when something goes wrong

Nothing of yours is lost or guessed. Work that is killed, meets a full disk or a second process leaves the state before it or
the whole new one, and gives the same result when it is done again. A file that is damaged or made to do harm is read, or
refused in one line that names it; nothing in it is executed, nothing is written outside the folder in question, and reading it
takes bounded time and memory. A tool that is missing costs speed, or the error names what to install. Text from data is text on
every page.

`{command}` tries this and wrote this page: {tried:,} tries, {lost:,} lost, in {seconds / 60:.0f} minutes, on
{datetime.now(UTC):%Y-%m-%d}, commit {found.commit_words()}, {found.machine.words()}.

| what was tried | what is promised | tried | survived | lost |
| --- | --- | ---: | ---: | ---: |
{rows}
| all | | {tried:,} | {tried - lost:,} | {lost:,} |

A kill is SIGKILL at a moment drawn uniformly over the time that the work takes. In reports, copying a notebook stands for
running it. Disks are file systems in memory that fill up on the way, or read-only. Each damaged file has a bit, a part, value,
cell or line changed; reading it may take {SECONDS} s and {MEMORY >> 30} GiB.
Damage that leaves a valid file, such as another number among the weights, is read: only what carries a digest can show it.
Pages are parsed here; the browser tests (`pytest -m browser`) open them in Chromium.

## Lost

{failures or "Nothing."}
{f"{chr(10)}## Not tried here{chr(10)}{chr(10)}{untried}{chr(10)}" if untried else ""}"""


def _code(words: str) -> str:
    """Words as code of one line; the folder of this run has no meaning to a reader."""
    text = " ".join(words.split()).replace("`", "'")
    text = re.sub(r"/\S*/faults-\w+", "…", text).encode("unicode_escape").decode()
    return f"`{text[:300]}`"
