"""The exceptions that distreid raises on purpose.

    DistreidError            its text is one line: where, what, and what to do
    └── UserError            the user can mend it: exit status 2, no traceback
        ├── OptionError      an option's value, or two options that exclude each other
        ├── LaunchError      the environment that torchrun or the user set for this process
        ├── DataError        the images, a folder layout, a CSV manifest
        │   └── ImageError   one image: its row and path
        ├── CheckpointError  the checkpoint file, or a model that does not fit it
        └── StoreError       the output folder: incomplete, damaged, or of another run

Anything else that escapes is a fault of distreid: exit status 1, with its traceback.
"""

from __future__ import annotations


class DistreidError(Exception):
    """The root of the tree."""


class UserError(DistreidError):
    """Something that the user can mend."""


class OptionError(UserError):
    """An option's value cannot be used."""


class LaunchError(UserError):
    """The environment describes no usable process group."""


class DataError(UserError):
    """The images or their description cannot be used."""


class ImageError(DataError):
    """One image cannot be read."""


class CheckpointError(UserError):
    """The checkpoint cannot be used."""


class StoreError(UserError):
    """The output folder cannot be used."""
