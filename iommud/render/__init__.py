# SPDX-License-Identifier: GPL-2.0-or-later
"""Renderers: pure functions from a Report to a string. They choose words and layout and add no judgement."""
