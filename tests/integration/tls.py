"""Certificates for tests, made once per run: an authority, what it signed, and what a client thinks of it."""

import functools
import ssl
from datetime import UTC, datetime

import trustme

HOSTS = ("localhost", "127.0.0.1")


@functools.cache
def authority() -> trustme.CA:
    """The authority that `trusting` trusts."""
    return trustme.CA()


def serving(certificate: trustme.LeafCert) -> ssl.SSLContext:
    """Return the context of a server with this certificate."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(context)
    return context


@functools.cache
def good() -> ssl.SSLContext:
    """The context of a server that is what it says it is."""
    return serving(authority().issue_cert(*HOSTS))


@functools.cache
def expired() -> ssl.SSLContext:
    """The context of a server whose certificate has expired."""
    return serving(authority().issue_cert(*HOSTS, not_after=datetime(2020, 1, 1, tzinfo=UTC)))


@functools.cache
def elsewhere() -> ssl.SSLContext:
    """The context of a server with the certificate of another one."""
    return serving(authority().issue_cert("elsewhere.example"))


@functools.cache
def self_signed() -> ssl.SSLContext:
    """The context of a server that nobody vouches for."""
    return serving(trustme.CA().issue_cert(*HOSTS))


@functools.cache
def trusting() -> ssl.SSLContext:
    """The context of a client that trusts the authority."""
    context = ssl.create_default_context()
    authority().configure_trust(context)
    return context
