"""Frames moved by aiohttp."""
