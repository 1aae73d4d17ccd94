"""Servers of other libraries, each a process of its own, that all speak the little protocol."""

from tests.integration.servers.kinds import DEFLATE, FRAGMENTS, KINDS, nginx_before
from tests.integration.servers.process import Place, Server

__all__ = ["DEFLATE", "FRAGMENTS", "KINDS", "Place", "Server", "nginx_before"]
