# SPDX-License-Identifier: GPL-2.0-or-later
"""What groups would be if some facts of a machine were others: computed by the model, never observed."""
