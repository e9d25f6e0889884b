"""Decisions about one request: time, room, order, place, attempts."""
