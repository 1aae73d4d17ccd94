"""The transport that uses aiohttp."""
