"""Tests in namespaces: run this file with pytest, as root or as an ordinary user.

The plugin comes with nsapi; pytest finds it by itself.
"""

import os
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import nsapi
from nsapi.testing import Sandbox, requires_namespace


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """Stand for any fixture: for a test that runs inside, it is set up inside."""
    path = tmp_path / "page"
    path.write_text("made inside")
    return path


@pytest.mark.namespace("user", "net", "uts", loopback=True, hostname="box")
class TestInside:
    """Each of these tests runs in a pytest of its own, as root of new namespaces."""

    def test_port_80_is_free(self) -> None:
        """Nothing of the host listens here, and root inside may bind it."""
        with socket.create_server(("127.0.0.1", 80)) as server:
            socket.create_connection(server.getsockname()).close()

    def test_no_network_is_reached(self) -> None:
        """There is the loopback, and that is all."""
        assert [name for _, name in socket.if_nameindex()] == ["lo"]

    @pytest.mark.parametrize("name", ["box"])
    def test_who_is_where(self, name: str, page: Path) -> None:
        """Parameters and fixtures are as everywhere."""
        assert (os.uname().nodename, os.getuid(), page.stat().st_uid) == (name, 0, 0)


@requires_namespace("net")
def test_server_and_its_client(netns: nsapi.NamespaceHandle) -> None:
    """The thread of this test is in a net namespace of its own, and so are those that it starts.

    An ordinary user may not do that: his is skipped, and the summary of ``pytest -rs`` says why.
    """
    with ThreadPoolExecutor(1) as pool, socket.create_server(("127.0.0.1", 80)) as server:
        pool.submit(socket.create_connection, server.getsockname()).result().close()
    assert netns.type is nsapi.NamespaceType.NET


def test_program_ends_with_its_test(sandbox: Sandbox) -> None:
    """However the test ends, it is killed and reaped then, with all that it has started in its pid namespace."""
    config = sandbox.config("user", "pid", "mnt")
    program = sandbox.popen(["sh", "-c", "sleep 1000 & echo started; wait"], config=config, stdout=-1, text=True)
    assert program.stdout is not None
    assert program.stdout.readline() == "started\n"


if __name__ == "__main__":
    sys.exit(pytest.main(["-rs", "-p", "no:cacheprovider", __file__]))
