"""aiohttp's next line, tried before it is there: aiohttp 3.15 makes its connections with aiofastnet where it can be imported.

It calls ``aiofastnet.create_connection(loop, ...)`` and ``aiofastnet.start_tls(loop, ...)`` in the two places where 3.14
calls the methods of the loop. Here the connector of aiohttp 3.14 sees a loop on which those two methods are aiofastnet's,
and everything else is as it was.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import TCPConnector

IS_BUILT_IN = tuple(int(part) for part in aiohttp.__version__.split(".")[:2]) >= (3, 15)


class _Seen:
    """Another object, but for some attributes."""

    def __init__(self, real: Any, **replaced: Any) -> None:
        self._real = real
        self.__dict__.update(replaced)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def use_aiofastnet(patch: pytest.MonkeyPatch) -> None:
    """Let aiohttp connect with aiofastnet; does nothing where this aiohttp does so by itself."""
    if IS_BUILT_IN:
        return
    import aiofastnet

    def over(original: Callable[..., Any]) -> Callable[..., Any]:
        async def method(connector: TCPConnector, *args: Any, **options: Any) -> Any:
            loop = asyncio.get_running_loop()
            seen = _Seen(
                loop,
                create_connection=functools.partial(aiofastnet.create_connection, loop),
                start_tls=functools.partial(aiofastnet.start_tls, loop),
            )
            return await original(_Seen(connector, _loop=seen), *args, **options)

        return method

    for name in "_wrap_create_connection", "_wrap_existing_connection", "_start_tls_connection":
        patch.setattr(TCPConnector, name, over(getattr(TCPConnector, name)))
