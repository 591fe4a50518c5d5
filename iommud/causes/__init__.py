# SPDX-License-Identifier: GPL-2.0-or-later
"""Why groups are wrong: hypotheses, each replayed and named only if it gives exactly what is seen."""
