"""Who may talk to the page's server."""

from __future__ import annotations

import socket

import pytest

from siglip_perception.view.guard import is_own_host


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8710", "localhost:1", "[::1]:8710", "127.0.0.1", "[::1]"]
)
def test_loopback_names_are_this_machine(host: str) -> None:
    assert is_own_host(host, loopback_only=True)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example:8710",
        "127.0.0.1.nip.io:8710",
        "localhost.evil.example",
        "",
        ":8710",
        "192.0.2.7:8710",
    ],
)
def test_a_name_that_was_made_to_point_here_is_not(host: str) -> None:
    assert not is_own_host(host, loopback_only=True)


def test_with_a_token_addresses_and_the_own_name_are_taken_and_other_names_are_not() -> None:
    assert is_own_host("192.0.2.7:8710", loopback_only=False)
    assert is_own_host(f"{socket.gethostname()}:8710", loopback_only=False)
    assert not is_own_host("evil.example:8710", loopback_only=False)
