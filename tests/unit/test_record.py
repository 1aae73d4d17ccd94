"""What is written once for all frozen classes does what attrs would generate for each of them."""

import attrs
import pytest

from resilient_ws.api.record import Record


def shown_short(value):
    return f"<{value}>"


def twins():
    """Return the same class twice: as attrs makes it, and as a `Record`."""

    @attrs.frozen
    class Point:
        x: object
        y: object = attrs.field(default=0, repr=False)
        _z: object = attrs.field(default=None, repr=shown_short)

    made = Point

    @attrs.frozen(eq=False, repr=False)
    class Point(Record):
        x: object
        y: object = attrs.field(default=0, repr=False)
        _z: object = attrs.field(default=None, repr=shown_short)

    return made, Point


BOTH = pytest.mark.parametrize("point", twins(), ids=["attrs", "record"])


@BOTH
def test_equal_are_those_of_one_class_with_equal_fields(point):
    assert point(1) == point(1.0)
    assert point(1, 2, 3) == point(1, 2, 3)
    for other in (point(2, 2, 3), point(1, 3, 3), point(1, 2, 4)):
        assert point(1, 2, 3) != other
    assert point(float("nan")) != point(float("nan"))


@BOTH
def test_nothing_else_is_equal(point):
    @attrs.frozen
    class Other(point):
        pass

    assert point(1) != (1, 0, None)
    assert point(1) != Other(1)
    assert point(1).__eq__((1, 0, None)) is NotImplemented


@BOTH
def test_equal_ones_are_one_key(point):
    assert len({point(1), point(1), point(1, 2), point(2)}) == 3
    with pytest.raises(TypeError, match="unhashable"):
        hash(point([]))


@BOTH
def test_it_is_shown_by_the_fields_that_may_be(point):
    assert repr(point(1, "secret", "z")) == "Point(x=1, _z=<z>)"
    assert repr(point("a")) == "Point(x='a', _z=<None>)"


@BOTH
def test_what_holds_itself_can_be_shown(point):
    held = []
    held.append(point(held))
    assert repr(held[0]) == "Point(x=[...], _z=<None>)"
    assert repr(held) == "[Point(x=[...], _z=<None>)]"


@BOTH
def test_it_stays_frozen_and_small(point):
    one = point(1)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        one.x = 2
    assert not hasattr(one, "__dict__")
    assert attrs.evolve(one, x=2) == point(2)
