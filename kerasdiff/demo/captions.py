"""Scenes to sentences, in several ways of saying the same.

What a scene leaves open is not mentioned; a tree and a mountain that are not mentioned are not in
the picture.
"""

from kerasdiff.demo.scenes import Boat, House
from kerasdiff.demo.words import BACKGROUNDS, COLOURS, OPPOSITE, SHAPES, SIZES, TIMES, TREES

TIME_PHRASES = {
    "day": ("by day", "on a sunny day"),
    "dawn": ("at dawn", "in the morning"),
    "sunset": ("at sunset", "in the evening"),
    "night": ("at night", "under the stars"),
}
RELATION_PHRASES = {
    "left": ("to the left of", "left of"),
    "right": ("to the right of", "right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}
OPENINGS = ("", "", "", "a picture of ")
BESIDE = ("and", "next to", "with")
NEAR = ("near a mountain", "in front of a mountain")
AFLOAT = ("a boat with {} sails", "a sailing boat with {} sails", "a boat with a {} sail")
WATERS = ("on the sea", "at sea")


def caption(scene, rng=None):
    """A sentence that says all that the scene says.

    Args:
        scene: a `House`, `Boat` or `Shapes`.
        rng: a `numpy.random.Generator` that chooses among phrasings; None takes the first ones.
    """
    choose = (lambda options: options[0]) if rng is None else (lambda o: o[rng.integers(len(o))])
    if isinstance(scene, House):
        text = _with_time(_house(scene, choose), scene.time, choose)
    elif isinstance(scene, Boat):
        text = _with_time(_boat(scene, choose), scene.time, choose)
    else:
        text = _shapes(scene, choose)
    return choose(OPENINGS) + text if text.startswith(("a ", "an ")) else text


def all_words():
    """Every word that captions can hold, in a fixed order."""
    phrases = [*OPENINGS, *BESIDE, *NEAR, *AFLOAT, *WATERS, "on a background", "house tree an"]
    phrases += [text for texts in TIME_PHRASES.values() for text in texts]
    phrases += [text for texts in RELATION_PHRASES.values() for text in texts]
    words = " ".join(phrases).replace("{}", "").replace(",", " ").split()
    words += [*COLOURS, *BACKGROUNDS, *SHAPES, *SIZES, *TREES, *TIMES]
    return list(dict.fromkeys(words))


def _house(scene, choose):
    house = f"{with_article(scene.colour)} house"
    if scene.tree:
        tree = f"{with_article(scene.tree)} tree"
        if scene.side is None:
            house = f"{house} {choose(BESIDE)} {tree}"
        elif choose((True, False)):
            house = f"{house} {choose(RELATION_PHRASES[scene.side])} {tree}"
        else:
            house = f"{tree} {choose(RELATION_PHRASES[OPPOSITE[scene.side]])} {house}"
    return f"{house} {choose(NEAR)}" if scene.mountain else house


def _boat(scene, choose):
    text = choose(AFLOAT).format(scene.colour).replace("a orange", "an orange")
    text = f"{text} {choose(WATERS)}"
    return f"{text} {choose(NEAR)}" if scene.mountain else text


def _shapes(scene, choose):
    names = [
        with_article(" ".join(filter(None, (thing.size, thing.colour, thing.shape))))
        for thing in scene.things
    ]
    text = names[0]
    if len(names) == 2:
        relation, (first, second) = scene.relation, names
        if not choose((True, False)):
            relation, first, second = OPPOSITE[relation], second, first
        text = f"{first} {choose(RELATION_PHRASES[relation])} {second}"
    return f"{text} on {with_article(scene.background)} background" if scene.background else text


def _with_time(text, time, choose):
    if time is None:
        return text
    phrase = choose(TIME_PHRASES[time])
    return f"{text} {phrase}" if choose((True, True, False)) else f"{phrase}, {text}"


def with_article(words):
    """ "orange heart" to "an orange heart"."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"
