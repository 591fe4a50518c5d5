# SPDX-License-Identifier: GPL-2.0-or-later
"""The daemon: it keeps the answer of a check current, and serves it."""
