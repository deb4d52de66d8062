"""The laws of a backend."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from toolkit.store.backend import Backend
from toolkit.store.files import StoreError

RIVALS = 6  # that create one key at the same time
ROUNDS = 20
LIMIT = 1 << 20
KEYS = 1010  # more than one page of a listing
BAD_KEYS = ("", "/a", "a/", "a//b", "..", "../a", "a/../b", "a/..", ".", "./a", "a/./b", "a\\b", "a\0b")


def must(holds: bool, otherwise: str) -> None:
    """Raise AssertionError saying `otherwise`, also where assert statements are switched off."""
    if not holds:
        raise AssertionError(otherwise)


def raises(kind: type[Exception], action: Callable[..., Any], *given: Any, **named: Any) -> None:
    """Raise AssertionError unless `action` raises `kind`."""
    try:
        found = action(*given, **named)
    except kind:
        return
    except Exception as error:
        raise AssertionError(f"{action.__name__} raised {error!r}; expected {kind.__name__}") from error
    raise AssertionError(f"{action.__name__}{given} gave {found!r:.80}; expected {kind.__name__}")


def fresh(law: str) -> str:
    """A place nobody used before."""
    return f"{law}-{secrets.token_hex(6)}"


class BackendConformance:
    """Subclass it and define `open`; pytest collects the laws."""

    def open(self, place: str) -> Backend:
        """A backend on the place of this name; made at need."""
        raise NotImplementedError("define open(place); see toolkit.store.conformance")

    def test_what_is_written_is_read(self) -> None:
        backend = self.open(fresh("written"))
        values = {"one": b"1", "empty": b"", "deep/er": bytes(range(256)) * 9, "big": secrets.token_bytes(3 << 20)}
        for key, value in values.items():
            backend.write(key, value)
        backend.flush()
        for key, value in values.items():
            must(backend.read(key, limit=4 << 20) == value, f"{key} is not what was written")
            must(backend.size(key) == len(value), f"{key} has size {backend.size(key)}; expected {len(value)}")
        read = backend.read_many(list(values), limit=4 << 20)
        must(read == list(values.values()), "read_many does not give the values in the order of the keys")
        must(list(backend.read_many([], limit=LIMIT)) == [], "read_many of no keys gives something")
        backend.write_many({f"many/{key}": value for key, value in values.items()})
        backend.write_many({})
        read = backend.read_many([f"many/{key}" for key in values], limit=4 << 20)
        must(read == list(values.values()), "write_many did not write what was given")

    def test_writing_again_replaces_the_whole_value(self) -> None:
        backend = self.open(fresh("replaced"))
        for value in (b"long" * 1000, b"short", b""):
            backend.write("a/key", value)
            must(backend.read("a/key", limit=LIMIT) == value, "an old value, or a part of it, is still there")

    def test_what_is_absent_is_said_to_be(self) -> None:
        backend = self.open(fresh("absent"))
        must(backend.names() == [] and backend.sizes() == {}, "a new place is not empty")
        backend.write("there/key", b"1")
        for key in ("none", "there/none", "there/key/below", "none/below"):
            raises(FileNotFoundError, backend.read, key, limit=LIMIT)
            must(backend.size(key) is None, f"{key} is absent but has a size")
            must(backend.age(key) is None, f"{key} is absent but has an age")
            backend.delete(key)
            must(backend.names(key) == [] and backend.sizes(key) == {}, f"{key} is absent but holds something")
        raises(FileNotFoundError, backend.read_many, ["there/key", "none"], limit=LIMIT)
        must(backend.read("there/key", limit=LIMIT) == b"1", "deleting absent keys touched another")

    def test_ranges_are_parts_of_the_value(self) -> None:
        backend = self.open(fresh("ranges"))
        value = bytes(range(100))
        backend.write("key", value)
        backend.write("empty", b"")
        inside = ((0, 100), (0, 1), (7, 20), (99, 1), (30, 0), (0, None), (60, None))
        for start, size in (*inside, (90, 20), (0, 500), (100, 5), (200, 1)):
            expected = value[start:] if size is None else value[start : start + size]
            found = backend.read("key", limit=LIMIT, start=start, size=size)
            must(found == expected, f"{size} bytes from byte {start} of 100 gave {len(found)} bytes: {found[:9]!r}...")
        must(backend.read("empty", limit=LIMIT, start=0, size=4) == b"", "a range of an empty value is not empty")
        raises(FileNotFoundError, backend.read, "none", limit=LIMIT, start=3, size=4)

    def test_no_more_than_the_limit_is_read(self) -> None:
        backend = self.open(fresh("limit"))
        backend.write("key", b"x" * 100)
        must(len(backend.read("key", limit=100)) == 100, "a value of exactly the limit must be read")
        must(len(backend.read("key", limit=10, start=5, size=10)) == 10, "a range of the limit must be read")
        must(len(backend.read("key", limit=10, start=95, size=50)) == 5, "the limit is on what is there to be read")
        raises(StoreError, backend.read, "key", limit=99)
        raises(StoreError, backend.read, "key", limit=10, start=5, size=11)
        raises(StoreError, backend.read, "key", limit=10, start=50)
        raises(StoreError, backend.read_many, ["key"], limit=99)

    def test_a_key_is_created_once(self) -> None:
        backend = self.open(fresh("created"))
        backend.create("a/key", b"first")
        raises(FileExistsError, backend.create, "a/key", b"second")
        must(backend.read("a/key", limit=LIMIT) == b"first", "creating again changed the value")
        raises(FileExistsError, backend.create, "a/key", b"first")
        backend.write("written", b"1")
        raises(FileExistsError, backend.create, "written", b"2")
        backend.delete("a/key")
        backend.create("a/key", b"third")
        must(backend.read("a/key", limit=LIMIT) == b"third", "what was deleted can be created again")

    def test_of_many_that_create_one_key_exactly_one_succeeds(self) -> None:
        place = fresh("rivals")
        rivals = [self.open(place) for _ in range(RIVALS)]
        start = threading.Barrier(RIVALS)

        def create(number: int, key: str) -> bool:
            start.wait()
            try:
                rivals[number].create(key, f"{number}".encode() * 1000)
            except FileExistsError:
                return False
            return True

        with ThreadPoolExecutor(RIVALS) as pool:
            for turn in range(ROUNDS):
                key = f"commits/{turn:020d}.json"
                won = [n for n, done in enumerate(pool.map(create, range(RIVALS), [key] * RIVALS)) if done]
                must(len(won) == 1, f"{len(won)} of {RIVALS} created one key; expected exactly one")
                found = rivals[0].read(key, limit=LIMIT)
                must(found == f"{won[0]}".encode() * 1000, "the value is not of the one that succeeded")

    def test_readers_see_whole_values_while_they_are_replaced(self) -> None:
        place = fresh("whole")
        writer, reader = self.open(place), self.open(place)
        values = [bytes([letter]) * size for letter, size in ((65, 200_000), (66, 150_000))]
        writer.write("key", values[0])
        stop = threading.Event()

        def replace() -> None:
            while not stop.is_set():
                for value in values:
                    writer.write("key", value)

        thread = threading.Thread(target=replace)
        thread.start()
        try:
            for _ in range(40):
                found = reader.read("key", limit=LIMIT)
                must(found in values, f"a reader saw {len(found)} bytes that nobody wrote")
        finally:
            stop.set()
            thread.join()

    def test_listings_are_complete_sorted_and_by_folder(self) -> None:
        backend = self.open(fresh("listing"))
        keys = ["top", "a/b/c", "a/b/d", "a/bc", "ab/c", "a/.x.partial", "segments/01J/obs/x_y-1/c/0/0", "b.json"]
        for key in keys:
            backend.write(key, key.encode())
        must(list(backend.sizes()) == sorted(keys), f"sizes lists {list(backend.sizes())}; expected {sorted(keys)}")
        must(backend.sizes("a/b") == {"a/b/c": 5, "a/b/d": 5}, f"sizes of a/b are {backend.sizes('a/b')}")
        must(list(backend.sizes("a")) == ["a/.x.partial", "a/b/c", "a/b/d", "a/bc"], f"{list(backend.sizes('a'))}")
        must(backend.names() == ["a", "ab", "b.json", "segments", "top"], f"names are {backend.names()}")
        must(backend.names("a") == [".x.partial", "b", "bc"], f"names in a are {backend.names('a')}")
        must(backend.names("segments/01J/obs") == ["x_y-1"], f"names are {backend.names('segments/01J/obs')}")
        backend.delete("a/bc")
        must(backend.names("a") == [".x.partial", "b"], "a deleted key is still listed")

    def test_listings_are_longer_than_one_page(self) -> None:
        backend = self.open(fresh("pages"))
        keys = [f"c/{number:04d}" for number in range(KEYS)]
        backend.write_many(dict.fromkeys(keys, b"1"))
        must(list(backend.sizes("c")) == keys, f"sizes lists {len(backend.sizes('c'))} of {KEYS} keys")
        must(backend.names("c") == [key[2:] for key in keys], f"names lists {len(backend.names('c'))} of {KEYS}")
        must(backend.read_many(keys, limit=1) == [b"1"] * KEYS, "read_many of many keys does not give their values")

    def test_keys_cannot_leave_the_place(self) -> None:
        backend = self.open(fresh("inside"))
        for key in BAD_KEYS:
            raises(ValueError, backend.read, key, limit=LIMIT)
            raises(ValueError, backend.write, key, b"1")
            raises(ValueError, backend.write_many, {key: b"1"})
            raises(ValueError, backend.create, key, b"1")
            raises(ValueError, backend.size, key)
            raises(ValueError, backend.age, key)
            raises(ValueError, backend.delete, key)
            if key:  # the empty prefix is the whole place
                raises(ValueError, backend.sizes, key)
                raises(ValueError, backend.names, key)
        must(backend.sizes() == {}, "a bad key was written")

    def test_places_share_nothing_and_one_place_everything(self) -> None:
        name = fresh("apart")
        one, same, longer = self.open(name), self.open(name), self.open(f"{name}-2")
        one.write("key", b"1")
        one.flush()
        must(same.read("key", limit=LIMIT) == b"1", "two backends on one place do not see the same value")
        must(longer.names() == [] and longer.size("key") is None, "a value is seen from another place")
        same.delete("key")
        must(one.size("key") is None and one.sizes() == {}, "a deletion is not seen")

    def test_age_counts_from_the_last_writing(self) -> None:
        backend = self.open(fresh("age"))
        began = time.monotonic()
        backend.write("key", b"1")
        first = _age(backend)
        time.sleep(1.1)
        second = _age(backend)
        slack = time.monotonic() - began + 2.0  # clocks that count whole seconds
        must(0 <= first <= slack, f"the age of a new value is {first}")
        must(first < second <= slack, f"the age went from {first} to {second} in 1.1 s")
        backend.write("key", b"2")
        third = _age(backend)
        must(third < second, f"writing again took the age from {second} to {third}")

    def test_it_says_where_it_is(self) -> None:
        place = fresh("name")
        backend = self.open(place)
        must(place in backend.name, f"{backend.name!r} does not say which place it is")
        must(backend.local is None or backend.local.name == place, f"its folder is {backend.local}")
        backend.flush()  # nothing written yet: nothing to do


def _age(backend: Backend) -> float:
    found = backend.age("key")
    if found is None:
        raise AssertionError("a value that was written has no age")
    return found
