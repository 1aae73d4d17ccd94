"""The state of accepted messages until they are settled: pending, written, confirmed, or lost.

Knows no clock, loop or network: `now` comes in, what became of messages goes out, the caller acts. Each message is in
exactly one place:

    accept -> lanes (waiting) -> hand (being written) -> unconfirmed -> confirmed
                                   ^                       |
                                   +-- resent (in front) <-+  the connection ended
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from math import inf
from typing import NamedTuple

from resilient_ws.api.events import Fate
from resilient_ws.api.message import Message
from resilient_ws.api.options import Outbox
from resilient_ws.core.in_flight import UNCONFIRMED_MESSAGES, FastLane, Unconfirmed, Unkept
from resilient_ws.core.priority_queue import Entry, Lanes

ENDS_IN_A_ROW = 2
"""After how many connections in a row that a message may have ended, messages are sent one by one."""

__all__ = ["UNCONFIRMED_MESSAGES", "DeliveryQueue", "Entry", "Loss", "Remains"]


class Loss(NamedTuple):
    """What the end of a connection did: which messages are `UNCERTAIN` now, and how many will be sent again."""

    uncertain: list[Entry]
    resent: int


class Remains(NamedTuple):
    """What the end of the client left: what was never written (`ABANDONED`), and the rest (`UNCERTAIN`)."""

    abandoned: list[Entry]
    uncertain: list[Entry]


class DeliveryQueue:
    """The accounting of one client's outgoing messages over all its connections.

    On a connection: `connected`; then `write_through`, `take` followed by `written` or `untake`, and `mark` and
    `confirm` around each ping and its PONG; then `lost`. `accept` and `expire` at any time, `close` once.

    Args:
        options: The bounds, the overflow rule, and what happens to plain messages that become uncertain.

    Attributes:
        abandoned: How many were never written when the client ended.
        evicted: How many an overflow rule or a newer message with their key removed.
        expired: How many were not written in their time.
        suspects: Whether a message that was to be sent again may have ended the last connection.
        uncertain: How many were written and not confirmed when a connection or a process ended.
        unverified: How many were let go while no PONG could arrive.
    """

    __slots__ = (
        "_ahead",
        "_confirmed",
        "_confirming",
        "_drops",
        "_ends_in_a_row",
        "_hand",
        "_lanes",
        "_max_bytes",
        "_max_messages",
        "_max_resends",
        "_position",
        "_resent",
        "_resent_size",
        "_reserved",
        "_reserved_size",
        "_singly",
        "_ttl",
        "_unconfirmed",
        "_unkept",
        "abandoned",
        "evicted",
        "expired",
        "suspects",
        "uncertain",
        "unverified",
    )

    def __init__(self, options: Outbox) -> None:
        self.abandoned = self.evicted = self.expired = self.uncertain = self.unverified = 0
        self.suspects = False
        self._max_messages = options.max_messages
        self._max_bytes = options.max_bytes
        self._drops = options.overflow if options.overflow in {"drop_oldest", "drop_newest"} else None
        self._lanes = Lanes()
        # Written on a connection that ended: no ttl, key or overflow rule touches these.
        self._resent: deque[Entry] | tuple[()] = ()  # an empty deque has 760 bytes
        self._resent_size = 0
        self._reserved = 0
        self._reserved_size = 0
        self._ahead = 0  # how many go before a new message: in the lanes, resent, in hand
        self._position = 0  # grows with what is accepted: orders messages and barriers
        self._confirmed = 0
        self._hand: Entry | None = None
        self._confirming = False
        self._unconfirmed = Unconfirmed(options.on_uncertain == "resend")
        self._unkept = Unkept()
        self._ttl = options.ttl
        self._max_resends = options.max_resends
        self._ends_in_a_row = 0
        self._singly = (
            False  # what is sent again goes one by one; counted in `_ahead`, so that nothing passes it
        )

    # ------------------------------------------------------------------------------------------ what there is

    @property
    def confirmed(self) -> int:
        """How many messages a PONG has covered, or were written while confirmation was off."""
        return self._confirmed + len(self._unkept.items)

    @property
    def unconfirmed(self) -> int:
        """How many messages are written, or being written, and not confirmed."""
        return self._unconfirmed.count + (self._hand is not None)

    @property
    def unconfirmed_bytes(self) -> int:
        """The bytes of those messages."""
        return self._unconfirmed.size + (self._hand.size if self._hand is not None else 0)

    @property
    def confirming(self) -> bool:
        """Whether what is written now is kept until a PONG covers it."""
        return self._confirming

    @property
    def unmarked(self) -> bool:
        """Whether something is unconfirmed that no ping covers yet."""
        return bool(self._unconfirmed.items)

    def is_settled(self, position: int) -> bool:
        """Return whether every message accepted before `position` has its end.

        Messages written between the same two pings settle together, so later ones may delay the answer, as does one
        that took the place of an older one with its key.
        """
        if self._hand is not None and self._hand.position < position:
            return False
        if any(entry.position < position for entry in self._resent):
            return False
        return self._lanes.oldest_position() >= position and self._unconfirmed.is_behind(position)

    # ------------------------------------------------------------------------------------------ pending

    @property
    def _resent_queue(self) -> deque[Entry]:
        """`_resent`, to be changed."""
        if not isinstance(self._resent, deque):
            self._resent = deque()
        return self._resent

    @property
    def waiting(self) -> int:
        """How many accepted messages are still to be written, or to be written again."""
        return self._lanes.count + len(self._resent)

    @property
    def waiting_bytes(self) -> int:
        """The bytes of those messages."""
        return self._lanes.size + self._resent_size

    @property
    def next(self) -> Entry | None:
        """The message that is to be written next; `None` if nothing waits."""
        return self._resent[0] if self._resent else self._lanes.first()

    @property
    def next_size(self) -> int:
        """The bytes of that message; 0 if nothing waits."""
        entry = self.next
        return entry.size if entry is not None else 0

    def watched_waiting(self) -> list[Entry]:
        """Those of the waiting messages that have a token or a record."""
        return [entry for entry in (*self._resent, *self._lanes.in_order()) if entry.watched]

    def has_room(self, size: int, key: str | None = None) -> bool:
        """Return whether a message fits within the bounds for what waits.

        Messages that will be written again are not counted: the bounds for the unconfirmed hold for them. Reserved
        room is taken.

        Args:
            size: Its bytes.
            key: Its key: the message that it would replace counts as gone. `None` = it has none.
        """
        lanes = self._lanes
        room = self._max_bytes - self._reserved_size - lanes.size
        replaced = lanes.keyed(key)
        if replaced is not None:
            return size <= room + replaced.size
        return lanes.count + self._reserved < self._max_messages and size <= room

    def reserve(self, size: int) -> None:
        """Take the room of one message that is about to be accepted; `release` follows."""
        self._reserved += 1
        self._reserved_size += size

    def release(self, size: int) -> None:
        """Give that room back: the message is accepted in this same step, or it is not."""
        self._reserved -= 1
        self._reserved_size -= size

    @property
    def is_reserved(self) -> bool:
        """Whether messages are about to be accepted."""
        return self._reserved > 0

    def accept(self, entry: Entry) -> Sequence[Entry]:
        """Append `entry` to what waits, and return what was evicted for it.

        It never refuses: with the overflow rules `raise` and `wait` the caller asks `has_room` before. A waiting
        message with the same key is evicted; `entry` takes its place, or goes to the end if the priorities differ.
        Where there is no room, `drop_newest` evicts `entry` itself, and `drop_oldest` the oldest messages of the
        lowest priority, which may be `entry`.
        """
        self._position += 1
        entry.position = self._position
        lanes = self._lanes
        if self._drops is None and entry.key is None:
            self._ahead += 1
            lanes.append(entry)
            return ()
        replaced = lanes.keyed(entry.key)
        if self._drops == "drop_newest" and not self.has_room(entry.size, entry.key):
            self.evicted += 1
            return (entry,)
        evicted: list[Entry] = []
        if replaced is None:
            self._ahead += 1
            lanes.append(entry)
        else:
            lanes.replace(replaced, entry)
            evicted.append(replaced)
        if self._drops == "drop_oldest":
            while lanes.count > self._max_messages or lanes.size > self._max_bytes:
                self._ahead -= 1
                evicted.append(lanes.least())
                lanes.remove(evicted[-1])
        self.evicted += len(evicted)
        return evicted

    def barrier(self) -> int:
        """Return a position behind all messages accepted until now, for `DeliveryQueue.is_settled`."""
        self._position += 1
        return self._position

    def waits(self, entry: Entry) -> bool:
        """Return whether `entry` is still to be written for the first time."""
        return self._lanes.holds(entry)

    def withdraw(self, entry: Entry) -> None:
        """Take back a message that waits, as if it had never been accepted."""
        self._lanes.remove(entry)
        self._ahead -= 1

    def restore(self, entries: Iterable[Entry]) -> list[tuple[Entry, Fate]]:
        """Take over what an earlier process left, in order, before anything else; return what has an end.

        What that process had decided holds. Entries that may have been written go in front if they are to be sent again, else they
        are uncertain. Of those with one key that were not, the newest takes the place of the oldest. No bound is applied:
        what was accepted stays accepted.

        Args:
            entries: In the order accepted, or of the places they took. Those marked as written may have been, and so
                may those that are to be sent again.
        """
        entries = list(entries)
        ends = [(entry, Fate(entry.fate)) for entry in entries if entry.fate is not None]
        for entry in _judged([entry for entry in entries if entry.fate is None]):
            self._position += 1
            entry.position = self._position
            if entry.written and not entry.resend:
                ends.append((entry, Fate.UNCERTAIN))
                continue
            if entry.written:
                self._ahead += 1
                self._resent_queue.append(entry)
                self._resent_size += entry.size
                continue
            replaced = self._lanes.keyed(entry.key)
            if replaced is None:
                self._ahead += 1
                self._lanes.append(entry)
            else:
                self._lanes.replace(replaced, entry)
                if entry.position == replaced.position:
                    entry.place = replaced.place if replaced.place is not None else replaced.record
                ends.append((replaced, Fate.EVICTED))
        for _, fate in ends:
            self.uncertain += fate is Fate.UNCERTAIN
            self.evicted += fate is Fate.EVICTED
            self.expired += fate is Fate.EXPIRED
        if any(entry.ends >= ENDS_IN_A_ROW for entry in self._resent):
            self._send_singly(singly=True)
        return ends

    def expire(self, now: float) -> list[Entry]:
        """Remove and return the messages that have waited past their time, the earliest first."""
        due = self._lanes.expire(now)
        self._ahead -= len(due)
        self.expired += len(due)
        return due

    @property
    def next_expiry(self) -> float | None:
        """When `expire` has something to do next, in seconds of the caller's clock; `None` = never."""
        return self._lanes.next_expiry()

    # ------------------------------------------------------------------------------------------ writing

    def connected(self, *, confirming: bool) -> None:
        """Note that a connection is open; `lost` was called for the one before.

        Args:
            confirming: Whether written messages are kept until a PONG covers them; else written is confirmed.
        """
        self._confirming = confirming
        self._unconfirmed.begin(self._position)

    def write_through(self, message: Message, size: int, now: float) -> bool:
        """Accept a plain message as written already, if it has to wait for nothing.

        Args:
            message: `str`, or immutable `bytes`.
            size: Bytes of its payload, 0 to `max_bytes`.
            now: Seconds of the caller's clock; one object for many messages is faster than equal ones.

        Returns:
            Whether it was accepted. If so, the caller hands it to the socket before anything else; if not, nothing
            has changed: no connection is open, something waits, or the bounds for the unconfirmed are reached.
        """
        unconfirmed = self._unconfirmed
        items = unconfirmed.items
        total = unconfirmed.size + size
        if self._ahead or total > self._max_bytes or len(items) >= unconfirmed.limit:
            return False
        if self._confirming:
            if now is not unconfirmed.now:
                unconfirmed.stamp(now)
            items.append(message)
            unconfirmed.size = total
        else:
            self._confirmed += 1
        return True

    def open(self, lane: FastLane, now: float, limit: int) -> None:
        """Open `lane` for as many plain messages as it has left, if they fit; `settle` follows before anything else.

        Args:
            lane: A closed one.
            now: As for `write_through`.
            limit: How many bytes may be sent.
        """
        if self._ahead:
            return
        if not self._confirming:
            self.settle()
            lane.counted, lane.limit = self._unkept, min(limit, self._max_bytes)
            return
        unconfirmed = self._unconfirmed
        if unconfirmed.limit - len(unconfirmed.items) < lane.left:
            return
        if now is not unconfirmed.now:
            unconfirmed.stamp(now)
        lane.counted, lane.limit = unconfirmed, min(unconfirmed.size + limit, self._max_bytes)

    def settle(self) -> None:
        """Take over the counts of a closed lane: its messages are written."""
        if self._unkept.items:
            self._confirmed += len(self._unkept.items)
            self._unkept.clear()

    def take_back(self, messages: Sequence[Message], now: float) -> list[Entry]:
        """Make the last plain messages pending again: they counted as written, but no byte of them was.

        Returns:
            What was evicted for them.
        """
        self.settle()
        if self._confirming:
            accepted = self._unconfirmed.unwind(len(messages))
        else:
            self._confirmed -= len(messages)
            accepted = [(message, now) for message in messages]
        evicted: list[Entry] = []
        for message, then in accepted:
            size = _size_of(message)
            expires_at = inf if self._ttl is None else then + self._ttl
            entry = Entry(message, size, then, self._unconfirmed.resends, expires_at=expires_at)
            evicted += self.accept(entry)
        return evicted

    def doubt(self, messages: Sequence[Message], now: float) -> None:
        """Note that the last plain messages, counted as confirmed with confirmation off, may not have been written.

        They count as unconfirmed instead, until `lost`, which has to follow.
        """
        self._confirmed -= len(messages)
        for message in messages:
            self._unconfirmed.append(Entry(message, _size_of(message), now, self._unconfirmed.resends))

    def retract(self, size: int) -> None:
        """Take the last `write_through`, of `size` bytes, back: the socket did not take it."""
        if self._confirming:
            self._unconfirmed.items.pop()
            self._unconfirmed.size -= size
        else:
            self._confirmed -= 1

    @property
    def has_hand(self) -> bool:
        """Whether a message was taken and is neither written nor put back."""
        return self._hand is not None

    def fits(self, size: int) -> bool:
        """Return whether a message may be written now: a connection is open, and the unconfirmed are within their bounds.

        One message of any size fits while none is in flight.
        """
        unconfirmed = self._unconfirmed
        if len(unconfirmed.items) >= unconfirmed.limit:
            return False
        return unconfirmed.size + size <= self._max_bytes or not unconfirmed.count

    def take(self) -> Entry | None:
        """Take the next message in hand, to be written; `written` or `untake` follows.

        Deadlines are not looked at: `expire` comes first.

        Returns:
            `None` if nothing waits or the next message does not fit.
        """
        assert self._hand is None, "the message taken before is neither written nor put back"
        if self._singly and self._confirming:
            if self._unconfirmed.count:
                return None
            if not self._resent:
                self._send_singly(singly=False)
        entry = self.next
        if entry is None or not self.fits(entry.size):
            return None
        if entry.written:
            self._resent_queue.popleft()
            self._resent_size -= entry.size
        else:
            self._lanes.pop(entry)
        self._hand = entry
        return entry

    def untake(self) -> None:
        """Put the current message back in front: no byte of it was written.

        For this one message the bounds of what waits may be passed.
        """
        entry = self._release()
        self._ahead += 1
        if entry.written:
            self._resent_queue.appendleft(entry)
            self._resent_size += entry.size
        else:
            self._lanes.put_back(entry)

    def written(self) -> Entry | None:
        """Note that the current message was handed to the socket completely.

        Returns:
            The entry if it counts as confirmed at once, because confirmation is off; else `None`.
        """
        entry = self._release()
        if not self._confirming:
            self._confirmed += 1
            return entry
        self._unconfirmed.append(entry)
        return None

    # ------------------------------------------------------------------------------------------ confirming

    @property
    def needs_ping(self) -> bool:
        """Whether a ping should go out at once: half of a bound is reached, and it would cover something new."""
        unconfirmed = self._unconfirmed
        if not unconfirmed.items:
            return False
        return 2 * unconfirmed.count >= UNCONFIRMED_MESSAGES or 2 * unconfirmed.size >= self._max_bytes

    def mark(self) -> int:
        """Return the mark of a ping that is sent now: it covers what was written whole until now."""
        return self._unconfirmed.mark(self._position)

    def confirm(self, mark: int) -> Sequence[Entry]:
        """Confirm the messages covered by the ping `mark`, whose PONG arrived, and by earlier pings.

        A mark of an earlier connection, or one that was confirmed already, confirms nothing.

        Returns:
            Those of the confirmed that have a token or a record.
        """
        count, watched = self._unconfirmed.confirm(mark)
        self._confirmed += count
        return watched

    @property
    def written_so_far(self) -> int:
        """How many messages have been written, for `confirm_first`; one that is in hand counts."""
        return self._unconfirmed.written + (self._hand is not None)

    def confirm_first(self, written: int) -> Sequence[Entry]:
        """Confirm the first `written_so_far` messages: the peer has replied to the last of them.

        Returns:
            Those of the confirmed that have a token or a record.
        """
        if not self._confirming:
            return ()
        count, watched = self._unconfirmed.confirm_first(written)
        self._confirmed += count
        return watched

    def turn_off(self) -> Sequence[Entry]:
        """Turn confirmation off for this connection: written messages count as confirmed.

        Returns:
            Those that have a token or a record.
        """
        watched = self._unconfirmed.watched()
        self._confirmed += self._unconfirmed.count
        self._unconfirmed.forget()
        self.connected(confirming=False)
        return watched

    def let_go(self, size: int) -> Sequence[Entry]:
        """Give up the confirmation of the oldest written messages until one of `size` bytes may be written.

        It stops early, without room, at a message that is to be sent again if it gets lost. Those given up are
        counted as `unverified`.

        Returns:
            Those that have a token or a record.
        """
        watched: list[Entry] = []
        unconfirmed = self._unconfirmed
        while unconfirmed.count and not self.fits(size) and not unconfirmed.oldest_resends():
            entry = unconfirmed.pop()
            self.unverified += 1
            if entry.watched:
                watched.append(entry)
        return watched

    # ------------------------------------------------------------------------------------------ ends

    def lost(self, *, poison: bool = False, suspect: bool = False) -> Loss:
        """Note the end of the connection: messages in flight become uncertain, or are put in front to be resent.

        A message still in hand counts as written; if no byte of it was, `untake` comes first.

        Args:
            poison: Whether the peer said that it cannot take what we sent: then nothing is sent again, since it
                might end every connection.
            suspect: Whether a message may have ended it. After two such ends in a row what is sent again goes one by one,
                each confirmed before the next; a message that was alone is given up after `max_resends`.
        """
        again: list[Entry] = []
        uncertain: list[Entry] = []
        entries = self._take_unconfirmed()
        self._ends_in_a_row = self._ends_in_a_row + 1 if suspect else 0
        known = suspect and len(entries) == 1
        if known:
            for entry in self._resent:
                entry.ends = 0  # it was only in flight with the one that is known now
        for entry in entries:
            entry.ends += suspect
            given_up = known and entry.ends > self._max_resends
            (again if entry.resend and not (poison or given_up) else uncertain).append(entry)
        self.suspects = suspect and any(entry.resend for entry in entries)
        if again and self._ends_in_a_row >= ENDS_IN_A_ROW:
            self._send_singly(singly=True)
        for entry in again:
            entry.written = True
            self._resent_size += entry.size
        if again:
            self._resent_queue.extendleft(reversed(again))
        self._ahead += len(again)
        self.uncertain += len(uncertain)
        return Loss(uncertain, len(again))

    def _send_singly(self, *, singly: bool) -> None:
        self._ahead += singly - self._singly
        self._singly = singly
        self._ends_in_a_row = 0

    def resent(self) -> list[Entry]:
        """Return the messages that will be resent, in order."""
        return list(self._resent)

    def close(self, *, keep: bool = False) -> Remains:
        """Remove and return all that is left at the end of the client. The current message counts as written.

        Args:
            keep: Whether what is to be sent, or sent again, goes on waiting, since a store has it for another time.
        """
        if keep:
            return Remains([], self.lost().uncertain)
        uncertain = [*self._take_unconfirmed(), *self._resent]
        abandoned = self._lanes.in_order()
        self.uncertain += len(uncertain)
        self.abandoned += len(abandoned)
        self._lanes = Lanes()
        self._resent = ()
        self._resent_size = 0
        self._ahead = 0
        self._singly = False
        return Remains(abandoned, uncertain)

    def _take_unconfirmed(self) -> list[Entry]:
        entries = self._unconfirmed.clear()
        if self._hand is not None:
            entries.append(self._release())
        for entry in entries:
            entry.sent += 1
        self._confirming = False
        return entries

    def _release(self) -> Entry:
        entry = self._hand
        assert entry is not None, "no message was taken"
        self._hand = None
        self._ahead -= 1
        return entry


def _size_of(message: Message) -> int:
    return len(message.encode()) if isinstance(message, str) else len(message)


def _judged(entries: list[Entry]) -> list[Entry]:
    """Set `written` to whether each one may have been written, as far as their order tells more than the marks do.

    Within a priority they were written in order, but for one with a key, which may have taken an earlier place.
    """
    stopped: set[int] = set()  # priorities in which one was surely not written
    for entry in entries:
        if not entry.written and not entry.resend:
            stopped.add(entry.priority)
        elif entry.key is None and entry.priority in stopped:
            entry.written = False
    reached: set[int] = set()  # priorities in which a later one may have been written
    for entry in reversed(entries):
        if entry.resend and entry.priority in reached and entry.key is None and entry.expires_at == inf:
            entry.written = True  # others are not written before the file says that they may have been
        if entry.written and entry.key is None:
            reached.add(entry.priority)
    return entries
