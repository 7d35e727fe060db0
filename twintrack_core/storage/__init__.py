"""Folders of stores, on this machine or behind a URL: one way to read, list, write and lock them."""

from __future__ import annotations

from twintrack_core.storage.folder import Entry, File, Folder, copy_files, new_folder, open_folder, output_folder
from twintrack_core.storage.metadata import read_json

__all__ = ["Entry", "File", "Folder", "copy_files", "new_folder", "open_folder", "output_folder", "read_json"]
