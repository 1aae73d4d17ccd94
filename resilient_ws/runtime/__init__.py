"""One running client: supervisor, attempts, callbacks, events, reporting."""
