"""The calls of probed functions that run, in a table that a target's trampolines share.

A call is known by its *frame*, the address of its return address: no two running calls have the
same one, in whatever threads, coroutines or handlers. The table has *buckets*, a line each, of
``WAYS`` *tags*: a frame, with the number of the place above its bits; 0: nobody's. A tag is claimed
by ``lock cmpxchg``, since other threads' frames may be in the same bucket, and given back by a
plain store of whom it belongs to. Behind all tags are the *bodies*, one for each.

A frame that is found at an entry is that of a call that was left without returning (``longjmp``, an
exception, a thread that ended): it is counted as unwound, and its tag taken over. So is one that is
found at a return with another return address. Where all ways of a bucket are taken, the call is
counted as one that cannot be followed.
"""

from __future__ import annotations

from typing import Final

import msgspec

from dprobed.arch.x86_64.assembly import RAX, RCX, RDX, Assembly

#: Tags of a bucket, and buckets: as many calls as the trap engine follows at a time.
WAYS: Final = 8
BUCKETS: Final = 1 << 13
TAG_BYTES: Final = 8 * WAYS * BUCKETS
#: A body: where the call returns to, its thread's variables, and what its entry part has kept.
BODY_BYTES: Final = 128
BODY_RETURNS: Final = 0
BODY_THREAD: Final = 8
BODY_KEPT: Final = 16
#: Bytes of a table.
TABLE_BYTES: Final = TAG_BYTES + BODY_BYTES * WAYS * BUCKETS
#: Bits of a tag that are the frame's.
FRAME_BITS: Final = 48
#: Places that can be told apart.
MOST_PLACES: Final = 1 << 16
#: Knuth's multiplier (the golden ratio), which spreads frames over the buckets.
_SPREAD: Final = 0x9E3779B1
_WORD: Final = (1 << 32) - 1


class CallShape(msgspec.Struct, frozen=True):
    """A place whose calls are followed. ``table``: where that is; ``number``: of the place, from 1;
    ``kept``: words that the entry part may keep, or the return part reads; ``returns``: it is a
    return, else the entry."""

    table: int
    number: int
    kept: int
    returns: bool


class CallFrame(msgspec.Struct, frozen=True):
    """Where things are from rsp on, as it is in a trampoline: the frame of the call; where the
    address of its tag goes; the words that are kept; in a probe's control words, those that count
    unwound calls, and those that cannot be followed."""

    frame: int
    slot: int
    kept: int
    unwound: int
    full: int


def claim(made: Assembly, shape: CallShape, frame: CallFrame, control: int) -> None:
    """Note that the call begins; rax, rcx and rdx are clobbered."""
    _bucket(made, shape, frame)
    stale = []
    for way in range(WAYS):
        made.raw(f"48 39 42 {8 * way:02x}")  # cmp [rdx+8*way],rax
        stale.append(made.branch("0f84"))
    made.raw("4889c1")  # mov rcx,rax
    again = len(made)
    made.raw("31c0 483902")  # xor eax,eax; cmp [rdx],rax
    taken = [made.branch("0f85")]
    made.raw("f0480fb10a")  # lock cmpxchg [rdx],rcx
    found = [made.branch("0f84")]
    made.land(taken)
    made.raw("4883c208 f6c23f")  # add rdx,8; test dl,63
    made.back("0f85", again)
    _count(made, control + frame.full)
    ends = [made.branch("e9")]
    made.land(stale)
    again = len(made)
    made.raw("483902")  # cmp [rdx],rax
    there = [made.branch("0f84")]
    made.raw("4883c208")  # add rdx,8
    made.back("e9", again)
    made.land(there)
    _count(made, control + frame.unwound)
    made.land(found)
    _body(made, shape)
    made.load(RAX, frame.frame)
    made.raw("488901")  # mov [rcx+BODY_RETURNS],rax
    made.raw("f3480faec0 48894108")  # rdfsbase rax; mov [rcx+BODY_THREAD],rax
    for word in range(shape.kept):
        made.load(RAX, frame.kept + 8 * word)
        made.raw(f"488941 {BODY_KEPT + 8 * word:02x}")  # mov [rcx+BODY_KEPT+8*word],rax
    made.land(ends)


def find(made: Assembly, shape: CallShape, frame: CallFrame, control: int) -> list[int]:
    """Find the call that is about to return: rcx becomes the address of its body. Branches that are
    taken where it is none that is followed."""
    _bucket(made, shape, frame)
    again = len(made)
    made.raw("483902")  # cmp [rdx],rax
    found = [made.branch("0f84")]
    made.raw("4883c208 f6c23f")  # add rdx,8; test dl,63
    made.back("0f85", again)
    none = [made.branch("e9")]
    made.land(found)
    made.store(frame.slot, RDX)
    _body(made, shape)
    made.load(RAX, frame.frame)
    made.raw("483901")  # cmp [rcx+BODY_RETURNS],rax
    same = [made.branch("0f84")]
    made.raw("48c70200000000")  # mov qword [rdx],0
    _count(made, control + frame.unwound)
    none.append(made.branch("e9"))
    made.land(same)
    return none


def leave(made: Assembly, frame: CallFrame) -> None:
    """The call that was found is followed no more; rdx is clobbered."""
    made.load(RDX, frame.slot)
    made.raw("48c70200000000")  # mov qword [rdx],0


def _bucket(made: Assembly, shape: CallShape, frame: CallFrame) -> None:
    """rax becomes the tag of the call, rdx the address of its bucket; rcx is clobbered."""
    made.lea(RAX, frame.frame)
    made.raw("89c1 c1e904 69c9")  # mov ecx,eax; shr ecx,4; imul ecx,ecx,_SPREAD
    made.bytes.extend(_SPREAD.to_bytes(4, "little"))
    made.raw("81c1")  # add ecx, what is the place's own
    made.bytes.extend((shape.number * _SPREAD & _WORD).to_bytes(4, "little"))
    made.raw("c1e913 c1e106")  # shr ecx,32-13; shl ecx,6
    made.constant(RDX, shape.table)
    made.raw("4801ca")  # add rdx,rcx
    made.constant(RCX, shape.number << FRAME_BITS)
    made.raw("4831c8")  # xor rax,rcx


def _body(made: Assembly, shape: CallShape) -> None:
    """rcx becomes the address of the body of the tag at rdx; rax is clobbered."""
    made.constant(RAX, shape.table)
    made.raw("4889d1 4829c1 48c1e104")  # mov rcx,rdx; sub rcx,rax; shl rcx,4
    made.raw("488d8c01")  # lea rcx,[rcx+rax+TAG_BYTES]
    made.number(TAG_BYTES)


def _count(made: Assembly, address: int) -> None:
    made.constant(RAX, address)
    made.raw("f048ff00")  # lock inc qword [rax]
