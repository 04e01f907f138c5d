"""The embedded dataset: deterministic from a seed, by a process that is stated in full.

Items belong to C *niches* (a theme and a form: "coastal mystery"); each niche has a place z_c on the unit sphere of a
taste space of `latent` dimensions. There are M *ways* in which one thing leads to another (a sequel, a change of mood,
what a friend would lend): way m turns taste space by its own rotation Q_m, the same for all users, and is taken with
probability v_m ∝ m^(-1/2). After niche c comes niche c' with probability

    R[c, c'] = Σ_m v_m softmax_c'(κ ⟨Q_m z_c, z_c'⟩).

A user has several *interests*, each a walk through niches:

1. with probability `switch` the user turns to another of the interests;
2. the interest moves on, from its niche c to c' with probability R[c, c'];
3. the item is drawn from niche c' by popularity, or, with probability `noise`, from the whole corpus by popularity.

Popularity is skewed, and drifts: item i has weight (rank_i + q)^(-b) · exp(-|t - t_i| / h), with a random rank_i and a
random time t_i of its peak. Users arrive through the whole period, and pause for exponential times between interactions.

*Why it teaches.* What follows is in several places of taste space at once, one for each way, and a single query vector of a
small width cannot point to all of them and away from what lies between: R has full rank, and the best matrix of rank D misses
most of it (`Truth.floor`). A mixture of several dot products, one for each way, can. The data are made to show this; they
say nothing about how much a mixture gains on real data.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from workbench.data.interactions import Interactions

Size = Literal["tiny", "small", "large"]

THEMES = (
    *("Alpine", "Antique", "Arctic", "Coastal", "Cosmic", "Desert", "Garden", "Harbour"),
    *("Highland", "Island", "Jungle", "Metropolitan", "Monastic", "Nocturnal", "Provincial", "Riverside"),
)
FORMS = ("Adventure", "Ballad", "Chronicle", "Comedy", "Drama", "Fable", "Mystery", "Romance")
ADJECTIVES = (
    *(
        "Amber",
        "Ancient",
        "Bitter",
        "Bold",
        "Borrowed",
        "Brass",
        "Bright",
        "Broken",
        "Careful",
        "Clever",
        "Crimson",
    ),
    *(
        "Crooked",
        "Distant",
        "Drifting",
        "Early",
        "Electric",
        "Endless",
        "Faithful",
        "Fallen",
        "Fearless",
        "Final",
    ),
    *(
        "Fragile",
        "Frozen",
        "Gentle",
        "Gilded",
        "Golden",
        "Hidden",
        "Hollow",
        "Humble",
        "Idle",
        "Iron",
        "Ivory",
    ),
    *(
        "Lonely",
        "Lost",
        "Lucky",
        "Marble",
        "Midnight",
        "Modest",
        "Narrow",
        "Northern",
        "Painted",
        "Paper",
        "Patient",
    ),
    *(
        "Quiet",
        "Rapid",
        "Restless",
        "Rusty",
        "Sacred",
        "Scarlet",
        "Secret",
        "Silent",
        "Silver",
        "Sleeping",
        "Slow",
    ),
    *(
        "Stolen",
        "Stubborn",
        "Sunken",
        "Tender",
        "Thirteenth",
        "Velvet",
        "Wandering",
        "Whispering",
        "Wild",
        "Winter",
    ),
)
NOUNS = (
    *(
        "Abbey",
        "Almanac",
        "Anchor",
        "Apprentice",
        "Archive",
        "Atlas",
        "Beacon",
        "Bell",
        "Bridge",
        "Candle",
        "Caravan",
    ),
    *(
        "Carpenter",
        "Castle",
        "Cellar",
        "Clock",
        "Compass",
        "Cottage",
        "Courier",
        "Crossing",
        "Dancer",
        "Diary",
        "Door",
    ),
    *(
        "Engine",
        "Envelope",
        "Falcon",
        "Ferry",
        "Fiddler",
        "Forest",
        "Fountain",
        "Gate",
        "Glacier",
        "Glass",
        "Harvest",
    ),
    *(
        "Heron",
        "Horizon",
        "Inn",
        "Journey",
        "Key",
        "Kingdom",
        "Lantern",
        "Letter",
        "Library",
        "Lighthouse",
        "Locket",
    ),
    *(
        "Map",
        "Mill",
        "Mirror",
        "Observatory",
        "Orchard",
        "Painter",
        "Passage",
        "Piano",
        "Pilot",
        "Portrait",
        "Promise",
    ),
    *(
        "Quarry",
        "Raven",
        "Reef",
        "Sailor",
        "Shadow",
        "Signal",
        "Station",
        "Storm",
        "Tailor",
        "Telescope",
        "Tide",
    ),
    *("Tower", "Train", "Treasure", "Valley", "Violin", "Voyage", "Well", "Window", "Witness", "Workshop"),
)
START = 1_577_836_800
"""The first moment of the period, 1 January 2020 UTC, in seconds since 1970."""
DAY = 86_400


@dataclass(frozen=True)
class GeneratorConfig:
    """Sizes and strengths of the process; the module's docstring has the formulas.

    `users`, `items`; histories of `shortest` to `longest` interactions, uniform; `niches` C, at most 128, in a taste space of
    `latent` dimensions; `ways` M and their `sharpness` κ; `interests` of a user and the probability `switch`; `noise`;
    `popularity_skew` b and `popularity_offset` q; `days` of the period, and the `half_width` h of an item's time in days.
    Raises ValueError if a value is out of its range.
    """

    users: int
    items: int
    shortest: int
    longest: int
    niches: int = 128
    latent: int = 6
    ways: int = 4
    sharpness: float = 30.0
    interests: int = 2
    switch: float = 0.1
    noise: float = 0.1
    popularity_skew: float = 0.8
    popularity_offset: float = 10.0
    days: int = 730
    half_width: float = 365.0

    def __post_init__(self) -> None:
        if not 1 <= self.niches <= len(THEMES) * len(FORMS):
            raise ValueError(f"niches must lie in 1..{len(THEMES) * len(FORMS)}, not {self.niches}")
        if self.items < self.niches or self.users < 1:
            raise ValueError(f"there must be users, and an item for each of {self.niches} niches: {self}")
        if self.latent < 2 or self.ways < 1 or not self.sharpness > 0:
            raise ValueError(f"latent must be at least 2, ways at least 1, sharpness positive: {self}")
        if not 3 <= self.shortest <= self.longest:
            raise ValueError(f"histories must have 3 interactions or more, and shortest <= longest: {self}")
        if self.interests < 1 or not (0 <= self.switch <= 1 and 0 <= self.noise <= 1):
            raise ValueError(f"interests must be at least 1, switch and noise probabilities: {self}")
        if self.days < 1 or not self.half_width > 0 or not self.popularity_offset > 0:
            raise ValueError(f"days, half_width and popularity_offset must be positive: {self}")


SIZES: dict[Size, GeneratorConfig] = {
    "tiny": GeneratorConfig(users=200, items=160, shortest=6, longest=20, niches=32),
    "small": GeneratorConfig(users=2_500, items=1_024, shortest=20, longest=60),
    "large": GeneratorConfig(users=100_000, items=1_000_000, shortest=10, longest=40),
}


@dataclass(frozen=True)
class Truth:
    """The hidden parameters of the process, which a model must learn.

    `niche` (N,): the niche of each item, in the order of the item table. `places` (C, latent): z, of unit length.
    `transitions` (C, C): R, rows sum to one.
    """

    niche: NDArray[np.int64]
    places: NDArray[np.float64]
    transitions: NDArray[np.float64]

    def floor(self, width: int) -> float:
        """√(Σ_{i>width} σ_i² / Σ_i σ_i²): the least relative error of any matrix of rank `width` (Eckart and Young, 1936)."""
        squares = np.linalg.svd(self.transitions, compute_uv=False) ** 2
        return float(np.sqrt(squares[width:].sum() / squares.sum()))


def generate(size: Size, seed: int) -> Interactions:
    """The embedded dataset of a size; ValueError if the size is unknown."""
    if size not in SIZES:
        raise ValueError(f"no embedded dataset of size {size!r}; there are {', '.join(SIZES)}")
    return generate_with(SIZES[size], seed)


def truth(config: GeneratorConfig, seed: int) -> Truth:
    """The niches and transitions behind `generate_with(config, seed)`."""
    random = np.random.default_rng([seed, 0])
    niche = random.permutation(np.arange(config.items) % config.niches)
    places = random.standard_normal((config.niches, config.latent))
    places /= np.linalg.norm(places, axis=1, keepdims=True)
    weights = np.arange(1, config.ways + 1) ** -0.5
    transitions = np.zeros((config.niches, config.niches))
    for weight in weights / weights.sum():
        rotation = np.linalg.qr(random.standard_normal((config.latent, config.latent)))[0]
        closeness = np.exp(config.sharpness * (places @ rotation.T @ places.T - 1))
        transitions += weight * closeness / closeness.sum(axis=1, keepdims=True)
    return Truth(niche.astype(np.int64), places, transitions)


def generate_with(config: GeneratorConfig, seed: int) -> Interactions:
    """Interactions drawn by the process; the same configuration and seed give the same table."""
    known = truth(config, seed)
    random = np.random.default_rng([seed, 1])
    lengths = random.integers(config.shortest, config.longest + 1, config.users)
    times = _times(config, lengths, random)
    shop = _Shop(config, known.niche, random)
    follow = np.cumsum(known.transitions, axis=1)

    walks = random.integers(config.niches, size=(config.users, config.interests))
    current = np.zeros(config.users, dtype=np.int64)
    items = np.zeros((config.users, config.longest), dtype=np.int64)
    everyone = np.arange(config.users)
    for step in range(config.longest):
        turns = random.random(config.users) < config.switch
        other = (current + random.integers(1, max(2, config.interests), config.users)) % config.interests
        current = np.where(turns, other, current)
        draws = random.random(config.users)[:, None] * follow[walks[everyone, current], -1:]
        niche = (draws > follow[walks[everyone, current]]).sum(axis=1)
        walks[everyone, current] = niche
        anywhere = random.random(config.users) < config.noise
        items[:, step] = shop.draw(np.where(anywhere, -1, niche), times[:, step], random)

    kept = np.arange(config.longest) < lengths[:, None]
    table = pd.DataFrame(
        {
            "user_id": np.repeat(np.arange(1, config.users + 1), lengths),
            "item_id": items[kept] + 1,
            "timestamp": START + times[kept],
        }
    )
    themes, forms = np.divmod(known.niche, len(FORMS))
    genres = [f"{THEMES[t]}|{FORMS[f]}" for t, f in zip(themes, forms, strict=True)]
    catalogue = pd.DataFrame(
        {"item_id": np.arange(1, config.items + 1), "title": _titles(config.items, random), "genres": genres}
    )
    return Interactions(table, catalogue, pd.DataFrame({"user_id": np.arange(1, config.users + 1)}))


def _times(
    config: GeneratorConfig, lengths: NDArray[np.int64], random: np.random.Generator
) -> NDArray[np.int64]:
    """Seconds after the start, (users, longest), rising in each row: arrival, then exponential pauses that end in time."""
    span = config.days * DAY
    arrival = random.uniform(0, 0.8 * span, config.users)
    pauses = np.cumsum(random.exponential(1.0, (config.users, config.longest)), axis=1)
    whole = pauses[np.arange(config.users), lengths - 1]
    stretch = random.uniform(0.2, 1.0, config.users) * (span - arrival) / whole
    return (arrival[:, None] + pauses * stretch[:, None]).astype(np.int64) + np.arange(config.longest)


class _Shop:
    """Draws items of a niche by their popularity at a time, all users at once.

    Items are sorted by niche, each period has a cumulative sum of their weights, and a draw is one binary search in them.
    """

    PERIODS = 12

    def __init__(
        self, config: GeneratorConfig, niche: NDArray[np.int64], random: np.random.Generator
    ) -> None:
        self.order = np.argsort(niche, kind="stable")
        self.bounds = np.searchsorted(niche[self.order], np.arange(config.niches + 1))
        self.span = config.days * DAY
        weight = (random.permutation(config.items) + config.popularity_offset) ** -config.popularity_skew
        peak = random.uniform(0, config.days, config.items)
        middles = (np.arange(self.PERIODS) + 0.5) * config.days / self.PERIODS
        decayed = weight * np.exp(-np.abs(middles[:, None] - peak) / config.half_width)  # (periods, N)
        self.size = config.items
        self.cumulative = np.concatenate([[0.0], np.cumsum(decayed[:, self.order])])

    def draw(
        self, niche: NDArray[np.int64], seconds: NDArray[np.int64], random: np.random.Generator
    ) -> NDArray[np.int64]:
        """One item for each niche and time; niche −1 is the whole corpus."""
        period = np.minimum(seconds * self.PERIODS // self.span, self.PERIODS - 1)
        first = period * self.size + np.where(niche < 0, 0, self.bounds[niche])
        last = period * self.size + np.where(
            niche < 0, self.size, self.bounds[np.where(niche < 0, 0, niche) + 1]
        )
        low, high = self.cumulative[first], self.cumulative[last]
        place = (
            np.searchsorted(self.cumulative, low + random.random(len(niche)) * (high - low), side="right") - 1
        )
        return self.order[np.clip(place, first, last - 1) % self.size]


def _titles(count: int, random: np.random.Generator) -> list[str]:
    """`count` different titles: "The Amber Lighthouse", and, once these run out, "… of the Narrow Valley"."""
    plain = len(ADJECTIVES) * len(NOUNS)
    if count > plain * plain:
        raise ValueError(f"there are words for {plain * plain:,} titles, not for {count:,}")
    order = random.permutation(plain).tolist()

    def phrase(number: int) -> str:
        return f"{ADJECTIVES[number // len(NOUNS)]} {NOUNS[number % len(NOUNS)]}"

    titles = []
    for number in range(count):
        title = f"The {phrase(order[number % plain])}"
        later = number // plain
        titles.append(title if later == 0 else f"{title} of the {phrase(order[(number + later) % plain])}")
    return titles
