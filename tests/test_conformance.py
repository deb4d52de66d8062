"""The conformance suite on every backend there is, and on one that is wrong: there it must fail."""

from __future__ import annotations

from pathlib import Path

import pytest
from object_server import CREDENTIALS, GIVEN, make_bucket

from toolkit.store.backend import Backend, LocalBackend
from toolkit.store.backend import backend as open_backend
from toolkit.store.conformance import BackendConformance, StoreConformance, check_backend


class InFolders:
    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    def open(self, place: str) -> Backend:
        return LocalBackend(self.folder / place)


class InMemory:
    @pytest.fixture(autouse=True)
    def _place(self) -> None:
        pytest.importorskip("obstore", reason="obstore is not installed (the extra 'remote')")

    def open(self, place: str) -> Backend:
        return open_backend(f"memory://conformance/{place}")


class OnServer:
    @pytest.fixture(autouse=True)
    def _place(self, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in CREDENTIALS.items() if not GIVEN else ():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_ENDPOINT_URL", server)
        self.bucket = make_bucket(server)

    def open(self, place: str) -> Backend:
        return open_backend(f"s3://{self.bucket}/{place}")


class TestBackendInFolders(InFolders, BackendConformance):
    pass


class TestBackendInMemory(InMemory, BackendConformance):
    pass


class TestBackendOnServer(OnServer, BackendConformance):
    pass


class TestStoreInFolders(InFolders, StoreConformance):
    pass


class TestStoreInMemory(InMemory, StoreConformance):
    pass


class TestStoreOnServer(OnServer, StoreConformance):
    pass


class Overwrites(LocalBackend):
    """Its `create` does not mind what is there."""

    def create(self, key: str, data: bytes) -> None:
        self.write(key, data)
        self.flush()


def test_a_backend_whose_create_overwrites_fails(tmp_path: Path) -> None:
    with pytest.raises(AssertionError) as failed:
        check_backend(lambda place: Overwrites(tmp_path / place))
    broken = str(failed.value).splitlines()
    assert broken[0] == "2 laws do not hold:"
    assert broken[1].startswith("a key is created once: AssertionError: create('a/key', b'second') gave None")
    assert broken[2].startswith("of many that create one key exactly one succeeds: ")


def test_a_right_backend_passes_outside_of_pytest_too(tmp_path: Path) -> None:
    check_backend(lambda place: LocalBackend(tmp_path / place))
