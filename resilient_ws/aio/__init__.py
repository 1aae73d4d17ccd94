"""Asyncio tools without knowledge of WebSocket: waiters, resuming a task, user code, signals, clocks."""
