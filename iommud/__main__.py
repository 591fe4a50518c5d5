# SPDX-License-Identifier: GPL-2.0-or-later
"""``python -m iommud``: the same program as the ``iommud`` command."""

from iommud.cli import main

if __name__ == "__main__":
    main()
