"""Says which of the things that a scene states are right in a picture.

A picture is read without knowing the scene (`reading.read`); judging only compares.
"""

from kerasdiff.demo.reading import read
from kerasdiff.demo.scenes import Boat, House, Shapes

# What can be asked, in the order of tables.
CATEGORIES = (
    "scene", "time", "background", "colour", "tree", "mountain", "object colour", "shape", "size",
    "axis", "pair colours", "pair shapes", "pair",
)  # fmt: skip


def judge(picture, scene):
    """What is right in a picture.

    Args:
        picture: uint8 (S, S, 3), S at least 64.
        scene: a `House`, `Boat` or `Shapes`.

    Returns:
        For each category that the scene states something about, whether the picture shows it.
        House: "scene", "time", "colour" (of the walls), "tree" (its kind, or that there is none),
        "mountain" (there or not), "axis" (on which side of the tree the house stands). Boat:
        "scene", "time", "colour" (of the sails), "mountain". One shape: "scene", "background",
        "object colour", "shape", "size". Two shapes: "scene", "background", "axis" (where the
        first lies seen from the second), "pair colours", "pair shapes", "pair" (all three), with
        the two seen taken in the order that is more like what was asked for; where neither order
        is, no axis is right. Too few shapes or too many make all but the first two wrong.

    Raises:
        ValueError: if the picture or the scene is no such thing.
    """
    return compare(read(picture), scene)


def compare(reading, scene):
    """What is right about a `reading.Reading` of a picture; see `judge`."""
    if isinstance(scene, House | Boat):
        return _compare_country(reading, scene)
    if isinstance(scene, Shapes):
        return _compare_shapes(reading, scene)
    raise ValueError(f"scene: expected a House, Boat or Shapes, received {scene!r}")


def score(pictures, scenes):
    """Judges many pictures.

    Args:
        pictures: uint8 arrays (S, S, 3).
        scenes: what each should show, as many.

    Returns:
        Category to (how many pictures are right, how many scenes state it), in the order of
        `CATEGORIES`, without those that no scene states.

    Raises:
        ValueError: if there are not as many scenes as pictures.
    """
    if len(pictures) != len(scenes):
        raise ValueError(
            f"scenes: expected one for each of {len(pictures)} pictures, received {len(scenes)}"
        )
    verdicts = [judge(picture, scene) for picture, scene in zip(pictures, scenes, strict=True)]
    counts = {}
    for category in CATEGORIES:
        answers = [verdict[category] for verdict in verdicts if category in verdict]
        if answers:
            counts[category] = sum(answers), len(answers)
    return counts


def share(score):
    """Which share of all answers in a score is right, 0 to 1."""
    return sum(right for right, _ in score.values()) / sum(asked for _, asked in score.values())


def table(score):
    """A score in lines of text: category, share that is right, and the two counts."""
    return "\n".join(
        f"{category:<14}{100.0 * right / counted:6.1f} %  {right:>5} of {counted}"
        for category, (right, counted) in score.items()
    )


def _compare_country(reading, scene):
    kind = "house" if isinstance(scene, House) else "boat"
    there = reading.kind == kind
    verdict = {"scene": there}
    if scene.time:
        verdict["time"] = reading.time == scene.time
    verdict["colour"] = there and reading.colour == scene.colour
    verdict["mountain"] = there and reading.mountain == scene.mountain
    if kind == "house":
        verdict["tree"] = there and reading.tree == scene.tree
        if scene.side:
            verdict["axis"] = there and reading.side == scene.side
    return verdict


def _compare_shapes(reading, scene):
    verdict = {"scene": reading.kind == "shapes"}
    if scene.background:
        verdict["background"] = reading.background == scene.background
    complete = len(reading.things) == len(scene.things)
    if len(scene.things) == 1:
        asked = scene.things[0]
        verdict["object colour"] = complete and reading.things[0].colour == asked.colour
        verdict["shape"] = complete and reading.things[0].shape == asked.shape
        if asked.size:
            verdict["size"] = complete and reading.things[0].size == asked.size
        return verdict
    right = _compare_pairs(reading.things, scene) if complete else (False, False, False)
    verdict |= zip(("pair colours", "pair shapes", "axis"), right, strict=True)
    verdict["pair"] = all(right)
    return verdict


def _compare_pairs(seen, scene):
    """Whether colours, shapes and relation are right in the order of the more likely meaning."""

    def alike(things):
        pairs = list(zip(things, scene.things, strict=True))
        return [a.colour == b.colour for a, b in pairs], [a.shape == b.shape for a, b in pairs]

    orders = [(2 * sum(colours) + sum(shapes), colours, shapes, things)
              for things in (seen, seen[::-1]) for colours, shapes in [alike(things)]]  # fmt: skip
    told_apart = orders[0][0] != orders[1][0]
    _, colours, shapes, things = max(orders, key=lambda order: order[0])
    return all(colours), all(shapes), told_apart and _relation(*things) == scene.relation


def _relation(first, second):
    """Where the first lies seen from the second, along the longer of the two distances."""
    across = first.middle[0] - second.middle[0]
    down = first.middle[1] - second.middle[1]
    if abs(across) > abs(down):
        return "left" if across < 0 else "right"
    return "above" if down < 0 else "below"
