"""The queue of events for one reader, against a plain list."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient_ws import ErrorEvent, Fate, RetryEvent, State, StateEvent, UndeliveredEvent
from resilient_ws.runtime.event_queue import EventQueue, weight

SPARABLE = (StateEvent, RetryEvent)


def undelivered(message):
    return UndeliveredEvent(message=message, fate=Fate.EVICTED, accepted_at=0.0, age=0.0)


EVENTS = [
    StateEvent(old=State.IDLE, new=State.CONNECTING),
    RetryEvent(attempt=1, delay=1.0),
    ErrorEvent(where="x", exception=ValueError()),
    undelivered(b"12345"),
    undelivered("ä" * 20),
]


@pytest.mark.parametrize(
    "event, size",
    [
        (EVENTS[0], 0),
        (undelivered(b"12345"), 5),
        (undelivered("äö"), 4),
        (ErrorEvent(where="on_message", exception=ValueError(), event="123"), 3),
        (ErrorEvent(where="on_undelivered", exception=ValueError(), event=undelivered(b"1234")), 4),
    ],
)
def test_an_event_weighs_the_message_that_it_holds(event, size):
    assert weight(event) == size


@pytest.mark.promise("P6")
@given(st.lists(st.one_of(st.sampled_from(EVENTS), st.sampled_from(["take", "spare", "put back", "clear"]))))
def test_it_does_what_a_list_would_do(steps):
    queue, model, number, taken = EventQueue(5, 50), [], 0, None
    for step in steps:
        held = sum(weight(event) for _, event in model)
        if step == "take":
            found = queue.take()
            taken = model.pop(0) if model else None
            assert (found[0], found[2]) == taken if taken else found is None
        elif step == "spare":
            sparable = [item for item in model if isinstance(item[1], SPARABLE)]
            assert queue.spare() == (sparable[0][1] if sparable else None)
            if sparable:
                model.remove(sparable[0])
            taken = None
        elif step == "put back":
            if taken is not None:
                queue.put_back(taken[0], weight(taken[1]), taken[1], None)
                model.insert(0, taken)
            taken = None
        elif step == "clear":
            left = sorted(queue.clear(), key=lambda item: item[0])
            assert [(item[0], item[2]) for item in left] == model
            model, taken = [], None
        else:
            size = weight(step)
            fits = len(model) < 5 and (not size or not held or held + size <= 50)
            assert queue.fits(size) is fits
            if fits:
                number += 1
                queue.append(number, size, step)
                model.append((number, step))
            taken = None
        assert len(queue) == len(model)
        assert queue.first == (model[0][0] if model else None)
