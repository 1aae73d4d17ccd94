"""The decisions: life of a client, retries, dial slots, heartbeat, delivery. No loop, clock, random or network."""
