"""Frames moved by picows."""
