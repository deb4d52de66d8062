"""Types of flags that several commands share."""

from __future__ import annotations

from typing import Annotated

import tyro

Location = Annotated[str, tyro.conf.arg(metavar="FOLDER|URL")]
"""Where a store or runs are. Not a Path: that would drop a slash of s3://."""
