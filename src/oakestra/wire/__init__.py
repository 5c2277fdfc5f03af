"""Bytes <-> model, without I/O. Every name and quirk of a protocol lives here and only here."""
