# SPDX-License-Identifier: GPL-2.0-or-later
"""The judgement: who should have a group, how the kernel's groups differ from the expected ones, and why."""
