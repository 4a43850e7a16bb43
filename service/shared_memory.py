"""Tensors in POSIX shared memory of this machine.

A region is read and written through its file descriptor rather than mapped: a client that shrinks the region
under a mapping would end the server with SIGBUS, whereas here it gets an error.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from penstock.errors import (
    AlreadyExistsError,
    InvalidArgumentError,
    NotFoundError,
    OperationError,
    UnavailableError,
    UnsupportedError,
)

_FOLDER = Path("/dev/shm")
_KEY = re.compile(r"/?[A-Za-z0-9_][A-Za-z0-9._-]{0,250}")
_MOST_REGIONS = 256  # each holds a file descriptor


@dataclass(frozen=True, kw_only=True)
class Region:
    """A registered region.

    Attributes:
        name: by which requests know it.
        key: name of the POSIX object.
        offset: where the region begins in the object, in bytes.
        size: its length in bytes.
        descriptor: the opened object.
    """

    name: str
    key: str
    offset: int
    size: int
    descriptor: int


@dataclass(frozen=True)
class Place:
    """Where a tensor lies: a part of a region, in bytes."""

    region: str
    offset: int
    size: int


class SharedMemory:
    """The registered regions.

    Args:
        allowed: whether clients may use shared memory at all.
    """

    def __init__(self, *, allowed: bool) -> None:
        self.allowed = allowed
        self._regions: dict[str, Region] = {}

    def register(self, name: str, key: str, offset: int, size: int) -> None:
        """Open a region that a client made.

        Raises:
            AlreadyExistsError: the name is taken.
            InvalidArgumentError: the key cannot be one, or the object is smaller than the region.
            OperationError: there is no such object, or it may not be opened.
            UnavailableError: there are too many regions.
            UnsupportedError: shared memory is switched off.
        """
        self._check_allowed()
        if name in self._regions:
            raise AlreadyExistsError(f"shared memory region {name[:100]!r} already in manager")
        if not name or not _KEY.fullmatch(key):
            raise InvalidArgumentError(
                f"shared memory region {name[:100]!r} with key {key[:100]!r} cannot be; expected a name, and a key "
                "of letters, digits, '_', '-' and '.', with at most one '/', in front"
            )
        if len(self._regions) >= _MOST_REGIONS:
            raise UnavailableError(f"{_MOST_REGIONS} shared memory regions are registered; unregister some")
        descriptor = _open(key)
        try:
            length = os.fstat(descriptor).st_size
            if size < 1 or offset + size > length:
                raise InvalidArgumentError(
                    f"shared memory region {name[:100]!r} cannot have offset {offset} and byte size {size}: "
                    f"{key!r} has {length} bytes"
                )
        except BaseException:
            os.close(descriptor)
            raise
        self._regions[name] = Region(name=name, key=key, offset=offset, size=size, descriptor=descriptor)

    def unregister(self, name: str) -> None:
        """Forget a region, or all of them for the empty name; an unknown one is no error."""
        self._check_allowed()
        for known in [name] if name else list(self._regions):
            region = self._regions.pop(known, None)
            if region is not None:
                os.close(region.descriptor)

    def status(self, name: str) -> Iterator[Region]:
        """One region, or all of them for the empty name.

        Raises:
            NotFoundError: there is none of that name.
            UnsupportedError: shared memory is switched off.
        """
        self._check_allowed()
        return iter([self._region(name)] if name else list(self._regions.values()))

    def read(self, place: Place) -> bytes:
        """The bytes of a tensor.

        Raises:
            NotFoundError: no such region.
            InvalidArgumentError: the place leaves the region, or the region has shrunk.
        """
        region = self._checked(place)
        data = os.pread(region.descriptor, place.size, region.offset + place.offset)
        if len(data) != place.size:
            raise InvalidArgumentError(f"shared memory region {place.region!r} has shrunk: register it again")
        return data

    def write(self, place: Place, data: bytes, output: str) -> None:
        """Put an output where the client wants it.

        Raises:
            NotFoundError: no such region.
            InvalidArgumentError: the place leaves the region, is too small, or the region has shrunk.
        """
        region = self._checked(place)
        if len(data) > place.size:
            raise InvalidArgumentError(
                f"shared memory size specified with the request for output {output!r} ({place.size} bytes) "
                f"should be at least {len(data)} bytes to hold the results"
            )
        end = region.offset + place.offset + len(data)
        # Writing past the end would make the client's object grow.
        if end > os.fstat(region.descriptor).st_size:
            raise InvalidArgumentError(f"shared memory region {place.region!r} has shrunk: register it again")
        os.pwrite(region.descriptor, data, region.offset + place.offset)

    def check(self, place: Place) -> None:
        """Refuse a place before anything is computed for it; raises as `read` does."""
        self._checked(place)

    def close(self) -> None:
        """Forget all regions."""
        if self.allowed:
            self.unregister("")

    def _checked(self, place: Place) -> Region:
        self._check_allowed()
        region = self._region(place.region)
        if place.offset < 0 or place.size < 0 or place.offset + place.size > region.size:
            raise InvalidArgumentError(
                f"invalid offset {place.offset} and byte size {place.size} for shared memory region "
                f"{place.region!r}, which has {region.size} bytes"
            )
        return region

    def _region(self, name: str) -> Region:
        if name not in self._regions:
            raise NotFoundError(f"unable to find shared memory region {name[:100]!r}: register it first")
        return self._regions[name]

    def _check_allowed(self) -> None:
        if not self.allowed:
            raise UnsupportedError(
                "system shared memory is switched off on this server (PENSTOCK_SYSTEM_SHARED_MEMORY); "
                "send the data in the message"
            )


def _open(key: str) -> int:
    """Open a POSIX shared memory object; no links, no devices."""
    try:
        descriptor = os.open(_FOLDER / key.removeprefix("/"), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise OperationError(f"unable to open shared memory object {key!r} ({error.strerror})") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OperationError(f"unable to open shared memory object {key!r} (it is no regular one)")
    return descriptor
