"""Every constant of the method, with where it comes from.

"Measured" refers to docs/experiments/locate-predict-fuse.md; other sources are named. Lengths are
in shares of the structures' own extent or in pixels and cells, never in millimetres: the method
must not presume what, or whose, body a volume shows.
"""

from __future__ import annotations

# --- Locate

ROOM_AROUND = 0.3
"""Room around the structures on every side of an atlas, as share of the geometric mean of their
extents: what lies beside them is compared, too. Between 24 mm and 0.15 of the largest extent on
five anatomies, which was measured before (docs/experiments/atlas-prior.md)."""

SEARCHED = 2, 4
"""Cells of an atlas that a cell is wide in which a volume is described, and compared, while places
are searched for."""

LEAST_SEEN = 0.5
"""Share of an atlas that must lie within the volume at a place that is searched: volumes may be
cropped to half of the structures."""

PLACES = 3
"""Most similar places that become hypotheses, besides the place in the field of view at which the
support has the structures."""

SAME_PLACE = 0.3
"""Share of the geometric mean extent within which two hypotheses count as one."""

MOST_HYPOTHESES = 3
"""Hypotheses that are registered and predicted, at most."""

PRESENT = 0.5
"""Prior probability from which on a voxel counts as the structure's."""

GREYS = (0.0, 2.0)
"""Weight of a grey value beside a MIND channel; whichever registers support cases better to one
another (docs/experiments/atlas-prior.md)."""

PREDICTED = 0.5
"""Weight of a predicted probability beside a MIND channel in the second registration. With 1 nine
hippocampi lose 0.004 of Dice, with 0.5 nothing; with both a gland that the image alone
misses is found. Measured."""

COARSE = 4
"""Cells of an atlas, along a side, that are compared as one where places are compared."""

COMPARED = 2
"""Cells of an atlas, along a side, that are compared as one where atlases are weighed."""

MORE_SIMILAR, NEARBY = 3.0, 3
"""How much more a more similar atlas counts; cells around a place that are compared for that
(docs/experiments/atlas-prior.md)."""

OTHERS = 2
"""Other cases by which a support case is located in leave-one-out, whose time grows with it."""

# --- Region and scale

ROI_ROOM = 3.4
"""Side of the region, as a multiple of the largest extent of the structures in a slice: what lies
around them shows where they are. With 1.7, and all else the same, 14 prostates have 0.793 for 0.810
and 11 hearts 0.824 for 0.843, though they are seen half as large again. Measured."""

WHOLE = 0.8
"""Share of the slices' longest side from which on a region is the whole slice."""

SIZES = (128, 160, 192, 224, 256)
"""Sides of the image that the encoder sees, in pixels."""

LARGEST = 512
"""The largest side of an image, where all of a slice is predicted: four times the time of 256."""

EXTENT_ROOM = 0.12
"""Share of the structures' height beyond the located ends that is predicted in any case."""

EMPTY_ENDS = 0.06
"""Share of the structures' height beyond the last slice in which anything was found that is
predicted as well."""

# --- Features

STATISTICS_SLICES = 8
"""Slices, spread evenly over the located extent, from which feature statistics are taken."""

COMPONENTS = 96
"""Principal components of the standardised features. With 64, 768 positions and half the training
steps hearts lose 0.011 and prostates 0.009. Measured."""

POSITIONS = 2048
"""Positions of a slice that the mapping network is fitted to, drawn at random."""

MOST_SLICES = 120
"""Support slices that are learned from, over all cases."""

EMPTY_SHARE = 0.25
"""Slices without any structure that are learned from, relative to those with."""

# --- Training

BATCH = 8
PRIOR_GIVEN = 0.6
"""How often a training slice comes with its prior; the head must do without as well. Measured: with
0.85 it leans on the prior, and is worse with it, too."""

POSITION_GIVEN = 0.85
"""How often it comes with its slice position."""

FALSE_PRIOR, MISSING_PRIOR = 0.1, 0.05
"""How often the prior of a structure lies somewhere else, and is missing. Measured."""

PRIOR_SHIFT, PRIOR_SCALE = 0.03, 0.06
"""How far the prior is moved by itself, of the image's side, and its logarithm of scale."""

QUICK = 2.0
"""Learning rate of the head, as a multiple of the option."""

BALANCED = 0.7
"""Share of the steps in which positions near small structures count more
(docs/experiments/other-sets.md)."""

# --- Fuse

CONFIRMED = 0.25
"""Mean probability that the head gives a structure where the prior says that it is: the prior
counts in full from there on, and less below. A structure that the head does not see at all is not
predicted because other patients have it there."""

# --- Correct (measured: docs/experiments/corrections.md)

SUPPORT_AS = 3.0
"""Corrected slices of a volume that count as much in its mapping network as all of the support."""

RELEARN_STEPS, RELEARN_RATE = 20, 1e-2
"""Steps and learning rate of Adam on the head's last layer."""

RELEARN_SHARES = 0.0, 0.5, 1.0
"""Shares of the change of the last layer that are tried; the one stays by which corrected slices
that were left out of the training are predicted best."""

OTHERS_KEPT, REMEMBER = 6, 1.0
"""Slices that were not corrected, spread over the volume, of which the head is to predict what it
predicted before; and the weight of that."""

MARGIN = 0.5
"""Logit from which on a prediction of a known voxel counts as right."""

REACH = 0.25
"""Share of the structures' height at which the error of a corrected slice, applied to the slices
beside it, has faded to 1 / e."""

FAINT = 0.02
"""Share below which an error that has faded is left out."""

KEPT_BYTES = 1 << 30
"""Bytes of encoded slices that stay in memory until a volume is corrected; others are encoded
again."""

# --- Extend

KEPT_SLICES = 32
"""Support slices that a task keeps, over all cases, so that the head does not forget them when a
case is added: 10 MB for an image of 256 pixels."""

EXTENDING, EXTENDING_RATE = 4, 0.5
"""A case is added in so many times fewer training steps, at so many times the learning rate."""
