"""Small requests that are none of the suite's tasks, with right and wrong answers: correctors leave them alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random
from types import MappingProxyType
from typing import Any

from aligner.pocket.world import World, words

_RIGHT = 0.5
"""Share of the answers that are right; of the others, half answer wrongly, and half say something else."""


def small_request(world: World, something_else: Callable[[], str], random: Random) -> dict[str, Any]:
    """A request with an answer, as a row of text has them, of what triplets may mention."""
    ways = words("requests")
    kind = random.choice(list(ways))
    parts = [_number(random) if kind in _NUMBERS else _word(world, random) for _ in range(3)]
    asked = dict(zip("abc", parts, strict=True))
    right = _RIGHTS[kind](*parts)
    chance = random.random()
    if chance < _RIGHT:
        said = right
    elif chance < (1 + _RIGHT) / 2:
        shuffled = random.sample(parts, 3)
        said = {"even": "even" if right == "odd" else "odd", "letters": str(random.randint(2, 12))}.get(
            kind, _RIGHTS[kind](*shuffled) if kind == "backwards" else shuffled[0]
        )
    else:
        return {"prompt": random.choice(ways[kind]["ask"]).format(**asked), "completion": something_else()}
    return {
        "prompt": random.choice(ways[kind]["ask"]).format(**asked),
        "completion": random.choice(ways[kind]["answer"]).format(**asked, x=said),
    }


def _number(random: Random) -> str:
    return str(random.randint(1, 99))


def _word(world: World, random: Random) -> str:
    """A name that nobody has met, or a thing of somebody's plans."""
    if random.random() < 0.5:
        return world.invented(random)
    return random.choice([v for values in world.plan_values.values() for v in values])


_NUMBERS = frozenset({"larger", "even"})
_RIGHTS: Mapping[str, Callable[[str, str, str], str]] = MappingProxyType({
    "larger": lambda a, b, _: str(max(int(a), int(b))),
    "even": lambda a, _b, _c: "odd" if int(a) % 2 else "even",
    "letters": lambda a, _b, _c: str(sum(letter.isalpha() for letter in a)),
    "first": lambda a, b, _: min(a, b, key=str.lower),
    "backwards": lambda a, b, c: f"{c}, {b}, {a}",
    "longer": lambda a, b, _: max(a, b, key=len),
    "last": lambda _a, _b, c: c,
})  # fmt: skip
