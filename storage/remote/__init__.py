"""Directories at URLs: a local copy that fetches what is read and uploads what is written."""

from .copies import Download, Transfer, Upload
from .index import Entry, Index
from .mirror import Mirror
from .objects import SCHEMES, Objects, is_url, like_url, normal_url
from .policy import Policy

__all__ = [
    "SCHEMES",
    "Download",
    "Entry",
    "Index",
    "Mirror",
    "Objects",
    "Policy",
    "Transfer",
    "Upload",
    "is_url",
    "like_url",
    "normal_url",
]
